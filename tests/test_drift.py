"""Drift is judged where there are enough reviews for it, and where there are not, that is said."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bulk import run_on
from tiny import tiny_bundle

from flows.score import score
from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import DriftConfig, ModelConfig, TokenizeConfig, TrainConfig
from sentiment_model.models.bundle import Predictor
from sentiment_model.models.drift import Histograms, bins, drift, histograms, unjudged
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring.report import scoring_markdown
from sentiment_model.scoring.summary import ScoringSummary
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import DatasetWriter, Store
from sentiment_model.text.tokenize import TOKENIZE, write_tokens
from sentiment_model.training.job import TrainingJob, write_model

CONFIG = DriftConfig()
WORDS = ["a", "film", "that", "is", "good", "bad", "great", "awful", ",", ".", "not"]


def scores(rows: int, seed: int, length: float = 180.0) -> Histograms:
    """Draw scores as those of film reviews are distributed."""
    random = np.random.default_rng([rows, seed])
    tokens = np.clip(random.lognormal(np.log(length), 0.6, rows), 1, 20_000).astype(int)
    unknown = random.binomial(tokens, random.beta(2, 60, rows))
    probability = random.beta(0.3, 0.3, rows)
    probabilities = np.column_stack([1 - probability, probability])
    return histograms(pl.DataFrame({"probabilities": probabilities, "n_tokens": tokens, "n_unknown": unknown}))


def beyond_the_limits(reference: Histograms, current: Histograms) -> bool:
    return any(far.psi > CONFIG.max_psi or far.ks > CONFIG.max_ks for far in drift(reference, current).values())


@pytest.mark.parametrize("validated", [20, 50])
def test_few_validation_reviews_seem_to_drift_by_chance_alone(validated: int) -> None:
    pairs = [(scores(validated, seed), scores(1000, seed)) for seed in range(50)]
    assert sum(beyond_the_limits(*pair) for pair in pairs) > 15
    said = f"too few validation reviews ({validated}) to judge drift; it takes 200"
    assert {unjudged(*pair, CONFIG) for pair in pairs} == {said}


def test_enough_validation_reviews_tell_drift_from_chance() -> None:
    for seed in range(50):
        reference = scores(200, seed)
        assert unjudged(reference, scores(1000, seed), CONFIG) is None
        assert not beyond_the_limits(reference, scores(1000, seed))
        assert beyond_the_limits(reference, scores(1000, seed, length=360.0))


def test_few_reviews_are_too_few_and_none_are_none() -> None:
    assert unjudged(scores(200, 0), scores(999, 0), CONFIG) == "too few reviews (999) to judge drift; it takes 1,000"
    assert unjudged({}, scores(1000, 0), CONFIG) == "too few validation reviews (0) to judge drift; it takes 200"
    assert unjudged(scores(20, 0), {}, CONFIG) is None


def reviews(seed: int, rows: int, longest: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame({"text": [" ".join(random.choice(WORDS, random.integers(1, longest))) for _ in range(rows)]})


class Nobody:
    """Watches a training."""

    def on_step(self, *_: object) -> None: ...

    def on_epoch(self, *_: object) -> None: ...


@pytest.mark.parametrize("classes", [BINARY, Classes(names=("low", "middle", "high"))])
def test_a_model_keeps_what_it_answers_to_the_validation_reviews(tmp_path: Path, classes: Classes) -> None:
    drawn = pl.concat([reviews(seed, 150, 12) for seed in range(2)]).with_columns(
        review_id=pl.int_range(pl.len()).cast(pl.String),
        source=pl.lit("files"),
        label=(pl.col("text").str.count_matches("good") % len(classes)).cast(pl.Int8),
        split=pl.when(pl.int_range(pl.len()) < 150).then(pl.lit("train")).otherwise(pl.lit("validation")),
    )

    def write(writer: DatasetWriter) -> dict[str, Any]:
        return write_tokens(writer, drawn.lazy(), TokenizeConfig(min_count=1))

    store = Store(str(tmp_path / "store"))
    tokens, _ = store.materialise(TOKENIZE, {}, TokenizeConfig(min_count=1).model_dump(), write)
    output = tmp_path / "model"
    output.mkdir()
    job = TrainingJob(
        tokens=tokens.ref,
        classes=classes,
        model=ModelConfig(hidden_size=8, embedding_size=8),
        train=TrainConfig(epochs=1, processes=1),
        device="cpu",
        checkpoint=tmp_path / "checkpoint.safetensors",
        output=output,
    )
    write_model(DatasetWriter(output), job, Nobody())
    predictor = Predictor.load(output)
    kept = predictor.description.reference
    found = histograms(predictor.predict(drawn.filter(split="validation")["text"]))
    assert list(kept) == list(bins(len(classes)))
    for name in kept:
        assert sum(kept[name]) == 150
        # What lies on an edge may be a bin further, since training multiplies in another order.
        assert sum(abs(one - other) for one, other in zip(kept[name], found[name], strict=True)) <= 4


@pytest.mark.parametrize(("validated", "longest"), [(20, 30), (200, 90)])
def test_the_flow_warns_of_drift_but_not_of_chance(
    settings_in: Path, prefect_server: None, caplog: pytest.LogCaptureFixture, validated: int, longest: int
) -> None:
    tiny_bundle(settings_in / "without")
    validation = Predictor.load(settings_in / "without").predict(reviews(validated, validated, 30)["text"])
    tiny_bundle(settings_in / "model", reference=histograms(validation))
    tracker = Tracker(Settings())
    run_id = tracker.start_run("sentiment", "fp", name="test", params={}, tags={}).run_id
    tracker.registry.register(settings_in / "model", "sentiment", run_id, promote=True, tags={})
    reviews(0, 1000, longest).write_csv(settings_in / "reviews.csv")
    run = run_on(settings_in / "reviews.csv", workers=1)
    summary: ScoringSummary = score(run)
    said = f"There are too few validation reviews ({validated}) to judge drift; it takes 200"
    shown = scoring_markdown(run, summary, "", None)
    assert (said in caplog.messages) == (said in shown) == (validated == 20)
    warned = [message for message in caplog.messages if message.startswith("Drift: the reviews differ")]
    assert len(warned) == shown.count("**Drift:**") == (longest == 90)
    assert ("tokens" in summary.drifted) == (longest == 90)
    if validated == 20:
        assert any(far.psi > CONFIG.max_psi or far.ks > CONFIG.max_ks for far in summary.drift.values())
