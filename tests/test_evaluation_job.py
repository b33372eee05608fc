"""What the evaluate stage scores, with which model, and what it fits on which reviews."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import WORDS, epoch_metrics, tiny_bundle

from sentiment_model.config import EvaluateConfig, GateConfig
from sentiment_model.evaluation.evaluate import ChampionModel
from sentiment_model.evaluation.job import EVALUATE, _seen, read_evaluation, write_evaluation
from sentiment_model.models.bundle import Predictor
from sentiment_model.store.datasets import DatasetWriter, Store
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
    baseline = cleaned.select("text_hash", probability=pl.int_range(pl.len()) / 1000).sample(fraction=1, shuffle=True)

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
    assert found.select("probability", "logit", "n_tokens", "n_unknown").equals(
        own.select("probability", "logit", "n_tokens", "n_unknown")
    )
    others = Predictor.load(champion).predict(test["text"])["probabilities"].arr.last()
    assert (found["champion"] - others).abs().max() < 1e-6
    assert (found["champion"] - own["probability"]).abs().max() > 0.01
    assert found["baseline"].to_list() == pytest.approx([i / 1000 for i in range(80)])

    def temperature(split: pl.DataFrame) -> float:
        return fit_temperature(
            predictor.predict(split["text"])["recurrent"].arr.last().to_numpy(), split["label"].to_numpy()
        )

    fitted = temperature(parts["validation"])
    assert temperature(test) > 2 * fitted  # where labels contradict the logits, no temperature is too high
    logits = np.log(found["recurrent"] / (1 - found["recurrent"]))
    assert logits.to_list() == pytest.approx((own["recurrent"] / fitted).to_list(), rel=1e-4, abs=1e-6)

    evaluation, _ = read_evaluation(dataset)
    assert (evaluation.validation.rows, evaluation.test.rows) == (60, 80)
    assert evaluation.temperature == 1.5
    assert evaluation.champion
    assert evaluation.champion.version == "4"
    assert evaluation.champion.seen == 2  # not the one that it was only tested on


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
