"""The vocabulary: which tokens the network knows, and their ids."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast, get_args

import polars as pl

from sentiment_model.config import TokenizeConfig
from sentiment_model.errors import ModelError, QualityError
from sentiment_model.text.tokens import Unit, choose_unit, tokens_of

PAD, UNKNOWN = "<pad>", "<unk>"
PAD_ID, UNKNOWN_ID = 0, 1

_SCHEMA = pl.Schema({"token": pl.String(), "id": pl.Int32(), "count": pl.Int64()})
_UNIT = "sentiment.unit"  # in the file's metadata; a file without it is of words


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids; 0 is padding and 1 stands for every token that is not in it.

    Attributes:
        table: columns `token`, `id` (Int32) and `count` (occurrences in the training reviews).
        unit: what the tokens are.
    """

    table: pl.DataFrame
    unit: Unit

    @classmethod
    def fit(cls, reviews: pl.LazyFrame, config: TokenizeConfig) -> "Vocabulary":
        """Take the most frequent tokens of the normalised column `text`; ties go in the order of code points.

        Raises:
            QualityError: no token occurs often enough.
        """
        unit = choose_unit(reviews) if config.unit == "auto" else config.unit
        counts = (
            reviews.select(token=tokens_of(pl.col("text"), unit).explode())
            .drop_nulls()  # a text without tokens
            .group_by("token")
            .agg(count=pl.len().cast(pl.Int64))
            .filter(pl.col("count") >= config.min_count)
            .sort(["count", "token"], descending=[True, False])
            .head(config.max_vocabulary - 2)
            .collect(engine="streaming")
        )
        if counts.is_empty():
            raise QualityError(f"no token occurs {config.min_count} times in training; lower min_count or add reviews")
        special = pl.DataFrame({"token": [PAD, UNKNOWN], "count": [0, 0]})
        table = pl.concat([special, counts]).with_row_index("id").select(_SCHEMA.names())
        return cls(table.cast(_SCHEMA), unit)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a vocabulary.

        Raises:
            ModelError: the file is no vocabulary.
        """
        try:
            table = pl.read_parquet(path)
            unit = pl.read_parquet_metadata(path).get(_UNIT, "word")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ModelError(f"cannot read the vocabulary {path}; register or tokenize again") from error
        if fault := _fault(table):
            raise ModelError(f"{path} is not a vocabulary: {fault}; register or tokenize again")
        if unit not in get_args(Unit):
            raise ModelError(f"the tokens of {path} are of a unit that this version does not know ({unit})")
        return cls(table, cast("Unit", unit))

    def save(self, path: Path) -> None:
        """Write the vocabulary as Parquet."""
        self.table.write_parquet(path, metadata={_UNIT: self.unit})

    def __len__(self) -> int:
        return self.table.height

    @property
    def digest(self) -> str:
        """SHA-256 over the tokens in the order of their ids, and over the unit where it is not the word."""
        units = [] if self.unit == "word" else [self.unit]
        return hashlib.sha256("\n".join([*units, *self.table["token"]]).encode()).hexdigest()

    def ids_of(self, tokens: pl.Expr) -> pl.Expr:
        """Return the ids (Int32) of tokens."""
        # The category of an enum is an id, and the cast finds it twice as fast as a replacement does.
        known = tokens.cast(self._categories, strict=False)
        return known.to_physical().cast(pl.Int32).fill_null(UNKNOWN_ID)

    @cached_property
    def _categories(self) -> pl.Enum:
        return pl.Enum(self.table["token"])


def _fault(table: pl.DataFrame) -> str | None:
    if table.schema != _SCHEMA:
        return f"its columns are {', '.join(f'{name} ({kind})' for name, kind in table.schema.items())}"
    if table["token"].null_count() or table["token"].n_unique() != table.height:
        return "its tokens are not distinct"
    if not table["id"].equals(pl.int_range(table.height, dtype=pl.Int32, eager=True).alias("id")):
        return "its ids do not count from 0"
    if table["token"].head(2).to_list() != [PAD, UNKNOWN]:
        return f"it does not start with {PAD} and {UNKNOWN}"
    return None
