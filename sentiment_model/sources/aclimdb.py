"""The Large Movie Review Dataset (Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011).

One file holds one review: `aclImdb/train/pos/0_9.txt` is number 0, rated 9. Its film is in line 0 of
`aclImdb/train/urls_pos.txt`, and is its group. The archive is read member by member and never extracted, so no path in
it can name a place outside; what only an attack would hold is quarantined.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, Self, cast

import polars as pl

from sentiment_model.config import IngestConfig, LabelledColumns
from sentiment_model.errors import SourceError
from sentiment_model.sources.compression import compression_of, read_chunks
from sentiment_model.sources.containers import HEAD_BYTES
from sentiment_model.sources.locations import Location, find
from sentiment_model.sources.records import BATCH_BYTES
from sentiment_model.store.datasets import sha256_of
from sentiment_model.text.reviews import Batch, Fault, quarantined

MAX_ARCHIVE_BYTES = 4 << 30
"""Most bytes of an archive, uncompressed; the original has about 0.5 GB."""

_MAX_METADATA_BYTES = 1 << 16
_METADATA = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_REVIEW = re.compile(r"(?:^|/)(train|test)/(pos|neg|unsup)/(\d+)_(\d+)\.txt$")
_URLS = re.compile(r"(?:^|/)(train|test)/urls_(pos|neg|unsup)\.txt$")
_FILM = re.compile(r"/title/(tt\d+)")
_MAX_URLS_BYTES = 32 << 20
_FOLDERS = [(split, kind) for split in ("train", "test") for kind in ("pos", "neg", "unsup")]


def aclimdb_config(config: IngestConfig) -> IngestConfig:
    """Return the configuration with the archive's own columns and labels."""
    return config.model_copy(
        update={
            "preset": None,
            "columns": LabelledColumns(
                text="text", label="label", rating="rating", review_id="review_id", group="film"
            ),
            "labels": (f"{config.classes[0]}=neg", f"{config.classes[1]}=pos"),
        }
    )


def aclimdb_fingerprints(path: str) -> dict[str, str]:
    """Return a hash of the archive, or of the names and contents of all reviews in the folder."""
    root = Path(path)
    if not root.is_dir():
        location = _archive(path)
        return {location.name: location.fingerprint()}
    digest = hashlib.sha256()
    for name, review in _files(root):
        digest.update(f"{name}\0{'' if review.is_symlink() else sha256_of(review)}\n".encode())
    for name, urls in _url_files(root):
        digest.update(f"{name}\0{sha256_of(urls)}\n".encode())
    return {"aclImdb": digest.hexdigest()}


def read_aclimdb(path: str, max_text_bytes: int, batch_rows: int) -> Iterator[Batch]:
    """Yield the reviews of the archive, a .tar packed or not (local or in an object store), or of its extracted folder.

    The source of a review is `aclimdb/train`, `aclimdb/test` or `aclimdb/unsup`; the last have no rating.

    Raises:
        SourceError: there are no reviews, or the archive is damaged, too large, or a bomb.
    """
    root = Path(path)
    if root.is_dir():
        films = _films((name, urls.read_bytes()) for name, urls in _url_files(root))
        items = _from_folder(root, max_text_bytes)
    else:
        films = _films(_urls_of_archive(_archive(path)))
        items = _from_archive(_archive(path), max_text_bytes)
    records: list[_Record] = []
    faults: list[tuple[str, int, Fault]] = []
    size = 0
    empty = True
    for name, item in items:
        if isinstance(item, Fault):
            faults.append((name, 1, item))
        else:
            empty = False
            records.append(item)
            size += len(item.text)
        if len(records) + len(faults) >= batch_rows or size >= BATCH_BYTES:
            yield _batch(records, faults, films)
            records, faults, size = [], [], 0
    if records or faults:
        yield _batch(records, faults, films)
    if empty:
        raise SourceError(f"no reviews in {path}: expected files such as aclImdb/train/pos/0_9.txt")


class _Record(NamedTuple):
    file: str
    source: str
    review_id: str
    text: str
    label: str | None
    rating: float | None


def _batch(records: list[_Record], faults: list[tuple[str, int, Fault]], films: dict[str, str]) -> Batch:
    table = pl.DataFrame(
        records,
        schema={
            "file": pl.String(),
            "source": pl.String(),
            "review_id": pl.String(),
            "text": pl.String(),
            "label": pl.String(),
            "rating": pl.Float64(),
        },
        orient="row",
    )
    film = pl.Series("film", [films.get(_place(record.review_id)) for record in records], pl.String())
    frame = table.select("review_id", "text", "label", "rating", film)
    origin = table.select("file", pl.lit(1, pl.Int64()).alias("row"), "source")
    return Batch(frame, origin, quarantined(faults), tuple(frame.columns))


def _parse(name: str, match: re.Match[str], content: bytes) -> _Record | Fault:
    split, kind, number, rating = match.groups()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return Fault("undecodable", f"not UTF-8: {error.reason}", content)
    labelled = kind != "unsup"
    return _Record(
        file=name,
        source=f"aclimdb/{split}" if labelled else "aclimdb/unsup",
        review_id=f"{split}/{kind}/{number}_{rating}",
        text=text,
        label=kind if labelled else None,
        rating=float(rating) if labelled else None,
    )


def _place(review_id: str) -> str:
    """Return where a review stands, which is all of its id but the rating: `train/pos/0`."""
    return review_id.rpartition("_")[0]


def _films(files: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Return the film of each review that the files with their names and content have one for, by its place."""
    films: dict[str, str] = {}
    for name, content in files:
        match = _URLS.search(name)
        if match is None:
            continue
        for number, line in enumerate(content.decode("latin-1").split("\n")):
            if film := _FILM.search(line):
                films[f"{match[1]}/{match[2]}/{number}"] = film[1]
    return films


def _url_files(root: Path) -> Iterator[tuple[str, Path]]:
    base = _base(root)
    for split, kind in _FOLDERS:
        urls = base / split / f"urls_{kind}.txt"
        if urls.is_file() and not urls.is_symlink() and urls.stat().st_size <= _MAX_URLS_BYTES:
            yield f"{split}/{urls.name}", urls


def _urls_of_archive(archive: Location) -> Iterator[tuple[str, bytes]]:
    """Yield the files that name the films; they may stand behind the reviews, so the archive is read twice."""
    with _open_tar(archive) as tar:
        for member in tar:
            if member.isreg() and _URLS.search(member.name) and member.size <= _MAX_URLS_BYTES:
                yield member.name, cast("IO[bytes]", tar.extractfile(member)).read()
            tar.members.clear()  # type: ignore[attr-defined]  # as below


def _base(root: Path) -> Path:
    return root / "aclImdb" if (root / "aclImdb").is_dir() else root


def _too_long(size: int, limit: int) -> Fault:
    return Fault("text_too_long", f"{size} bytes, above max_text_bytes {limit}")


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    base = _base(root)
    for folder in _FOLDERS:
        where = base.joinpath(*folder)
        if where.is_symlink():
            yield where.relative_to(base).as_posix(), where
        elif where.is_dir():
            for name in sorted(os.listdir(where)):  # noqa: PTH208  (100,000 names: no Path for each)
                yield f"{folder[0]}/{folder[1]}/{name}", where / name


def _from_folder(root: Path, max_text_bytes: int) -> Iterator[tuple[str, _Record | Fault]]:
    for name, path in _files(root):
        match = _REVIEW.search(name)
        if path.is_symlink() or not path.is_file():
            yield name, Fault("unsafe_member", "a link, a folder or a device, not a file")
        elif match:
            size = path.stat().st_size
            if size > max_text_bytes:
                yield name, _too_long(size, max_text_bytes)
            else:
                yield name, _parse(name, match, path.read_bytes())


def _archive(path: str) -> Location:
    return find(path).locations[0]


def _from_archive(archive: Location, max_text_bytes: int) -> Iterator[tuple[str, _Record | Fault]]:
    with _open_tar(archive) as tar:
        for member in tar:
            name = member.name
            match = _REVIEW.search(name)
            if name.startswith("/") or ".." in Path(name).parts:
                yield name, Fault("unsafe_member", "the path leads out of the archive")
            elif member.isdir():
                continue
            elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                yield name, Fault("unsafe_member", "a link, a device or a sparse file, not a plain file")
            elif match and member.size > max_text_bytes:
                yield name, _too_long(member.size, max_text_bytes)
            elif match:
                content = cast("IO[bytes]", tar.extractfile(member)).read()
                yield name, _parse(name, match, content)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every member it has seen


@contextmanager
def _open_tar(archive: Location) -> Iterator[tarfile.TarFile]:
    try:
        with archive.open() as file:
            compression = compression_of(file.read(HEAD_BYTES))
            file.seek(0)
            if compression == "zip":
                raise SourceError(f"{archive.path} is a zip archive; unpack it and name the folder")
            stream = _Bounded(read_chunks(file, compression), archive.path)
            with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", tarinfo=_Member) as tar:
                yield tar
            while rest := stream.read(1 << 20):  # tarfile takes a damaged header for the archive's end
                if any(rest):
                    raise SourceError(f"{archive.path} is damaged: there is data after its end; download it again")
    except tarfile.TarError as error:
        raise SourceError(f"{archive.path} is no tar archive or is damaged: {error}; download it again") from error


class _Member(tarfile.TarInfo):
    """A member's header; a name too long for it follows as data, which tarfile reads whole into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _METADATA and member.size > _MAX_METADATA_BYTES:
            raise SourceError(f"the archive names a member with {member.size} bytes; it is no aclImdb archive")
        return member


class _Bounded:
    """The uncompressed archive, up to :data:`MAX_ARCHIVE_BYTES`, as far of a file as tarfile needs."""

    def __init__(self, chunks: Iterator[bytes | Fault], path: str) -> None:
        self._chunks = chunks
        self._path = path
        self._buffer = bytearray()
        self._total = 0

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and (chunk := next(self._chunks, None)) is not None:
            if isinstance(chunk, Fault):
                raise SourceError(f"{self._path}: {chunk.detail}; download it again")
            self._total += len(chunk)
            if self._total > MAX_ARCHIVE_BYTES:
                raise SourceError(
                    f"{self._path} unpacks to more than {MAX_ARCHIVE_BYTES:,} bytes; it is no aclImdb archive"
                )
            self._buffer += chunk
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
