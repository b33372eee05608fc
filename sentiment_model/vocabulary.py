"""The vocabulary: which tokens the network knows, and their ids."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sentiment_model.config import TokenizeConfig
from sentiment_model.errors import ModelError, QualityError

PAD, UNKNOWN = "<pad>", "<unk>"
PAD_ID, UNKNOWN_ID = 0, 1
_TOKEN = r"\w+(?:'\w+)*|[^\w\s]"  # noqa: S105 - no secret: words with inner apostrophes, and single marks


def tokens_of(text: pl.Expr) -> pl.Expr:
    """Return the tokens of normalised text, in lower case, as a list column."""
    return text.str.to_lowercase().str.extract_all(_TOKEN)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids; 0 is padding and 1 stands for every token that is not in it.

    Attributes:
        table: columns `token`, `id` (Int32) and `count` (occurrences in the training reviews).
    """

    table: pl.DataFrame

    @classmethod
    def fit(cls, reviews: pl.LazyFrame, config: TokenizeConfig) -> "Vocabulary":
        """Take the most frequent tokens of the normalised column `text`; equally frequent ones go by the alphabet.

        Raises:
            QualityError: no token occurs often enough.
        """
        counts = (
            reviews.select(token=tokens_of(pl.col("text")).explode())
            .drop_nulls()
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
        table = pl.concat([special, counts]).with_row_index("id").select("token", pl.col("id").cast(pl.Int32), "count")
        return cls(table)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a vocabulary.

        Raises:
            ModelError: the file is no vocabulary.
        """
        try:
            table = pl.read_parquet(path, columns=["token", "id", "count"])
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ModelError(f"{path} is not a vocabulary; register or tokenize again") from error
        expected = pl.arange(table.height, eager=True, dtype=pl.Int32).alias("id")
        if not table["id"].equals(expected) or table["token"].n_unique() != table.height:
            raise ModelError(f"{path} is not a vocabulary: ids must count from 0 and tokens be distinct")
        if table["token"].head(2).to_list() != [PAD, UNKNOWN]:
            raise ModelError(f"{path} is not a vocabulary: it must start with {PAD} and {UNKNOWN}")
        return cls(table)

    def save(self, path: Path) -> None:
        """Write the vocabulary as Parquet."""
        self.table.write_parquet(path)

    def __len__(self) -> int:
        return self.table.height

    @property
    def digest(self) -> str:
        """SHA-256 over the tokens in the order of their ids."""
        return hashlib.sha256("\n".join(self.table["token"]).encode()).hexdigest()
