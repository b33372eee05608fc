"""Scores of models with other classes than negative and positive: their columns, sums, exports and drift."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from bulk import run_on, score_into
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run
from servers import ROOT, newest_artifact_of_a_flow
from tiny import tiny_bundle

from flows._cli import run_cli
from flows.score import score
from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import DriftConfig, IngestConfig, ScoringRun
from sentiment_model.models.answers import answers, distance_from_another_label
from sentiment_model.models.bundle import ModelDescription, Predictor
from sentiment_model.models.drift import bins, drift, histograms
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring.counts import total
from sentiment_model.scoring.report import shares_message
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.scoring.table import Receipt
from sentiment_model.settings import Settings
from sentiment_model.sources.ingest import write_reviews
from sentiment_model.store.datasets import DatasetWriter

NAMES = ("sehr schlecht", "보통", '<b>"gut"|</b>')
THREE = Classes(names=NAMES, ordered=True)
WORDS = ["a", "film", "that", "is", "good", "bad", "great", "awful", ",", ".", "not"]
OURS = ["label", "confidence", *(f"probability_{name}" for name in NAMES)]


def reviews(rows: int, longest: int = 12, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, random.integers(1, longest))) for _ in range(rows)]
    return pl.DataFrame({"id": range(rows), "text": texts})


def load(folder: Path, classes: Classes, seed: int = 0) -> Predictor:
    tiny_bundle(folder, seed=seed, classes=classes)
    return Predictor.load(folder)


def test_more_than_two_classes_have_a_probability_each(tmp_path: Path) -> None:
    predictor = load(tmp_path / "model", THREE)
    table = reviews(200)
    table.write_parquet(tmp_path / "a.parquet")
    scored = score_into(tmp_path / "table", predictor, run_on(tmp_path / "a.parquet", uncertain_margin=0.05))
    rows = scored.rows()
    assert rows.columns == [
        *table.columns, "row_id", "source_file", "source_row", *OURS, "uncertain", "model_version", "scored_at"
    ]  # fmt: skip
    expected = predictor.predict(table["text"])["probabilities"].to_numpy()
    assert rows.select(OURS[2:]).to_numpy() == pytest.approx(expected, abs=1e-6)
    assert rows["label"].to_list() == [NAMES[number] for number in expected.argmax(axis=1)]
    assert rows["confidence"].to_numpy() == pytest.approx(expected.max(axis=1), abs=1e-6)
    second, first = np.sort(expected, axis=1)[:, 1:].T
    assert rows["uncertain"].to_list() == (first - second < 2 * 0.05).tolist()
    assert 0 < rows["uncertain"].sum() < 200
    assert rows["label"].n_unique() > 1
    counted = scored.counts
    assert counted.labels == {name: int((rows["label"] == name).sum()) for name in NAMES}
    assert counted.uncertain == rows["uncertain"].sum()
    assert {name: len(of) for name, of in counted.histograms.items()} == bins(3)
    assert counted.histograms["label"] == tuple(counted.labels.values())
    assert sum(counted.histograms["confidence"]) == 200


def test_of_two_classes_the_threshold_is_of_the_second(tmp_path: Path) -> None:
    predictor = load(tmp_path / "model", Classes(names=("ham", "spam")))
    reviews(50).write_csv(tmp_path / "a.csv")
    rows = score_into(tmp_path / "table", predictor, run_on(tmp_path / "a.csv")).rows()
    threshold = float(rows["probability"].median() or 0)
    high = score_into(tmp_path / "high", predictor, run_on(tmp_path / "a.csv", threshold=threshold))
    assert high.rows()["label"].to_list() == ["spam" if p >= threshold else "ham" for p in rows["probability"]]
    assert high.rows()["probability"].equals(rows["probability"])
    assert high.counts.labels["ham"] > 0 < high.counts.labels["spam"]
    assert set(high.counts.histograms) == {"probability", "tokens", "unknown_share"}


@given(st.floats(0, 1))
def test_two_classes_are_as_certain_as_three_of_which_one_is_impossible(probability: float) -> None:
    two = answers(pl.Series(np.array([[1 - probability, probability]])), BINARY)
    three = answers(pl.Series(np.array([[1 - probability, 0.0, probability]])), THREE)
    (near,) = two.select(distance_from_another_label(BINARY, 0.5)).to_series()
    (far,) = three.select(distance_from_another_label(THREE, 0.5)).to_series()
    assert near == pytest.approx(far, abs=1e-12)


def test_a_shadow_has_columns_of_its_own(tmp_path: Path) -> None:
    predictor, shadow = load(tmp_path / "model", THREE), load(tmp_path / "shadow", THREE, seed=5)
    table = reviews(60)
    table.write_csv(tmp_path / "a.csv")
    scored = score_into(tmp_path / "table", predictor, run_on(tmp_path / "a.csv"), shadow)
    rows = scored.rows()
    assert rows.columns[-6:] == [*(f"shadow_{name}" for name in OURS), "shadow_version"]
    other = shadow.predict(table["text"])["probabilities"].to_numpy()
    assert rows["shadow_label"].to_list() == [NAMES[number] for number in other.argmax(axis=1)]
    assert rows[f"shadow_probability_{NAMES[1]}"].to_numpy() == pytest.approx(other[:, 1], abs=1e-6)
    assert scored.counts.disagreements == (rows["label"] != rows["shadow_label"]).sum() > 0


def test_columns_whose_names_differ_from_ours_by_case_are_renamed(tmp_path: Path) -> None:
    """Readers like DuckDB take them for ours."""
    given = {"Label": ["mine"], "LABEL": ["too"], "Confidence": [5], f"PROBABILITY_{NAMES[0].upper()}": [7]}
    pl.DataFrame({**given, "probability": ["x"], "text": ["good film"]}).write_parquet(tmp_path / "a.parquet")
    predictor = load(tmp_path / "model", THREE)
    scored = score_into(tmp_path / "table", predictor, run_on(tmp_path / "a.parquet"))
    (path,) = scored.table.paths(scored.receipts)
    row = pl.read_parquet(path).row(0, named=True)
    assert (row["input_Label"], row["input_input_LABEL"], row["input_Confidence"]) == ("mine", "too", 5)
    assert (row[f"input_PROBABILITY_{NAMES[0].upper()}"], row["probability"]) == (7, "x")
    labels = duckdb.sql(f"SELECT label FROM read_parquet('{path}', union_by_name = true)").fetchall()
    assert labels == [(row["label"],)]
    assert row["label"] in NAMES


def test_old_receipts_are_added_to_new_ones() -> None:
    old = {"rows_in": 10, "scored": 9, "positives": 3, "uncertain": 1, "disagreements": 0, "tokens": 90, "unknown": 1}
    old |= {"reasons": {"empty_text": 1}, "examples": {}, "histograms": {}}
    new = {"rows_in": 5, "scored": 5, "labels": {"negative": 1, "positive": 4}}
    found = total(Receipt(shard=str(number), counts=counts) for number, counts in enumerate((old, new, {}, old)))
    assert (found.scored, found.labels) == (23, {"negative": 13, "positive": 10})
    found.check_complete()


@pytest.fixture
def registered(settings_in: Path, prefect_server: None) -> Callable[..., Tracker]:
    """Register models: a name for each, its classes, and a seed."""
    tracker = Tracker(Settings())

    def register(name: str, classes: Classes, seed: int = 0, validated: pl.DataFrame | None = None) -> Tracker:
        folder = settings_in / f"{name}-{seed}"
        tiny_bundle(folder, seed=seed, classes=classes)
        if validated is not None:
            reference = histograms(Predictor.load(folder).predict(validated["text"]))
            tiny_bundle(folder, seed=seed, classes=classes, reference=reference)
        run_id = tracker.start_run("sentiment", f"{name}-{seed}", name="test", params={}, tags={}).run_id
        tracker.registry.register(folder, name, run_id, promote=True, tags={})
        return tracker

    return register


def only_scoring(tracker: Tracker) -> Run:
    experiment = tracker._client.get_experiment_by_name("sentiment-scoring")
    assert experiment
    (run,) = tracker._client.search_runs([experiment.experiment_id])
    return run


def test_the_flow_reports_exports_and_compares_three_classes(
    registered: Callable[..., Tracker], settings_in: Path, caplog: pytest.LogCaptureFixture
) -> None:
    validated = reviews(300)
    tracker = registered("stars", THREE, validated=validated)
    of_one_label = Predictor.load(settings_in / "stars-0").predict(validated["text"])["probabilities"].arr.arg_max()
    moved = validated.filter(of_one_label == of_one_label[0])
    moved.write_csv(settings_in / "a.csv")
    run = run_on(
        settings_in / "a.csv", model_uri="models:/stars@champion", csv=True, to_label=7, drift=DriftConfig(min_rows=20)
    )
    summary: ScoringSummary = score(run)
    rows = pl.read_parquet(summary.scores)
    assert summary.shares == {name: float(name == NAMES[of_one_label[0]]) for name in NAMES}

    logged = only_scoring(tracker).data.metrics
    assert [logged[f"share_{name}"] for name in ("sehr_schlecht", "보통", "b_gut_b")] == list(summary.shares.values())
    assert "positive_share" not in logged
    shown = newest_artifact_of_a_flow("scores")
    assert re.search(r"\| Labelled &lt;b&gt;\"gut\"\\\|&lt;/b&gt; \| [\d.]+% \|", shown)
    assert f"rows with version 1, {shares_message(summary)}; 0 quarantined" in " ".join(caplog.messages)
    assert {"confidence", "label", "tokens", "unknown_share"} == set(summary.drift)
    assert "label" in summary.drifted
    assert summary.drift["label"].ks == pytest.approx(1 - len(moved) / 300)
    assert logged["psi_label"] == pytest.approx(summary.drift["label"].psi)

    exported = pd.read_csv(summary.csv or "")
    assert list(exported["label"]) == rows["label"].to_list()
    assert set(OURS) <= set(exported.columns)

    with Path(summary.to_label or "").open(encoding="utf-8-sig", newline="") as file:
        chosen = pl.DataFrame(list(csv.DictReader(file)))  # polars reads no quotes in a header
    assert chosen.columns == ["row_id", "text", "label", *OURS[2:]]
    top = np.sort(rows.select(OURS[2:]).to_numpy(), axis=1)
    least = rows["row_id"].gather(np.argsort(top[:, 2] - top[:, 1], kind="stable")[:7])
    assert set(chosen["row_id"]) == set(least)
    # What people fill in comes back as labels.
    filled = [*NAMES, NAMES[1].upper(), f" {NAMES[0].upper()} ", None, None]
    chosen.with_columns(label=pl.Series(filled)).write_csv(settings_in / "labelled.csv")
    config = IngestConfig(
        source="files",
        path=str(settings_in / "labelled.csv"),
        columns={"text": "text", "label": "label", "review_id": "row_id"},
        classes=NAMES,
    )
    (settings_in / "out").mkdir()
    write_reviews(DatasetWriter(settings_in / "out"), config)
    back = pl.read_parquet(settings_in / "out" / "*.parquet").sort("review_id")
    expected = chosen.with_columns(pl.Series("number", [0, 1, 2, 1, 0, None, None], pl.Int8())).sort("row_id")
    assert back["review_id"].equals(expected["row_id"])
    assert back["label"].equals(expected["number"])

    assert score(run).reused
    assert f"Nothing new: an earlier run labelled {len(moved)}" in " ".join(caplog.messages)


def test_models_that_do_not_fit_are_refused_before_anything_is_planned(
    registered: Callable[..., Tracker], settings_in: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    registered("stars", THREE)
    registered("turned", Classes(names=NAMES[::-1]))
    registered("sentiment", BINARY)
    reviews(5).write_csv(settings_in / "a.csv")

    def fails(*arguments: str) -> str:
        files = f"--files.path={settings_in / 'a.csv'}"
        assert run_cli(ScoringRun, score, [files, "--model-uri=models:/stars@champion", *arguments]) == 1
        told = capfd.readouterr().err
        assert "Traceback" not in told
        assert not (settings_in / "store").exists()
        (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
        return line

    names = re.escape(", ".join(NAMES))
    assert re.search(
        rf"threshold 0\.7 is for two classes, .*stars.* has 3: {names}; leave it", fails("--threshold=0.7")
    )
    for other in ("sentiment", "turned"):
        assert re.search(
            rf"the classes of shadow_uri models:/{other}/1 .* are not those of models:/stars@champion \({names}\)",
            fails(f"--shadow-uri=models:/{other}/1"),
        )


def test_versions_with_different_classes_are_one_table(registered: Callable[..., Tracker], settings_in: Path) -> None:
    """As README and docs/scoring.md say how to read it."""
    for seed, classes in enumerate((BINARY, THREE)):
        registered("sentiment", classes, seed=seed)
    reviews(40).write_csv(settings_in / "a.csv")
    runs = [run_on(settings_in / "a.csv", model_uri=f"models:/sentiment/{version}") for version in (1, 2)]
    first, second = (pl.read_parquet(score(run).scores) for run in runs)
    table = settings_in / "store" / "scores"
    pattern = f"{table}/scores/**/*.parquet"

    rows = duckdb.sql(f"SELECT * FROM read_parquet('{pattern}', union_by_name = true)").pl()
    assert {*first.columns, *second.columns} <= set(rows.columns)
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scoring.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(script.replace("data/store/scores", str(table)), names)
    for found in (rows, names["scores"].collect()):
        for scored in (first, second):
            of_version = found.filter(pl.col("model_version") == scored["model_version"][0]).sort("row_id")
            columns = [name for name in scored.columns if name != "scored_at"]  # of which DuckDB names the time zone
            assert of_version.select(columns).equals(scored.sort("row_id").select(columns))
    (query,) = re.findall(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    newest = dict(duckdb.sql(query.replace("data/store/scores", str(table))).fetchall())
    assert newest == dict(second["label"].value_counts().iter_rows())


def test_versions_with_different_classes_are_one_delta_table(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    reviews(30).write_csv(tmp_path / "a.csv")
    run = run_on(tmp_path / "a.csv", output_format="delta")
    for seed, classes in enumerate((BINARY, THREE)):
        score_into(tmp_path / "table", load(tmp_path / str(seed), classes, seed), run)
    rows = pl.from_arrow(deltalake.DeltaTable(str(tmp_path / "table" / "delta")).to_pyarrow_table())
    assert isinstance(rows, pl.DataFrame)
    assert rows["row_id"].value_counts()["count"].to_list() == [2] * 30
    assert rows["probability"].count() == rows[f"probability_{NAMES[2]}"].count() == 30
    assert rows["label"].count() == 60


class TestDrift:
    def counted(self, labels: list[int], classes: int = 3) -> dict[str, tuple[int, ...]]:
        """Return histograms of reviews of which so many have each label."""
        numbers = np.repeat(np.arange(len(labels)), labels)
        probabilities = np.full((len(numbers), classes), 0.2 / (classes - 1))
        probabilities[np.arange(len(numbers)), numbers] = 0.8
        return histograms(pl.DataFrame({"probabilities": probabilities}).with_columns(n_tokens=100, n_unknown=1))

    def test_each_label_is_a_group_however_rare(self) -> None:
        found = drift(self.counted([900, 60, 40]), self.counted([90, 0, 10]))["label"]
        # (0.0001 - 0.06) ln(0.0001 / 0.06) + (0.1 - 0.04) ln(0.1 / 0.04)
        assert found.psi == pytest.approx(0.0599 * np.log(600) + 0.06 * np.log(2.5))
        assert found.ks == pytest.approx(0.06)

    def test_the_order_of_the_labels_does_not_matter(self) -> None:
        found = drift(self.counted([50, 30, 20]), self.counted([25, 60, 15]))
        turned = drift(self.counted([20, 50, 30]), self.counted([15, 25, 60]))
        assert found["label"].ks == pytest.approx(0.3) == turned["label"].ks
        assert found["label"].psi == pytest.approx(turned["label"].psi)
        assert found["confidence"].psi == pytest.approx(0)

    def test_of_many_labels_the_rare_ones_are_one_group(self) -> None:
        common, rare, swapped = [100] * 9, list(range(1, 12)), list(range(11, 0, -1))
        same = drift(self.counted([*rare, *common], 20), self.counted([*swapped, *common], 20))["label"]
        assert (same.psi, same.ks) == (pytest.approx(0), pytest.approx(0))
        other = drift(self.counted([*rare, *common], 20), self.counted([*swapped, 200, *common[2:], 0], 20))["label"]
        assert other.ks == pytest.approx(100 / 966)

    def test_chance_is_within_the_limits(self) -> None:
        limits, random = DriftConfig(), np.random.default_rng(0)
        shares = random.dirichlet(np.ones(50))
        for _ in range(50):
            reference = self.counted(random.multinomial(200, shares).tolist(), 50)
            far = drift(reference, self.counted(random.multinomial(1000, shares).tolist(), 50))["label"]
            assert far.psi < limits.max_psi
            assert far.ks < limits.max_ks

    def test_a_reference_is_of_the_classes_of_its_model(self, tmp_path: Path) -> None:
        three = self.counted([5, 3, 2])
        assert tiny_bundle(tmp_path, classes=THREE, reference=three) == ModelDescription.read(tmp_path)
        description = json.loads((tmp_path / "model.json").read_text())
        assert description["reference"]["label"] == [5, 3, 2]


def test_what_is_said_of_many_classes_is_short(tmp_path: Path, registered: Callable[..., Tracker]) -> None:
    registered("many", Classes(names=tuple(f"class {number}" for number in range(30))))
    reviews(100).write_csv(tmp_path / "a.csv")
    summary: ScoringSummary = score(run_on(tmp_path / "a.csv", model_uri="models:/many@champion"))
    said = shares_message(summary)
    assert said.count("% class") == 5
    assert said.endswith("% of 25 other classes")
    assert sum(float(share) for share in re.findall(r"([\d.]+) %", said)) == pytest.approx(100, abs=0.3)
