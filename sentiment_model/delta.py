"""Scores as a Delta table, for readers who want one; needs the extra `delta`."""

from datetime import UTC, datetime

import polars as pl

from sentiment_model.errors import ConfigurationError
from sentiment_model.score_table import Staging


def append_to_delta(url: str, shard: str, staging: Staging, version: str) -> None:
    """Move the rows of a shard into a Delta table, once.

    Each shard is a transaction of its own name, which the table's log remembers: a shard that was appended by a worker
    which died before it could say so is not appended again.

    Args:
        url: folder or URL of the table, partitioned by `version` and `date`.
        shard: id of the shard.
        staging: its files; those with role `scores` are appended and removed.
        version: version of the model.

    Raises:
        ConfigurationError: deltalake is not installed.
    """
    try:
        from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
    except ImportError as error:
        raise ConfigurationError("a Delta table needs deltalake: pip install 'sentiment-pipeline[delta]'") from error
    paths = [path for path, role in staging.files.items() if role == "scores"]
    known = DeltaTable.is_deltatable(url)
    table = DeltaTable(url) if known else None
    if paths and (table is None or table.transaction_version(shard) is None):
        frames = [pl.read_parquet(path, glob=False) for path in paths]
        rows = pl.concat(frames, how="diagonal_relaxed").with_columns(
            version=pl.lit(version), date=pl.lit(datetime.now(UTC).date())
        )
        write_deltalake(
            table or url,  # the table whose log was read: a commit of the same shard in between makes this one fail
            rows,
            mode="append",
            schema_mode="merge",
            partition_by=["version", "date"],
            commit_properties=CommitProperties(app_transactions=[Transaction(shard, 1)]),
        )
    for path in paths:
        path.unlink()
        del staging.files[path]
