"""How fast ours is, and how it grows with the data: ``python -m benchmarks.speed``; `--help` lists the options.

Peer is the loop that tutorials write around PyTorch's own bidirectional LSTM (:mod:`benchmarks.plain`). Contestants
take turns in one process, round after round, so that a machine that is slow for a while is slow for all; figures are
medians of the rounds. What is measured does not depend on what the networks have learned, so they stay untrained.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import polars as pl
import torch
from torch import Tensor

from benchmarks import growth, plain
from benchmarks.data import prepare, take_split, tokenize
from benchmarks.figure import Bar, Panel, draw_panels
from benchmarks.isolated import run_alone
from benchmarks.peers import PEERS
from benchmarks.plain import PlainNetwork, PlainTrainer, plain_logits
from benchmarks.table import RESULTS, SAMPLES, Table, write_results
from sentiment_model.classes import BINARY
from sentiment_model.config import Cell, ModelConfig, TrainConfig, TrainingRun
from sentiment_model.models.bundle import TOKENS_PER_BATCH, Predictor, save_bundle
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.fused import FusedModel
from sentiment_model.networks.inference import predict_logits
from sentiment_model.networks.network import SentimentModel, SentimentNetwork
from sentiment_model.store.datasets import Dataset, Store
from sentiment_model.text.normalise import normalise
from sentiment_model.text.scanner import Scanner
from sentiment_model.text.tokenize import encode, read_vocabulary
from sentiment_model.text.vocabulary import Vocabulary
from sentiment_model.training.classification import train
from sentiment_model.training.language_model import pretrain
from sentiment_model.training.naive_bayes import fit_ngrams

WARMUP_STEPS = 5
SIZES = (1, 4, 16)
CELLS: tuple[str, ...] = get_args(Cell)
PLAIN = "plain LSTM"
PLAIN_DENORMAL = "plain LSTM, denormal numbers kept"
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Material:
    """What the benchmarks run on."""

    reviews: pl.LazyFrame
    tokens: Dataset
    train: TokenizedReviews
    validation: TokenizedReviews
    run: TrainingRun

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the tokens' vocabulary."""
        return read_vocabulary(self.tokens)

    def model(self, cell: str) -> ModelConfig:
        """Return our network's configuration with another cell, in the size of the plain loop's."""
        size = {"hidden_size": plain.HIDDEN, "embedding_size": plain.EMBEDDING}
        return ModelConfig.model_validate({**self.run.model.model_dump(), "cell": cell, **size})


class _CountingReviews(TokenizedReviews):
    """Reviews that note the tokens, without padding, of each batch that is taken from them."""

    taken: list[int]

    def batch(self, rows: Tensor, padded_length: int) -> tuple[Tensor, Tensor]:
        ids, lengths = super().batch(rows, padded_length)
        self.taken.append(int(lengths.sum()))
        return ids, lengths

    def take(self, rows: Tensor) -> "_CountingReviews":
        return _counting(super().take(rows), self.taken)


class _EnoughSteps(Exception):  # noqa: N818 - no error
    """Ends a training that has only to be measured."""


class _Clock:
    """Observes a training: from the end of the warm-up to the last step."""

    def __init__(self, steps: int) -> None:
        self._steps, self._started, self.seconds = steps, 0.0, 0.0

    def on_step(self, step: int, total_steps: int, loss: float) -> None:  # noqa: ARG002 - the protocol's
        if step == WARMUP_STEPS:
            self._started = time.perf_counter()
        elif step == WARMUP_STEPS + self._steps:
            self.seconds = time.perf_counter() - self._started
            raise _EnoughSteps

    def on_epoch(self, metrics: object) -> None: ...


def training_rate(
    material: Material, model: ModelConfig, config: TrainConfig, steps: int, learn: Callable[..., object] = train
) -> float:
    """Return the tokens per second, padding not counted, of the first steps of our training after the warm-up.

    Args:
        material: what to learn from.
        model: architecture.
        config: optimisation.
        steps: how many.
        learn: `train` or `pretrain`.
    """
    reviews, clock = _counting(material.train, []), _Clock(steps)
    # Enough epochs for a small sample to have so many steps; a checkpoint is written at their end alone.
    config = config.model_copy(update={"epochs": 1000, "patience": 1000, "checkpoint_seconds": 1e9})
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as folder:
        try:
            learn(
                reviews,
                material.validation,
                len(material.vocabulary),
                model,
                config,
                device=_CPU,
                checkpoint=Path(folder, "checkpoint.safetensors"),
                observer=clock,
            )
        except _EnoughSteps:
            return sum(reviews.taken[-steps:]) / clock.seconds
    raise RuntimeError("the training ended before it could be measured")


def _counting(reviews: TokenizedReviews, taken: list[int]) -> _CountingReviews:
    counting = _CountingReviews(reviews.values, reviews.starts, reviews.lengths, reviews.labels)
    object.__setattr__(counting, "taken", taken)  # the class is frozen
    return counting


def plain_training_rate(material: Material, steps: int, *, flush_denormal: bool) -> float:
    """Return the same of the plain loop.

    Through the padding, gradients fade to denormal numbers, with which a CPU computes many times more slowly. Ours
    makes them zero. That is one line, so the yardstick has it too, and the loop without it is a row of its own.
    """
    torch.set_flush_denormal(flush_denormal)
    try:
        return _plain_training_rate(material, steps)
    finally:
        torch.set_flush_denormal(False)


def _plain_training_rate(material: Material, steps: int) -> float:
    torch.manual_seed(0)
    network = PlainNetwork("lstm", bidirectional=True, vocabulary_size=len(material.vocabulary))
    trainer = PlainTrainer(network, material.train, seed=0)
    tokens = [0]
    while True:  # a small sample has fewer batches than are measured
        for taken in trainer.epoch():
            tokens.append(taken)
            if len(tokens) == WARMUP_STEPS + 1:
                started = time.perf_counter()
            if len(tokens) == WARMUP_STEPS + steps + 1:
                return sum(tokens[WARMUP_STEPS + 1 :]) / (time.perf_counter() - started)


def rounds(contestants: dict[str, Callable[[], float]], count: int) -> dict[str, float]:
    """Return the median of each contestant's figure over rounds in which they take turns."""
    drawn = [{name: measure() for name, measure in contestants.items()} for _ in range(count)]
    return {name: median(figures[name] for figures in drawn) for name in contestants}


def training(material: Material, steps: int, count: int) -> dict[str, float]:
    """Return the training rates of our cells and of the plain loop, in tokens a second."""
    contestants = {
        cell: partial(training_rate, material, material.model(cell), material.run.train, steps) for cell in CELLS
    }
    contestants[PLAIN] = partial(plain_training_rate, material, steps, flush_denormal=True)
    contestants[PLAIN_DENORMAL] = partial(plain_training_rate, material, steps, flush_denormal=False)
    return rounds(contestants, count)


def training_by_profile(material: Material, steps: int, count: int) -> dict[str, float]:
    """Return the training rates of profiles, in tokens a second."""
    nightly = TrainingRun(profile="nightly")
    return rounds(
        {
            "default": partial(training_rate, material, material.run.model, material.run.train, steps),
            "nightly, pretraining": partial(training_rate, material, nightly.model, nightly.train, steps, pretrain),
            "nightly, teacher": partial(training_rate, material, nightly.model, nightly.train, steps),
        },
        count,
    )


def forward(material: Material, count: int) -> dict[str, float]:
    """Return the rates of the forward pass over the validation split, in reviews a second."""

    def ours(cell: str) -> Callable[[], float]:
        network = SentimentNetwork(len(material.vocabulary), material.model(cell))
        predict = lambda: predict_logits(network, material.validation, TOKENS_PER_BATCH, _CPU)  # noqa: E731
        return lambda: _rate(len(material.validation), predict)

    loop = PlainNetwork("lstm", bidirectional=True, vocabulary_size=len(material.vocabulary))
    return rounds(
        {
            **{cell: ours(cell) for cell in CELLS},
            PLAIN: lambda: _rate(len(material.validation), lambda: plain_logits(loop, material.validation)),
        },
        count,
    )


def text_path(material: Material, bundle: Path, count: int) -> dict[str, float]:
    """Return the rates of the steps from raw text to label, in reviews a second."""
    raw = material.reviews.filter(split="validation").select("raw").collect()["raw"]
    predictor, max_tokens = Predictor.load(bundle), material.run.tokenize.max_tokens
    vocabulary = material.vocabulary
    scanner, fused = Scanner(vocabulary, max_tokens), FusedModel(predictor.model)
    scanned = scanner.read(raw).reviews

    def as_in_training() -> None:
        encode(raw.to_frame("text").select(normalise(pl.col("text"))), vocabulary, max_tokens)

    for warm_up in (lambda: predictor.predict(raw), lambda: fused.score(scanned)):  # what is compiled is loaded once
        warm_up()
    peer = PEERS["fasttext"]
    (folder := bundle.with_name("fasttext")).mkdir()
    peer.fit(take_split(material.reviews, "train"), folder, 0)
    label_by_peer = peer.load(folder)

    def alone() -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return _rate(len(raw), lambda: predictor.predict(raw))
        finally:
            torch.set_num_threads(threads)

    return rounds(
        {
            "text to ids, in training": lambda: _rate(len(raw), as_in_training),
            "text to ids": lambda: _rate(len(raw), lambda: scanner.read(raw)),
            "ids to scores": lambda: _rate(len(raw), lambda: fused.score(scanned)),
            "raw text to label": lambda: _rate(len(raw), lambda: predictor.predict(raw)),
            "raw text to label, one thread": alone,
            f"raw text to label, {peer.title}, one thread": lambda: _rate(len(raw), lambda: label_by_peer(raw)),
        },
        count,
    )


def _rate(rows: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return rows / (time.perf_counter() - started)


def grow(material: Material, bundle: Path, base: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return time and peak memory of scoring and of preparing a training, by size of the data."""
    found: dict[str, list[dict[str, float]]] = {"score": [], "prepare": []}
    for size in SIZES:
        path = folder / f"reviews-{size}.jsonl"
        growth.write_copies(material.reviews, base, size, path)
        store = str(folder / f"store-{size}")
        # Batches that even the smallest size fills, so that memory can be compared.
        options = {"score": {"bundle": str(bundle), "batch_rows": base}, "prepare": {}}
        for stage, more in options.items():
            answer, peak = run_alone(f"benchmarks.growth:{stage}", path=str(path), store=store, **more)
            found[stage].append({"size": size, **answer, "peak_mib": peak})
        path.unlink()
    return found


def untrained_bundle(run: TrainingRun, tokens: Dataset, folder: Path) -> Path:
    """Write a model into a new folder, and return the folder; its network is untrained.

    Its n-grams are learned: how many of a review's are known decides how long it takes to look them up.
    """
    folder.mkdir()
    torch.manual_seed(0)
    vocabulary = read_vocabulary(tokens)
    model = SentimentModel(len(vocabulary), run.model)
    model.wide = fit_ngrams(_split(tokens, "train"), _split(tokens, "validation"), run.model.ngram_order)
    save_bundle(
        folder,
        model.state_dict(),
        vocabulary,
        run.model,
        BINARY,
        max_tokens=run.tokenize.max_tokens,
        temperature=1.0,
        trained_on={},
        reference={},
    )
    return folder


def _material(store: str, sample: int | None) -> Material:
    run = TrainingRun()
    dataset = prepare(store, sample)
    tokens = tokenize(Store(store), run.tokenize, dataset.scan(), dataset.ref.fingerprint)
    return Material(dataset.scan(), tokens, _split(tokens, "train"), _split(tokens, "validation"), run)


def _split(tokens: Dataset, split: str) -> TokenizedReviews:
    return TokenizedReviews.from_frame(tokens.scan(split).select("ids", "label").collect())


def _rates_table(title: str, unit: str, rates: dict[str, float], note: str) -> Table:
    rows = [
        [f"**ours, {name}**" if name in CELLS else name, f"{rate:,.0f}", f"{rate / rates[PLAIN]:.2f}"]
        for name, rate in rates.items()
    ]
    return Table(title, ["", unit, "times the plain LSTM"], rows, note)


def _growth_table(title: str, lines: list[dict[str, float]], note: str) -> Table:
    rows = [
        [
            f"{line['size']}x",
            f"{line['reviews']:,}",
            f"{line['seconds']:.1f}",
            f"{1000 * line['seconds'] / line['reviews']:.2f}",
            f"{line['peak_mib']:,.0f}",
        ]
        for line in lines
    ]
    return Table(title, ["size", "reviews", "time (s)", "time a review (ms)", "peak memory (MiB)"], rows, note)


def _tables(numbers: dict[str, Any], base: int) -> list[Table]:
    text = [[name, f"{rate:,.0f}"] for name, rate in numbers["text_path"].items()]
    note = f"With {torch.get_num_threads()} threads where none is named. Each line to a label is the whole path."
    return [
        _rates_table("Training", "tokens/s", numbers["training"], "Tokens of the reviews; padding does not count."),
        Table(
            "Training by profile",
            ["", "tokens/s"],
            [[name, f"{rate:,.0f}"] for name, rate in numbers["profiles"].items()],
            "One process; a run has one for each core.",
        ),
        _rates_table("Forward pass", "reviews/s", numbers["forward"], "Over the validation split, from token ids."),
        Table(
            "From raw text to label",
            ["", "reviews/s"],
            text,
            note,
        ),
        _growth_table("Growth of scoring", numbers["score"], f"JSON Lines to Parquet, in batches of {base:,} reviews."),
        _growth_table("Growth of preparation", numbers["prepare"], "Ingest, clean and tokenize, from JSON Lines."),
    ]


def _figure(numbers: dict[str, Any]) -> str:
    def rates(key: str, label: str) -> Panel:
        return Panel(label, [Bar(name, rate, name in CELLS) for name, rate in numbers[key].items()])

    def sizes(key: str, label: str, value: Callable[[dict[str, float]], float]) -> Panel:
        return Panel(label, [Bar(f"{line['reviews']:,}", value(line), ours=True) for line in numbers[key]])

    return draw_panels(
        "speed",
        [
            rates("training", "training (tokens/s)"),
            rates("forward", "forward pass (reviews/s)"),
            sizes("score", "scoring: ms a review", lambda line: 1000 * line["seconds"] / line["reviews"]),
            sizes("score", "scoring: peak memory (MiB)", lambda line: line["peak_mib"]),
        ],
        columns=2,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="training steps to measure, after the warm-up")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which contestants take turns")
    parser.add_argument("--base", type=int, default=2_500, help="reviews of the smallest size in the growth tables")
    parser.add_argument("--sample", type=int, metavar="N", help="take about N reviews, for a quick look")
    parser.add_argument("--store", help="folder to keep the prepared reviews in; a temporary one by default")
    parser.add_argument("--output", type=Path, help=f"folder of the results; {RESULTS} by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sentiment-benchmark-") as temporary:
        material = _material(options.store or str(Path(temporary, "store")), options.sample)
        bundle = untrained_bundle(material.run, material.tokens, Path(temporary, "model"))
        numbers: dict[str, Any] = {name: getattr(options, name) for name in ("sample", "steps", "rounds", "base")}
        numbers["training"] = training(material, options.steps, options.rounds)
        numbers["profiles"] = training_by_profile(material, options.steps, options.rounds)
        numbers["forward"] = forward(material, options.rounds)
        numbers["text_path"] = text_path(material, bundle, options.rounds)
        numbers |= grow(material, bundle, options.base, Path(temporary))
    output = options.output or (SAMPLES if options.sample else RESULTS)
    print(write_results(output, "speed", "Speed and growth", _tables(numbers, options.base), numbers, _figure(numbers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
