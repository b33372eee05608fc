"""Which files a run scores, and the plans that cut them into shards."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from sentiment_model.config import ScoringRun
from sentiment_model.errors import FileAccessError, NoReviewsError
from sentiment_model.scoring.ledger import Ledger
from sentiment_model.scoring.shards import cut, file_key
from sentiment_model.scoring.table import Plan
from sentiment_model.sources.files import SourceFile
from sentiment_model.sources.listing import Listing, list_files
from sentiment_model.sources.locations import Location
from sentiment_model.store.datasets import DatasetRef, open_dataset


class Inbox(NamedTuple):
    """The files that a run names.

    Attributes:
        files: those to score, by key.
        unreadable: why others cannot be read, by name.
        nothing: why there are none, or None.
        passed_over: which files beside them are passed over and why, in a sentence; None where none is.
    """

    files: dict[str, SourceFile]
    unreadable: dict[str, str]
    nothing: str | None
    passed_over: str | None = None

    def is_one_file(self, path: str) -> bool:
        """Return whether the path names a file and not a folder: who names one file expects rows of it."""
        name = Path(path).name
        return any(file.name == name for file in self.files.values())


class Planned(NamedTuple):
    """What plans need beside the table's log.

    Attributes:
        splits: the splits that pending shards need, by the file's key.
        unreadable: why files cannot be split, by name; they are left to another run.
        new_files: how many files were planned for the first time.
    """

    splits: dict[str, DatasetRef]
    unreadable: dict[str, str]
    new_files: int


Splitter = Callable[[Mapping[str, SourceFile], ScoringRun], tuple[dict[str, DatasetRef], dict[str, str]]]
"""Splits the large text files among some, given by key, as a run says; returns the splits by key, and why files cannot
be read, by name.

A file that can be read, but holds nothing that can be split, is in neither: who scores it will find that it is broken.
"""


def open_inbox(run: ScoringRun, fingerprint: Callable[[Location], str]) -> Inbox:
    """Return the files that a run names.

    Args:
        run: which files.
        fingerprint: tells what :meth:`Location.fingerprint` does.

    Raises:
        SourceError: there is no such path.
    """
    files: dict[str, SourceFile] = {}
    unreadable: dict[str, str] = {}
    try:
        listing = files_to_score(run)
        for file in listing.files:
            try:
                files[file_key(file, fingerprint)] = file
            except FileAccessError as error:
                unreadable[file.name] = str(error)
    except NoReviewsError as error:
        return Inbox({}, {}, str(error))
    return Inbox(files, unreadable, None, listing.message())


def files_to_score(run: ScoringRun) -> Listing:
    """Return the files that a run names, those changed in its range of time, and which are passed over.

    Raises:
        NoReviewsError: the path is there, but no review file, or none that was changed in that time.
        SourceError: there is no such path.
    """
    listing = list_files(run.files)
    start = run.modified_from.timestamp() if run.modified_from else float("-inf")
    end = run.modified_before.timestamp() if run.modified_before else float("inf")
    chosen = [file for file in listing.files if start <= file.location.modified < end]
    if not chosen:
        raise NoReviewsError(
            f"none of the {len(listing.files):,} files in {run.files.path} was changed in the time named"
        )
    return listing._replace(files=chosen)


def plan(ledger: Ledger, files: Mapping[str, SourceFile], run: ScoringRun, split: Splitter) -> Planned:
    """Plan the files that nobody has planned yet, and the pieces of shards that were cancelled.

    Args:
        ledger: what has been planned and done.
        files: all files to score, by key.
        run: how they are read and cut.
        split: splits large text files.

    Raises:
        StoreError: the store or the table cannot be written.
    """
    splits: dict[str, DatasetRef] = {}
    unreadable: dict[str, str] = {}
    tried: set[str] = set()
    new_files = 0
    while True:
        anew = ledger.to_plan_anew()
        new = {key: files[key] for key in ledger.unplanned(files) if files[key].name not in unreadable}
        if not anew and not new:
            break
        made, failed = split({key: file for key, file in new.items() if key not in tried}, run)
        tried |= new.keys()
        splits |= made
        unreadable |= failed
        new = {key: file for key, file in new.items() if file.name not in unreadable}
        shards = [*anew, *cut(new, {key: open_dataset(ref) for key, ref in splits.items()}, run.shard_rows)]
        if shards and ledger.table.append(Plan(shards=shards), ledger.plans):
            new_files += len(new)
        ledger.update()
    # As the plan says, which may be another run's: with other parts, rows would be lost and doubled.
    needed = {
        piece.file: piece.shard_rows
        for shard in ledger.pending(files)
        for piece in shard.pieces
        if piece.file in files and piece.is_split
    }
    splits = {key: ref for key, ref in splits.items() if needed.get(key) == run.shard_rows}
    for key, shard_rows in needed.items():
        if key not in splits:
            made, failed = split({key: files[key]}, run.model_copy(update={"shard_rows": shard_rows}))
            splits |= made
            unreadable |= failed
    return Planned(splits, unreadable, new_files)
