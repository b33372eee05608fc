"""The vocabulary: which tokens the network knows, and their ids."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from sentiment_model.config import TokenizeConfig
from sentiment_model.errors import ModelError, QualityError
from sentiment_model.text.scripts import main_scripts
from sentiment_model.text.subwords import learn_pieces
from sentiment_model.text.tokens import PAD, UNKNOWN, UNKNOWN_ID, Unit, choose_unit, tokens_of

if TYPE_CHECKING:
    from sentiment_model.text.token_table import TokenTable

_SCHEMA = pl.Schema({"token": pl.String(), "id": pl.Int32(), "count": pl.Int64()})
_MIN_SCRIPT_SHARE = 0.01  # a few names say nothing of what reviews in their script mean
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

        With the unit `subword`, these are the pieces that :func:`learn_pieces` finds in its words.

        Raises:
            QualityError: no token occurs often enough.
            ConfigurationError: the unit is `subword`, and tokenizers is not installed.
        """
        unit = choose_unit(reviews) if config.unit == "auto" else config.unit
        found = (
            reviews.select(token=tokens_of(pl.col("text"), unit).explode())
            .drop_nulls()  # a text without tokens
            .group_by("token")
            .agg(count=pl.len().cast(pl.Int64))
        )
        if unit == "subword":
            words = found.collect(engine="streaming")
            found = _count(learn_pieces(words, config.max_vocabulary - 2, config.min_count), words)
        else:
            found = found.filter(pl.col("count") >= config.min_count)
        counts = (
            found.sort(["count", "token"], descending=[True, False])
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

    @property
    def scripts(self) -> list[str]:
        """The scripts in which at least a hundredth of the training reviews' words were, the most frequent first."""
        tokens = self.table.slice(2).select("count", script=main_scripts(self.table["token"].slice(2)).cast(pl.String))
        counts = tokens.drop_nulls().group_by("script").sum().sort("count", "script", descending=[True, False])
        return counts.filter(pl.col("count") >= _MIN_SCRIPT_SHARE * pl.col("count").sum())["script"].to_list()

    def ids_of(self, tokens: pl.Expr) -> pl.Expr:
        """Return the ids (lists of Int32) of what :func:`tokens_of` finds."""
        if self.unit == "subword":
            return tokens.map_batches(self._cut, return_dtype=pl.List(pl.Int32), is_elementwise=True)
        # The category of an enum is an id, and the cast finds it twice as fast as a replacement does.
        known = pl.element().cast(self._categories, strict=False)
        return tokens.list.eval(known.to_physical().cast(pl.Int32).fill_null(UNKNOWN_ID))

    @cached_property
    def _categories(self) -> pl.Enum:
        return pl.Enum(self.table["token"])

    @cached_property
    def lookup(self) -> "TokenTable":
        """The tokens as compiled loops look them up."""
        from sentiment_model.text.token_table import TokenTable  # what it compiles loads in half a second

        return TokenTable.of(self.table["token"].slice(2))

    def _cut(self, lists: pl.Series) -> pl.Series:
        """Return the ids of the pieces of words."""
        ids, pieces = self.lookup.cut(lists.explode().drop_nulls())
        # Of each list: where its words end, and there, where their pieces do.
        ends = np.concatenate([[0], pieces.cumsum()])[lists.list.len().cast(pl.Int64).cum_sum().to_numpy()]
        offsets = pa.array(np.concatenate([[0], ends]), pa.int64())
        return pl.Series(pa.LargeListArray.from_arrays(offsets, pa.array(ids)))


def _count(pieces: list[str], words: pl.DataFrame) -> pl.LazyFrame:
    """Return the pieces that the words are cut into, and how often; of others nothing could be learned."""
    from sentiment_model.text.token_table import TokenTable

    ids, lengths = TokenTable.of(pieces).cut(words["token"])
    occurrences = np.bincount(ids, weights=np.repeat(words["count"].to_numpy(), lengths), minlength=len(pieces) + 2)
    counted = {"token": pl.Series(pieces, dtype=pl.String), "count": occurrences[2:].astype(np.int64)}
    return pl.LazyFrame(counted).filter(pl.col("count") > 0)


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
