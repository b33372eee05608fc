"""The same code reads object stores: here a real S3 server on this machine."""

from pathlib import Path

import obstore
import polars as pl
import pytest
from obstore.store import from_url
from polars.testing import assert_frame_equal
from servers import object_store

from sentiment_model.config import IngestConfig, LabelledColumns, ReviewFiles
from sentiment_model.errors import NoReviewsError, SourceError
from sentiment_model.sources.ingest import source_fingerprints, write_reviews
from sentiment_model.sources.listing import list_files
from sentiment_model.store.datasets import DatasetWriter

TIDY = Path(__file__).parent.parent / "data" / "samples" / "tidy"


@pytest.fixture(scope="module")
def dump():
    """URL of an object-store prefix that holds the tidy samples, in two folders."""
    with object_store("reviews") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        store = from_url("s3://reviews/dump")
        for file in TIDY.iterdir():
            obstore.put(store, file.name, file)
        obstore.put(store, "notes.md", b"not reviews")
        obstore.put(store, ".hidden/reviews.csv", b"not meant")
        yield "s3://reviews/dump"


def ingest(path, out):
    out.mkdir()
    columns = LabelledColumns(text="text", rating="stars", review_id="id", written_at="date")
    config = IngestConfig(source="files", path=path, columns=columns)
    counts = write_reviews(DatasetWriter(out), config)
    return pl.read_parquet(out / "part-*.parquet"), counts, source_fingerprints(config)


def test_objects_give_the_same_reviews_as_files(dump, tmp_path):
    remote, counts, fingerprints = ingest(dump, tmp_path / "remote")
    local, local_counts, _ = ingest(str(TIDY), tmp_path / "local")
    assert_frame_equal(remote, local)
    assert counts == local_counts
    assert fingerprints.keys() == {"reviews.csv", "reviews.jsonl.gz", "reviews.parquet"}


def test_fingerprints_follow_the_content(dump, tmp_path):
    store = from_url("s3://reviews/other")
    seen = []
    for content in (b"text\none\n", b"text\ntwo\n", b"text\none\n"):
        obstore.put(store, "a.csv", content)
        seen.append(list_files(ReviewFiles(path="s3://reviews/other/a.csv")).files[0].location.fingerprint())
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ["reviews.csv", "reviews.jsonl.gz", "reviews.parquet"]),
        ("/", ["reviews.csv", "reviews.jsonl.gz", "reviews.parquet"]),
        ("/reviews.csv", ["reviews.csv"]),
        ("/*.jsonl.*", ["reviews.jsonl.gz"]),
    ],
)
def test_listing(dump, path, names):
    assert [file.name for file in list_files(ReviewFiles(path=dump + path)).files] == names


def test_what_is_not_there_is_named(dump):
    with pytest.raises(SourceError, match="there is no file at s3://reviews/nothing"):
        list_files(ReviewFiles(path="s3://reviews/nothing"))
    with pytest.raises(SourceError, match=r"there is no file at s3://reviews/nothing/\*\.csv"):
        list_files(ReviewFiles(path="s3://reviews/nothing/*.csv"))
    with pytest.raises(SourceError, match=r"cannot list s3://no-such-bucket/a.csv: .*; check the URL"):
        list_files(ReviewFiles(path="s3://no-such-bucket/a.csv"))


@pytest.mark.parametrize("name", [".keep", "_SUCCESS"])
def test_a_prefix_stays_while_an_object_is_below_it(dump, name):
    inbox = f"s3://reviews/inbox-{name.strip('._')}"
    obstore.put(from_url(inbox), name, b"")
    with pytest.raises(NoReviewsError, match="there are no files in"):
        list_files(ReviewFiles(path=inbox))
    with pytest.raises(NoReviewsError, match="no file matches"):
        list_files(ReviewFiles(path=f"{inbox}/*.csv"))


def test_a_bucket_is_there_without_an_object(dump):
    with object_store("empty") as environment, pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        with pytest.raises(NoReviewsError, match="there are no files in s3://empty"):
            list_files(ReviewFiles(path="s3://empty"))
