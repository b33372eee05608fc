"""Tokenize: normalised text to token ids, with a vocabulary of the training and the unlabelled reviews."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sentiment_model.config import TokenizeConfig
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.store.datasets import Dataset, DatasetWriter, Stage, store_error
from sentiment_model.store.parts import PartWriter
from sentiment_model.text.sides import SPLITS
from sentiment_model.text.tokens import UNKNOWN_ID, tokens_of
from sentiment_model.text.vocabulary import Vocabulary

TOKENIZE = Stage("tokenize", 2)
_VOCABULARY = "vocabulary.parquet"
_ROWS_AT_ONCE = 1024  # that are unpacked
_TOKEN_BYTES = 4

TOKEN_SCHEMA = pl.Schema(
    {
        "review_id": pl.String(),
        "source": pl.String(),
        "label": pl.Int8(),
        "ids": pl.List(pl.Int32()),
        "n_tokens": pl.Int32(),  # before truncation
        "n_unknown": pl.Int32(),  # before truncation
    }
)

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def write_tokens(writer: DatasetWriter, reviews: pl.LazyFrame, config: TokenizeConfig) -> dict[str, Any]:
    """Write the vocabulary (role `vocabulary`) and the token ids of each split (role: the split's name).

    Rows keep their order. A split without reviews is a file without rows.

    Args:
        writer: where to write.
        reviews: cleaned reviews.
        config: what tokens are, size of the vocabulary and length of the reviews.

    Returns:
        counts: tokens in the vocabulary, their unit, and for each split its reviews and tokens, the share of unknown
        tokens and the share of reviews that were cut.

    Raises:
        QualityError: no token of these reviews is frequent enough.
    """
    vocabulary = Vocabulary.fit(reviews.filter(pl.col("split").is_in(["train", "unlabelled"])), config)
    vocabulary.save(writer.file(_VOCABULARY, role="vocabulary"))
    encoded = encode(reviews, vocabulary, config.max_tokens).select("split", *TOKEN_SCHEMA)
    tallies = []
    with ExitStack() as stack:
        parts = {split: stack.enter_context(PartWriter(writer, split, TOKEN_SCHEMA)) for split in SPLITS}
        for batch in encoded.collect_batches():
            for (split,), rows in batch.partition_by("split", as_dict=True, include_key=False).items():
                parts[split].write(rows)
            tallies.append(_tally(batch, config.max_tokens))
    return {"vocabulary": len(vocabulary), "unit": vocabulary.unit, **_summary(tallies)}


def read_vocabulary(dataset: Dataset) -> Vocabulary:
    """Return the vocabulary of a tokenized dataset."""
    with dataset.local_folder() as folder:
        return Vocabulary.load(folder / _VOCABULARY)


def _tally(batch: pl.DataFrame, max_tokens: int) -> pl.DataFrame:
    return batch.group_by("split").agg(
        reviews=pl.len().cast(pl.Int64),
        tokens=pl.col("n_tokens").cast(pl.Int64).sum(),
        unknown=pl.col("n_unknown").cast(pl.Int64).sum(),
        cut=(pl.col("n_tokens") > max_tokens).cast(pl.Int64).sum(),
    )


def _summary(tallies: list[pl.DataFrame]) -> dict[str, dict[str, float]]:
    totals = pl.concat(tallies).group_by("split").sum().rows_by_key("split", named=True, unique=True)
    return {
        split: {
            "reviews": total["reviews"],
            "tokens": total["tokens"],
            "unknown_share": total["unknown"] / max(1, total["tokens"]),
            "cut_share": total["cut"] / total["reviews"],
        }
        for split in SPLITS
        if (total := totals.get(split))
    }


def read_tokens(splits: Sequence[Sequence[Path]], scratch: Path) -> list[TokenizedReviews]:
    """Read what :func:`write_tokens` has written. The tokens are in a file, which the system reads when they are.

    It has no name, and is gone when nothing refers to the tokens any more, or the process ends.

    Args:
        splits: the files of each split.
        scratch: folder on a disk with room for four bytes a token.

    Returns:
        the reviews of each split, in their order. All their tokens lie in one tensor.

    Raises:
        StoreError: they cannot be written there.
    """
    rows = []
    with tempfile.TemporaryFile(dir=scratch, buffering=0) as file:
        for paths in splits:
            lengths, labels = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
            start = file.tell() // _TOKEN_BYTES
            for batch in _batches(paths):
                ids, label = batch.column("ids"), batch.column("label")
                _write(file, ids.flatten().to_numpy().tobytes(), scratch)
                lengths.append(ids.value_lengths().to_numpy())
                labels.append(label.cast(pa.float32()).fill_null(math.nan).to_numpy())
            counts = torch.from_numpy(np.concatenate(lengths, dtype=np.int64))
            rows.append((start + counts.cumsum(0) - counts, counts, torch.from_numpy(np.concatenate(labels))))
        values = torch.empty(0, dtype=torch.int32)
        if file.tell():
            values = torch.from_numpy(np.memmap(file, np.int32, "r+"))
    return [TokenizedReviews(values, *of_split) for of_split in rows]


def _write(file: FileIO, tokens: bytes, scratch: Path) -> None:
    left = memoryview(tokens)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise store_error(str(scratch), error) from error


def _batches(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        yield from file.iter_batches(_ROWS_AT_ONCE, columns=["ids", "label"])


def encode(frame: Frame, vocabulary: Vocabulary, max_tokens: int, text_column: str = "text") -> Frame:
    """Add the token ids of a column of normalised text.

    Args:
        frame: any frame with the text column, without nulls in it.
        vocabulary: the tokens that have an id.
        max_tokens: longer reviews keep their first and last half of this many tokens; the verdict of a review is
            mostly at its start or its end ("How to Fine-Tune BERT for Text Classification?", Sun et al. 2019).
        text_column: the column.

    Returns:
        the frame with `ids` (list of Int32; empty where the text is), `n_tokens` and `n_unknown` (Int32, both
        before truncation) added, its rows in the same order.
    """
    ids, tail = pl.col("ids"), max_tokens // 2
    return (
        frame.with_columns(ids=vocabulary.ids_of(tokens_of(pl.col(text_column), vocabulary.unit)))
        .with_columns(
            n_tokens=ids.list.len().cast(pl.Int32),
            n_unknown=ids.list.count_matches(UNKNOWN_ID).cast(pl.Int32),
        )
        .with_columns(
            ids=pl.when(pl.col("n_tokens") <= max_tokens)
            .then(ids)
            .otherwise(pl.concat_list(ids.list.head(max_tokens - tail), ids.list.tail(tail)))
        )
    )
