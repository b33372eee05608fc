"""The aclImdb archive: read member by member, never extracted, trusted in nothing."""

import bz2
import gzip
import io
import tarfile
from pathlib import Path

import polars as pl
import pytest

from sentiment_model.config import IngestConfig
from sentiment_model.errors import SourceError
from sentiment_model.sources import aclimdb
from sentiment_model.sources.ingest import source_fingerprints, write_reviews
from sentiment_model.store.datasets import DatasetWriter

REVIEWS = {
    "train/pos/0_9.txt": "A delight from the first shot to the last.",
    "train/neg/1_2.txt": "Dull, loud and far too long.",
    "train/unsup/2_0.txt": "Nobody told me what to think of this one.",
    "test/pos/0_10.txt": "I could watch it again tonight.",
    "test/neg/4_1.txt": "Rarely have I been so glad to see the credits.",
}


def member(name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, content


GOOD = [member(f"aclImdb/{name}", text.encode()) for name, text in REVIEWS.items()] + [
    member("aclImdb/README", b"not a review"),
    member("aclImdb/train/urls_pos.txt", b"not a review either"),
    member("aclImdb/train/pos", type=tarfile.DIRTYPE),
]


def archive(path, members, tail=b"", pack=gzip.compress):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(pack(buffer.getvalue() + tail))
    return path


def ingest(path, tmp_path, **options):
    config = IngestConfig(source="aclimdb", path=str(path), max_bad_share=1.0, **options)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    counts = write_reviews(DatasetWriter(out), config)
    quarantine = pl.read_parquet(out / "quarantine-*.parquet")
    return (
        pl.read_parquet(out / "part-*.parquet"),
        dict(quarantine.select("file", "reason").iter_rows()),
        counts,
    )


def folder(root):
    for name, text in REVIEWS.items():
        path = root / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PACKED = {"archive": gzip.compress, "unpacked archive": bytes, "another archive": bz2.compress}


@pytest.mark.parametrize("kind", [*PACKED, "folder", "inner folder"])
def test_labels_ratings_and_sources(tmp_path, kind):
    packed = kind in PACKED
    path = archive(tmp_path / "aclImdb_v1.tar.gz", GOOD, pack=PACKED[kind]) if packed else folder(tmp_path / "in")
    reviews, quarantine, counts = ingest(path / "aclImdb" if kind == "inner folder" else path, tmp_path)
    assert not quarantine
    assert counts["rows_in"] == 5
    found = {row["review_id"]: row for row in reviews.iter_rows(named=True)}
    assert found.keys() == {name.removesuffix(".txt") for name in REVIEWS}
    assert {key: row["text"] for key, row in found.items()} == {k.removesuffix(".txt"): v for k, v in REVIEWS.items()}
    shape = {key: (row["label"], row["rating"], row["source"]) for key, row in found.items()}
    assert shape == {
        "train/pos/0_9": (1, 9.0, "aclimdb/train"),
        "train/neg/1_2": (0, 2.0, "aclimdb/train"),
        "train/unsup/2_0": (None, None, "aclimdb/unsup"),
        "test/pos/0_10": (1, 10.0, "aclimdb/test"),
        "test/neg/4_1": (0, 1.0, "aclimdb/test"),
    }


def test_hostile_members_are_quarantined_and_nothing_is_written(tmp_path):
    hostile = [
        member("../../train/pos/1_9.txt", b"escapes"),
        member("/train/pos/2_9.txt", b"absolute"),
        member("aclImdb/train/pos/3_9.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("aclImdb/train/pos/4_9.txt", type=tarfile.LNKTYPE, linkname="aclImdb/train/pos/0_9.txt"),
        member("aclImdb/train/pos/5_9.txt", type=tarfile.CHRTYPE),
        member("aclImdb/train/pos/6_9.txt", type=tarfile.FIFOTYPE),
        member("aclImdb/train/pos/7_9.txt", b"x" * 2000),
        member("aclImdb/train/pos/8_9.txt", b"\xff\xfe\xfd"),
        member("aclImdb/train/pos/9_9.txt", b"  "),
    ]
    path = archive(tmp_path / "a.tar.gz", [*hostile, *GOOD])
    before = {p for p in tmp_path.rglob("*") if "out" not in p.parts}
    reviews, quarantine, counts = ingest(path, tmp_path, max_text_bytes=1000)
    assert {p for p in tmp_path.rglob("*") if "out" not in p.parts} == before
    assert len(reviews) == 5
    assert counts["rows_in"] == 5 + len(hostile)
    reasons = ["unsafe_member"] * 6 + ["text_too_long", "undecodable", "empty_text"]
    assert quarantine == {info.name: reason for (info, _), reason in zip(hostile, reasons, strict=True)}


def test_links_in_a_folder_are_quarantined(tmp_path):
    root = folder(tmp_path / "in")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "aclImdb/train/pos/7_9.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "elsewhere").mkdir()
    (root / "aclImdb/test/unsup").symlink_to(tmp_path / "elsewhere")
    reviews, quarantine, _ = ingest(root, tmp_path)
    assert "secret" not in reviews["text"].to_list()
    assert quarantine == {"train/pos/7_9.txt": "unsafe_member", "test/unsup": "unsafe_member"}


def test_damage_is_an_error(tmp_path):
    whole = archive(tmp_path / "a.tar.gz", GOOD).read_bytes()
    half = tmp_path / "half.tar.gz"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut off"):
        ingest(half, tmp_path)
    plain = tmp_path / "plain.tar.gz"
    plain.write_bytes(b"this is no archive" * 100)
    with pytest.raises(SourceError, match="damaged"):
        ingest(plain, tmp_path)
    after_the_end = archive(tmp_path / "b.tar.gz", GOOD[:1], tail=b"\0" * 20_000 + b"members that tar does not see")
    with pytest.raises(SourceError, match="data after its end"):
        ingest(after_the_end, tmp_path)


def test_bombs_are_refused(tmp_path, monkeypatch):
    long_name = member("x" * (1 << 20) + "/train/pos/0_9.txt", b"text")
    with pytest.raises(SourceError, match="is no aclImdb archive"):
        ingest(archive(tmp_path / "name.tar.gz", [long_name]), tmp_path)
    monkeypatch.setattr(aclimdb, "MAX_ARCHIVE_BYTES", 100_000)
    big = member("aclImdb/train/unsupBow.feat", bytes(200_000))
    with pytest.raises(SourceError, match="unpacks to more than 100,000 bytes"):
        ingest(archive(tmp_path / "big.tar.gz", [*GOOD, big]), tmp_path)


def test_an_archive_without_reviews_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"expected files such as aclImdb/train/pos/0_9.txt"):
        ingest(archive(tmp_path / "a.tar.gz", [member("README", b"x")]), tmp_path)
    with pytest.raises(SourceError, match="there is no file at"):
        ingest(tmp_path / "missing.tar.gz", tmp_path)


def test_fingerprint_follows_names_and_contents(tmp_path):
    root = folder(tmp_path / "in")
    config = IngestConfig(source="aclimdb", path=str(root))
    first = source_fingerprints(config)
    assert source_fingerprints(config) == first
    Path(root, "aclImdb/train/pos/0_9.txt").rename(root / "aclImdb/train/pos/0_8.txt")
    second = source_fingerprints(config)
    assert second != first
    Path(root, "aclImdb/train/pos/0_8.txt").write_text("changed")
    assert source_fingerprints(config) not in (first, second)


URLS = b"http://www.imdb.com/title/tt0000007/usercomments\nhttp://www.imdb.com/title/tt0000008/usercomments\n"


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_the_group_of_a_review_is_its_film(tmp_path: Path, kind: str) -> None:
    """A review's number is that of its line in the file of its split and label, wherever that stands in the archive."""
    members = [member(f"aclImdb/{name}", text.encode()) for name, text in REVIEWS.items()]
    members += [
        member("aclImdb/train/urls_pos.txt", URLS),
        member("aclImdb/train/urls_neg.txt", URLS),
        member("aclImdb/test/urls_neg.txt", URLS),
    ]
    path = archive(tmp_path / "aclImdb.tar.gz", members)
    if kind == "folder":
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "extracted", filter="data")
        path = tmp_path / "extracted"
    reviews, _, counts = ingest(path, tmp_path)
    assert dict(reviews.select("review_id", "group").iter_rows()) == {
        "train/pos/0_9": "tt0000007",
        "train/neg/1_2": "tt0000008",
        "train/unsup/2_0": None,
        "test/pos/0_10": None,  # no file names its film
        "test/neg/4_1": None,  # the file has no such line
    }
    assert counts["with_group"] == 2
    if kind == "folder":
        config = IngestConfig(source="aclimdb", path=str(path))
        before = source_fingerprints(config)
        (path / "aclImdb" / "train" / "urls_pos.txt").write_bytes(URLS[:50])
        assert source_fingerprints(config) != before
