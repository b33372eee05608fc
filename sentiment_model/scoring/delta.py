"""Scores as a Delta table, for readers who want one; needs the extra `delta`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import polars as pl

from sentiment_model.errors import ConfigurationError, StoreError
from sentiment_model.scoring.shards import Shard
from sentiment_model.scoring.table import Staging
from sentiment_model.store.objects import first_line

if TYPE_CHECKING:
    from deltalake import DeltaTable

_ATTEMPTS = 20
_KEY_LENGTH = 16  # of a file's key, with which the id of a row begins


def append_to_delta(url: str, key: str, shard: Shard, staging: Staging, version: str) -> None:
    """Move the rows of a shard into a Delta table, once.

    Each piece of a file is, with the key, a transaction of its own name, which the table's log remembers. What was
    appended by a worker that died before it could say so is not appended again, whichever shard the piece is in by
    then.

    Args:
        url: folder or URL of the table, partitioned by `version` and `date`.
        key: names model, options and how files are read.
        shard: which rows.
        staging: its files; those with role `scores` are appended and removed.
        version: version of the model.

    Raises:
        ConfigurationError: deltalake is not installed.
        StoreError: the table cannot be written.
    """
    try:
        from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError
    except ImportError as error:
        raise ConfigurationError("a Delta table needs deltalake: pip install 'sentiment-pipeline[delta]'") from error
    paths = sorted(path for path, role in staging.files.items() if role == "scores")
    frames = [pl.read_parquet(path, glob=False) for path in paths]
    try:
        for attempt in range(_ATTEMPTS):
            table = DeltaTable(url) if DeltaTable.is_deltatable(url) else None
            columns = [field.name for field in table.schema().fields] if table else []
            known = {piece.id for piece in shard.pieces if table and table.transaction_version(f"{key} {piece.id}")}
            new = [piece for piece in shard.pieces if piece.id not in known]
            files = [piece.file for piece in new]
            of_new = [frame.filter(pl.col("row_id").str.head(_KEY_LENGTH).is_in(files)) for frame in frames]
            of_new = _spelled_alike(of_new, columns)
            rows = pl.concat(of_new, how="diagonal_relaxed") if of_new else pl.DataFrame()
            if rows.is_empty():
                break
            rows = rows.drop(pl.selectors.by_dtype(pl.Null()))  # which Delta has no type for, and no need of
            try:
                write_deltalake(
                    table or url,  # whose log was read: a commit of the same piece in between makes this one fail
                    rows.with_columns(version=pl.lit(version), date=pl.lit(datetime.now(UTC).date())),
                    mode="append",
                    schema_mode="merge",
                    partition_by=["version", "date"],
                    commit_properties=CommitProperties(
                        app_transactions=[Transaction(f"{key} {piece.id}", 1) for piece in new]
                    ),
                )
                break
            except CommitFailedError:  # another worker committed one of these pieces, or this one did, unheard
                if attempt == _ATTEMPTS - 1:
                    raise
    except Exception as error:
        # Where the types of a column differ, deltalake raises a bare Exception.
        if type(error) is not Exception and not isinstance(error, DeltaError | pl.exceptions.PolarsError):
            raise
        raise StoreError(
            f"cannot write {shard.name} to the Delta table {url}: {first_line(error)}; where a column is of another "
            "type there, give these files an output of their own"
        ) from error
    for path in paths:
        path.unlink()
        del staging.files[path]


def _spelled_alike(frames: Iterable[pl.DataFrame], columns: Iterable[str]) -> list[pl.DataFrame]:
    """Return tables whose columns are spelled as in the Delta table, which does not tell names apart by case.

    Args:
        frames: the tables.
        columns: those of the Delta table so far.
    """
    known = {name.casefold(): name for name in columns}
    return [frame.rename({name: known.setdefault(name.casefold(), name) for name in frame.columns}) for frame in frames]


def delta_partitions(url: str) -> Iterator[tuple[str, date]]:
    """Yield the partitions of a Delta table, as `version=3/date=2026-11-24`, and their days; none without deltalake.

    Raises:
        StoreError: the table cannot be read.
    """
    with _opened(url) as table:
        for partition in table.partitions() if table else ():
            yield f"version={partition['version']}/date={partition['date']}", date.fromisoformat(partition["date"])


def delete_from_delta(url: str, partition: str) -> None:
    """Delete the rows of a partition that :func:`delta_partitions` has named; older versions of the table keep them.

    Raises:
        StoreError: the table cannot be written.
    """
    version, day = (part.partition("=")[2] for part in partition.split("/"))
    with _opened(url) as table:
        if table:
            table.delete(f"version = '{version}' AND date = '{day}'")


def vacuum_delta(url: str, days: float, *, dry_run: bool) -> list[str]:
    """Delete, or only name, the files of a Delta table that none of its versions of the last days needs.

    Raises:
        StoreError: the table cannot be read or written.
    """
    with _opened(url) as table:
        return table.vacuum(int(24 * days), dry_run=dry_run, enforce_retention_duration=False) if table else []


@contextmanager
def _opened(url: str) -> Iterator["DeltaTable | None"]:
    """Yield a Delta table, or None where there is none, or nobody can have written one."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        yield None
        return
    try:
        yield DeltaTable(url) if DeltaTable.is_deltatable(url) else None
    except (DeltaError, OSError) as error:
        raise StoreError(f"cannot use the Delta table {url}: {first_line(error)}") from error
