"""Which files of a folder hold reviews, and which are passed over."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from sentiment_model.config import ReviewFiles
from sentiment_model.errors import FileAccessError, NoReviewsError
from sentiment_model.sources.columns import mapping_of, top_level
from sentiment_model.sources.files import FORMATS, SourceFile, endings
from sentiment_model.sources.locations import Location, find
from sentiment_model.sources.records import options

_SAYS_NOTHING = {"", ".txt", ".text", ".dat", ".data", ".log", ".out", ".part"}
"""Endings of files that may be of any format."""

_METADATA_BYTES = 1 << 20
_FEW_DOCUMENTS = 100  # more of them are no metadata
_SHOWN = 3


class Listing(NamedTuple):
    """The files at a path.

    Attributes:
        files: those of reviews, sorted by name.
        passed_over: names of the others by why they were.
    """

    files: list[SourceFile]
    passed_over: dict[str, list[str]]

    def message(self) -> str | None:
        """Return how many files were passed over and why, in a sentence; None where none was."""
        reasons = [
            f"{len(names):,} {why} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for why, names in self.passed_over.items()
        ]
        count = sum(map(len, self.passed_over.values()))
        return f"{count:,} file{'s' if count > 1 else ''} passed over: {'; '.join(reasons)}" if reasons else None


def list_files(config: ReviewFiles) -> Listing:
    """Return the review files at a path, glob, folder or object-store URL.

    In a folder or below a URL's prefix, files are passed over whose names say that they hold none. Where a format is
    given, those are read too whose names say nothing.

    Raises:
        NoReviewsError: the path is there, but no review file.
        SourceError: there is no such path.
    """
    found = find(str(config.path))
    given = None if config.format == "auto" else config.format
    files, passed_over = [], {why: list(names) for why, names in found.passed_over.items()}
    for location in found.locations:
        ending, compression = endings(location.name)
        by_name = FORMATS.get(ending)
        if found.by_name:
            files.append(SourceFile(location, given or by_name, compression))
        elif by_name and given in (None, by_name):
            files.append(SourceFile(location, by_name, compression))
        elif (given and ending in _SAYS_NOTHING) or (compression == "zip" and not ending):
            files.append(SourceFile(location, given, compression))
        elif by_name:
            passed_over.setdefault(f"not {given}", []).append(location.name)
        else:
            why = f"ending in {ending}" if ending else "without an ending"
            if ending in _SAYS_NOTHING:
                why += f", which are read where {options('format')} is given"
            passed_over.setdefault(why, []).append(location.name)
    if not found.by_name:
        files = _without_metadata(files, config, passed_over)
    listing = Listing(files, passed_over)
    if not files and not passed_over:
        raise NoReviewsError(f"there are no files in {config.path}")
    if not files:
        raise NoReviewsError(
            f"no review files in {config.path}: {listing.message()}; names of review files end in "
            f"{', '.join(FORMATS)}, or in one of these and .gz, .zst, .bz2, .xz or .zip"
        )
    return listing


def _without_metadata(
    files: list[SourceFile], config: ReviewFiles, passed_over: dict[str, list[str]]
) -> list[SourceFile]:
    """Return the files without those that describe a dataset: JSON documents without a text, beside others."""
    documents = [file for file in files if endings(file.name)[0] == ".json" and not file.compression]
    if len(documents) > _FEW_DOCUMENTS:
        return files
    names = top_level(mapping_of(config).columns.text)
    metadata = {file.name for file in documents if _is_metadata(file.location, names)}
    if not metadata or len(metadata) == len(files):
        return files
    passed_over["of JSON that describes something and holds no reviews"] = sorted(metadata)
    return [file for file in files if file.name not in metadata]


def _is_metadata(location: Location, text: Iterable[str]) -> bool:
    if location.size > _METADATA_BYTES:
        return False
    try:
        with location.open() as content:
            document = json.loads(content.read())
    except (ValueError, RecursionError, FileAccessError):
        return False  # reading it will tell
    records = document if isinstance(document, list) else [document]
    return not any(isinstance(record, dict) and not record.keys().isdisjoint(text) for record in records)
