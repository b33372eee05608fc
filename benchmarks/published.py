"""What a reader finds in a table of scores, and how it differs from another one."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from sentiment_model.store.datasets import sha256_of

_ROLES = {"scores": ["row_id"], "quarantine": ["file", "row"]}
"""The columns that name a row, by the role of its file."""
_RUN_DEPENDENT = ("scored_at",)
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Differences:
    """How many rows are not as they should be.

    Attributes:
        lost: are missing.
        doubled: are there more than once, each counted.
        different: say something else, or should not be there.
    """

    lost: int = 0
    doubled: int = 0
    different: int = 0

    def __add__(self, other: "Differences") -> "Differences":
        return Differences(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __bool__(self) -> bool:
        return self != Differences()


def visible_files(table: Path) -> dict[str, list[Path]]:
    """Return the files that a reader sees who knows nothing of logs, by role."""
    return {role: sorted(table.glob(f"{role}/**/*.parquet")) for role in _ROLES}


def manifest_files(table: Path) -> dict[str, list[Path]]:
    """Return the files that the manifests name, by role, but those that are not what it says of them."""
    files: dict[str, list[Path]] = {role: [] for role in _ROLES}
    for manifest in table.glob("_log/*/manifests/*.json"):
        for entry in json.loads(manifest.read_text())["files"]:
            path = table / entry["path"]
            if path.is_file() and sha256_of(path) == entry["sha256"]:
                files[entry["role"]].append(path)
    return files


def unpublished(table: Path) -> list[Path]:
    """Return the files that readers see though no receipt names them with their size."""
    visible = {path: path.stat().st_size for paths in visible_files(table).values() for path in paths}
    receipts = [json.loads(path.read_text()) for path in table.glob("_log/*/receipts/*.json")]
    named = {table / file["path"]: file["bytes"] for receipt in receipts for file in receipt["files"]}
    return [path for path, size in visible.items() if named.get(path) != size]


def count_rows(files: dict[str, list[Path]]) -> int:
    """Return the number of rows of files, given by role."""
    return sum(len(_read(paths)) for paths in files.values())


def differences(expected: dict[str, list[Path]], found: dict[str, list[Path]]) -> Differences:
    """Compare the rows of files, given by role, one by one.

    All columns count but the time of the run. Probabilities may differ by 1e-6: the rows of a batch are summed in an
    order that depends on their neighbours.
    """
    compared = [_compare(_read(expected[role]), _read(found[role]), key) for role, key in _ROLES.items()]
    return sum(compared, Differences())


def _read(files: Iterable[Path]) -> pl.DataFrame:
    frames = [pl.read_parquet(path, glob=False) for path in files]
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def _compare(expected: pl.DataFrame, found: pl.DataFrame, key: list[str]) -> Differences:
    if found.is_empty():
        return Differences(lost=len(expected))
    once = found.unique(key)
    lost = expected.join(once, on=key, how="anti")
    strange = once.join(expected, on=key, how="anti")
    columns = [name for name in expected.columns if name not in (*key, *_RUN_DEPENDENT)]
    if {*columns, *key} != {*found.columns} - {*_RUN_DEPENDENT}:
        return Differences(len(lost), len(found) - len(once), len(once))
    both = expected.join(once, on=key, suffix=" found")
    same = pl.all_horizontal(_same(name, both.schema[name]) for name in columns).fill_null(False)
    return Differences(len(lost), len(found) - len(once), len(strange) + len(both.filter(~same)))


def _same(name: str, kind: pl.DataType) -> pl.Expr:
    mine, other = pl.col(name), pl.col(f"{name} found")
    if kind.is_float():
        return ((mine - other).abs() <= _TOLERANCE) | mine.eq_missing(other)
    return mine.eq_missing(other)
