"""What the evaluate stage scores, with which model, and what it fits on which reviews."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import WORDS, epoch_metrics, tiny_bundle

from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import EvaluateConfig, GateConfig
from sentiment_model.evaluation.evaluate import ChampionModel, OtherChampion
from sentiment_model.evaluation.job import EVALUATE, _seen, read_evaluation, write_evaluation
from sentiment_model.models.bundle import Predictor
from sentiment_model.store.datasets import DatasetWriter, Store
from sentiment_model.store.lineage import StageRecord
from sentiment_model.training.calibration import fit_temperature
from sentiment_model.training.job import HISTORY

CPU = torch.device("cpu")


def reviews(count: int, split: str, first: int, predictor: Predictor, *, right: float) -> pl.DataFrame:
    """Reviews whose labels are what the recurrent part says, but for some."""
    generator = np.random.default_rng(first)
    words = [word for word in WORDS.split() if word.isalpha()]
    texts = [" ".join(generator.choice(words, 8)) for _ in range(count)]
    logits = predictor.predict(pl.Series(texts))["recurrent"].arr.last().to_numpy()
    says = logits > np.median(logits)
    labels = np.where(generator.random(count) < right, says, ~says)
    return pl.DataFrame(
        {
            "review_id": [f"r{i}" for i in range(first, first + count)],
            "source": "shop",
            "group": pl.Series([None] * count, dtype=pl.String),
            "text": texts,
            "label": pl.Series(labels, dtype=pl.Int8),
            "split": split,
            "text_hash": [i.to_bytes(16) for i in range(first, first + count)],
        }
    )


def test_test_reviews_are_scored_by_each_model_and_nothing_is_fitted_on_them(tmp_path: Path) -> None:
    model, champion = tmp_path / "model", tmp_path / "champion"
    tiny_bundle(model)
    description = tiny_bundle(champion, seed=1)
    (model / HISTORY).write_text(f"[{json.dumps(asdict(epoch_metrics(0)))}]")
    predictor = Predictor.load(model)
    parts = {
        "train": reviews(10, "train", 0, predictor, right=1.0),
        "validation": reviews(60, "validation", 100, predictor, right=0.9),
        "test": reviews(80, "test", 200, predictor, right=0.2),
    }
    cleaned = pl.concat([parts[name] for name in ("test", "train", "validation")])
    # The baseline's answers come in an order of their own.
    share = pl.int_range(pl.len()) / 1000
    baseline = cleaned.select("text_hash", probabilities=pl.concat_arr(1 - share, share)).sample(
        fraction=1, shuffle=True
    )

    def write(writer: DatasetWriter) -> dict[str, object]:
        other = ChampionModel(version="4", digest=description.digest, bundle=champion)
        config = EvaluateConfig(bootstrap_samples=100)
        seen = parts["test"].head(3).with_columns(split=pl.Series(["train", "validation", "test"])).lazy()
        return write_evaluation(
            writer, model, [], cleaned.lazy(), baseline.lazy(), other, seen, config, GateConfig(), CPU
        )

    dataset, _ = Store(str(tmp_path / "store")).materialise(EVALUATE, {}, {}, write)
    found = dataset.scan("predictions").collect()
    test, own = parts["test"], predictor.predict(parts["test"]["text"])
    assert found.select("review_id", "label").equals(test.select("review_id", "label"))
    last = {"probability": pl.col("probabilities").arr.last(), "logit": pl.col("logits").arr.last()}
    assert found.select(*last, "n_tokens", "n_unknown").equals(
        own.select(**last, n_tokens="n_tokens", n_unknown="n_unknown")
    )
    others = Predictor.load(champion).predict(test["text"])["probabilities"].arr.last()
    assert (found["champion"] - others).abs().max() < 1e-6
    assert (found["champion"] - found["probability"]).abs().max() > 0.01
    assert found["baseline"].to_list() == pytest.approx([i / 1000 for i in range(80)])

    def temperature(split: pl.DataFrame) -> float:
        logits = predictor.predict(split["text"])["recurrent"].to_numpy()
        return fit_temperature(logits, split["label"].to_numpy())

    fitted = temperature(parts["validation"])
    assert temperature(test) > 2 * fitted  # where labels contradict the logits, no temperature is too high
    logits = np.log(found["recurrent"] / (1 - found["recurrent"]))
    assert logits.to_list() == pytest.approx((own["recurrent"].arr.last() / fitted).to_list(), rel=1e-4, abs=1e-6)

    evaluation, _ = read_evaluation(dataset)
    assert (evaluation.validation.rows, evaluation.test.rows) == (60, 80)
    assert evaluation.temperature == 1.5
    assert evaluation.champion
    assert evaluation.champion.version == "4"
    assert evaluation.champion.seen == 2  # not the one that it was only tested on


def test_a_baseline_is_moved_as_far_as_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_bundle(model)
    (model / HISTORY).write_text(f"[{json.dumps(asdict(epoch_metrics(0)))}]")
    predictor = Predictor.load(model)
    sizes = {"train": 80, "validation": 60, "test": 60}
    parts = [reviews(size, split, 100 * n, predictor, right=1.0) for n, (split, size) in enumerate(sizes.items())]
    labels = pl.Series([1] * 16 + [0] * 64, dtype=pl.Int8)  # one review in five is positive
    cleaned = pl.concat([parts[0].with_columns(label=labels), *parts[1:]])
    baseline = cleaned.select("text_hash", probabilities=pl.concat_arr(pl.lit(0.7), pl.lit(0.3)))
    trained = StageRecord(name="train", fingerprint="f", parameters={"train": {"prior_shift": 1.0}}, counts={})

    def write(writer: DatasetWriter) -> dict[str, object]:
        config = EvaluateConfig(bootstrap_samples=100)
        frames = cleaned.lazy(), baseline.lazy()
        return write_evaluation(writer, model, [trained], *frames, None, None, config, GateConfig(), CPU)

    dataset, _ = Store(str(tmp_path / "store")).materialise(EVALUATE, {}, {}, write)
    found = dataset.scan("predictions").collect()["baseline"]
    assert found.to_list() == pytest.approx([0.3 / 0.2 / (0.3 / 0.2 + 0.7 / 0.8)] * 60)
    with dataset.local_folder() as folder:
        assert "(prior_shift 1)" in (folder / "report.html").read_text()


THREE = Classes(names=("bad", "middling", "good"), ordered=True)


@pytest.mark.parametrize("others", [THREE, BINARY, Classes(names=THREE.names[::-1]), Classes(names=THREE.names)])
def test_a_champion_is_asked_only_if_its_classes_are_the_same(tmp_path: Path, others: Classes) -> None:
    model, champion = tmp_path / "model", tmp_path / "champion"
    tiny_bundle(model, classes=THREE)
    description = tiny_bundle(champion, seed=1, classes=others)
    (model / HISTORY).write_text(f"[{json.dumps(asdict(epoch_metrics(0)))}]")
    predictor = Predictor.load(model)
    parts = [reviews(90, split, n, predictor, right=1.0) for n, split in enumerate(["test", "validation"])]
    cleaned = pl.concat(parts).with_columns(
        label=(pl.int_range(pl.len()) % 3).cast(pl.Int8),
        text_hash=pl.int_range(pl.len()).cast(pl.String).cast(pl.Binary),
    )
    baseline = cleaned.select("text_hash", probabilities=pl.concat_arr(pl.lit(0.5), pl.lit(0.3), pl.lit(0.2)))

    def write(writer: DatasetWriter) -> dict[str, object]:
        other = ChampionModel(version="4", digest=description.digest, bundle=champion)
        config, seen = EvaluateConfig(bootstrap_samples=100), cleaned.clear().lazy()
        return write_evaluation(
            writer, model, [], cleaned.lazy(), baseline.lazy(), other, seen, config, GateConfig(), CPU
        )

    dataset, _ = Store(str(tmp_path / "store")).materialise(EVALUATE, {}, {}, write)
    evaluation, decision = read_evaluation(dataset)
    found, own = dataset.scan("predictions").collect(), predictor.predict(cleaned.head(90)["text"])
    assert found.select("probabilities", "logits").equals(own.select("probabilities", "logits"))
    assert found["recurrent"].arr.sum().to_numpy() == pytest.approx(1)
    assert found["baseline"].to_numpy().tolist() == [[0.5, 0.3, 0.2]] * 90
    assert evaluation.classes == THREE
    (rule,) = (rule for rule in decision.rules if rule.name == "champion")
    if others.names == THREE.names:
        assert evaluation.champion is not None
        assert evaluation.other_champion is None
        assert found["champion"].dtype == found["probabilities"].dtype
    else:
        assert evaluation.champion is None
        assert evaluation.other_champion == OtherChampion(version="4", classes=others)
        assert "champion" not in found.columns
        assert ", ".join(others.names) in rule.reason
        assert not decision.promote
        assert "champion version 4 has other classes." in Path(dataset.files("report")[0]).read_text()


def test_a_champion_of_another_split_has_seen_whole_groups() -> None:
    """Unless the challenger has seen them too, which another group says nothing of."""
    rows = [
        ("one", "a", "test"), ("two", "a", "test"), ("three", "b", "test"), ("four", None, "test"),
        ("five", None, "test"), ("six", "b", "train"), ("seven", "c", "test"), ("eight", "d", "test"),
    ]  # fmt: skip
    cleaned = pl.DataFrame(rows, schema=["text", "group", "split"], orient="row")
    test = cleaned.filter(split="test")
    champion = pl.DataFrame(
        {
            "text": ["one", "four", "five", "six", "not there today", "nor this"],
            "group": [None, None, None, "b", "c", "d"],
            "split": ["train", "validation", "test", "train", "train", "test"],
        }
    )
    assert _seen(test, cleaned.lazy(), champion.lazy()).to_list() == [True, True, False, True, False, True, False]
    # Reviews of a champion from before there were groups.
    without = champion.lazy().drop("group")
    assert _seen(test, cleaned.lazy(), without).to_list() == [True, True, False, True, False, False, False]
    assert _seen(cleaned, cleaned.lazy(), None).null_count() == 8
