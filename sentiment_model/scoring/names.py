"""What the columns of the input are called in the table of scores.

Many readers do not tell names apart by case, and take the names in a path's partitions for columns. So no two columns
of the table are called alike, nor is one called like a partition.
"""

import json
from collections.abc import Iterable, Mapping

PARTITIONS = ("version", "date")
"""What the folders of the table are named after."""

RENAMED = "renamed_columns"
"""Key in the metadata of a file of scores: the columns of its input that have another name, as JSON."""


def renamed(inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """Return new names for the columns of the input that need one.

    `Date` becomes `input_Date`, since a partition is called like it, and `TEXT` beside `text` becomes `TEXT_2`.

    Args:
        inputs: the columns of the input.
        outputs: what is added to them.
    """
    inputs = list(inputs)
    ours = {name.casefold() for name in (*outputs, *PARTITIONS)}
    taken = ours | {name.casefold() for name in inputs}
    seen: set[str] = set()
    names = {}
    for name in inputs:
        free, number = name, 2
        if name.casefold() in ours:
            while free.casefold() in taken:
                free = f"input_{free}"
        elif name.casefold() in seen:
            while free.casefold() in taken:
                free, number = f"{name}_{number}", number + 1
        seen.add(name.casefold())
        if free != name:
            taken.add(free.casefold())
            names[name] = free
    return names


def renaming_metadata(names: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a file of scores that says which columns have another name."""
    return {RENAMED: json.dumps(names)} if names else {}


def stored_name(name: str, metadata: Mapping[str, str], columns: Iterable[str]) -> str:
    """Return what a column of the input is called in a file of scores.

    Args:
        name: the column, or a dotted path into one.
        metadata: of the file.
        columns: of the file.
    """
    names = json.loads(metadata.get(RENAMED, "{}"))
    if name in names:
        return str(names[name])
    head, dot, path = name.partition(".")
    return name if name in columns else f"{names.get(head, head)}{dot}{path}"
