"""The reviews that every contestant gets: the project's default source through its own stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sentiment_model.config import IngestConfig, TokenizeConfig, TrainingRun
from sentiment_model.sources.ingest import INGEST, source_fingerprints, write_reviews
from sentiment_model.store.datasets import Dataset, DatasetWriter, Stage, Store
from sentiment_model.text.clean import CLEAN, hash_number, text_hash, write_cleaned
from sentiment_model.text.tokenize import TOKENIZE, write_tokens

BENCHMARK = Stage("benchmark-reviews", 1)


@dataclass(frozen=True)
class Split:
    """The reviews of one split.

    Attributes:
        text: normalised.
        raw: as the source has it.
        labels: 1 positive, 0 negative.
        group: the name of each review's group.
    """

    text: pl.Series
    raw: pl.Series
    labels: NDArray[np.float64]
    group: pl.Series


def prepare(
    store_url: str, sample: int | None = None, unlabelled: str | None = None, source: IngestConfig | None = None
) -> Dataset:
    """Ingest and clean a source, and put the raw text of each review beside its cleaned one.

    Args:
        store_url: where the stages write; what is there already is not made again.
        sample: about how many reviews to take, evenly from the whole source; None takes all, in the splits of the
            project's default run.
        unlabelled: review files to take besides, as the split of that name.
        source: what to take reviews from; the project's default source without it.

    Returns:
        the headline reviews with the columns of a cleaned dataset and `raw` (role `part`).
    """
    run, store = TrainingRun(), Store(store_url)
    ingested = ingest(store, source or run.ingest)
    more = ingest(store, IngestConfig(source="files", path=unlabelled)) if unlabelled else None
    separate = ~pl.col("source").is_in(run.evaluate.separate_sources)
    reviews = ingested.scan()
    if sample is not None:
        reviews = reviews.filter(separate)
        reviews = reviews.gather_every(max(1, reviews.select(pl.len()).collect().item() // sample))
    cleaned = clean(store, run, ingested, reviews, more, {"sample": sample} if sample is not None else {})
    raw = pl.concat([dataset.scan().select("review_id", raw="text") for dataset in (ingested, more) if dataset])

    def write(writer: DatasetWriter) -> dict[str, Any]:
        joined = cleaned.scan().filter(separate).join(raw, on="review_id", maintain_order="left").collect()
        joined.write_parquet(writer.file("reviews.parquet"))
        return dict(joined.group_by("split").len().sort("split").iter_rows())

    return store.materialise(BENCHMARK, {"clean": cleaned.ref.fingerprint}, {}, write)[0]


def ingest(store: Store, config: IngestConfig) -> Dataset:
    """Run the ingest stage, under the name that the pipeline's own task gives its dataset."""
    parameters = config.model_dump(mode="json", exclude={"path"})
    return store.materialise(
        INGEST, source_fingerprints(config), parameters, lambda writer: write_reviews(writer, config)
    )[0]


def clean(
    store: Store,
    run: TrainingRun,
    ingested: Dataset,
    reviews: pl.LazyFrame,
    unlabelled: Dataset | None,
    more_parameters: dict[str, Any],
) -> Dataset:
    """Run the clean stage on some of the ingested reviews, which `more_parameters` name."""
    inputs, parameters = {"ingest": ingested.ref.fingerprint}, run.clean.model_dump(mode="json") | more_parameters
    if unlabelled:
        inputs["unlabelled"] = unlabelled.ref.fingerprint
    more = unlabelled.scan() if unlabelled else None
    classes = run.ingest.told_apart()
    return store.materialise(
        CLEAN, inputs, parameters, lambda writer: write_cleaned(writer, reviews, None, more, classes, run.clean)
    )[0]


def tokenize(store: Store, config: TokenizeConfig, reviews: pl.LazyFrame, fingerprint: str) -> Dataset:
    """Run the tokenize stage on cleaned reviews, which the fingerprint names."""
    parameters = config.model_dump(mode="json")
    return store.materialise(
        TOKENIZE, {"clean": fingerprint}, parameters, lambda writer: write_tokens(writer, reviews, config)
    )[0]


def write_folds(reviews: Path, folds: int, folder: Path) -> list[Path]:
    """Split the labelled reviews anew, so that each is in the test of one of the folds: grouped cross-validation.

    A fold's test is every group whose hash falls to it. Its validation is a tenth of the other groups, by another hash.

    Args:
        reviews: the file that :func:`prepare` wrote.
        folds: how many.
        folder: where to write.

    Returns:
        a file like that of :func:`prepare` for each fold.
    """

    def part(salt: str, parts: int) -> pl.Expr:
        return (hash_number(text_hash(pl.col("group"), salt)) % parts).cast(pl.Int64)

    frame = pl.read_parquet(reviews).with_columns(fold=part("fold", folds), tenth=part("validation", 10))
    paths = []
    for number in range(folds):
        split = (
            pl.when(pl.col("split") == "unlabelled")
            .then("split")
            .when(pl.col("fold") == number)
            .then(pl.lit("test"))
            .when(pl.col("tenth") == 0)
            .then(pl.lit("validation"))
            .otherwise(pl.lit("train"))
        )
        paths.append(folder / f"fold-{number}.parquet")
        frame.with_columns(split=split).drop("fold", "tenth").write_parquet(paths[-1])
    return paths


def read_split(reviews: Path, name: str) -> Split:
    """Read one split of the file that :func:`prepare` or :func:`write_folds` wrote."""
    return take_split(pl.scan_parquet(reviews), name)


def take_split(reviews: pl.LazyFrame, name: str) -> Split:
    """Return one split of what :func:`prepare` returned."""
    frame = reviews.filter(split=name).select("text", "raw", "label", "group").collect()
    return Split(frame["text"], frame["raw"], frame["label"].cast(pl.Float64).to_numpy(), frame["group"])
