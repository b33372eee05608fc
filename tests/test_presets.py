"""Presets of well-known dumps, each with a file of its shape."""

import json
from datetime import UTC, datetime
from typing import get_args

import polars as pl
import pytest

from sentiment_model.config import IngestConfig, Preset
from sentiment_model.sources.columns import PRESETS, labels_of, mapping_of
from sentiment_model.sources.ingest import write_reviews
from sentiment_model.sources.unify import to_reviews
from sentiment_model.store.datasets import DatasetWriter
from sentiment_model.text.reviews import ORIGIN_SCHEMA, QUARANTINE_SCHEMA, Batch


def ingest(tmp_path, path, preset, **options):
    """Return the reviews and the counts."""
    out = tmp_path / "out"
    out.mkdir()
    config = IngestConfig(source="files", path=str(path), preset=preset, **options)
    counts = write_reviews(DatasetWriter(out), config)
    return pl.read_parquet(out / "part-*.parquet"), counts


def jsonl(path, *records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def at(*moment):
    return datetime(*moment, tzinfo=UTC)


def test_every_preset_has_a_mapping():
    assert set(PRESETS) == set(get_args(Preset))


def test_amazon_2018(tmp_path):
    record = {
        "overall": 5.0,
        "vote": "2",
        "verified": True,
        "reviewTime": "09 13, 2009",
        "reviewerID": "A2",
        "asin": "B1",
    }
    record |= {"style": {"Format:": " Hardcover"}, "reviewerName": "J.", "reviewText": "Great.", "summary": "S"}
    record |= {"unixReviewTime": 1252800000}
    path = jsonl(tmp_path / "Books_5.json", record, record | {"overall": 1.0, "reviewText": "Poor."})
    reviews, _ = ingest(tmp_path, path, "amazon-reviews-2018")
    assert reviews.rows() == [
        ("Books_5.json:1", "Great.", 1, 5.0, "Books_5", "b1", at(2009, 9, 13)),
        ("Books_5.json:2", "Poor.", 0, 1.0, "Books_5", "b1", at(2009, 9, 13)),
    ]


def test_google_play_scraper(tmp_path):
    path = tmp_path / "app.csv"
    path.write_text(
        "reviewId,userName,userImage,content,score,thumbsUpCount,reviewCreatedVersion,at,replyContent,repliedAt,appVersion\n"
        "r1,A,https://x,Works well,5,0,1.0,2023-04-12 09:42:38,,,1.0\n"
        "r2,B,https://x,Crashes,1,3,,2023-04-12 09:42:38,Sorry,2023-04-13 00:00:00,\n"
    )
    reviews, _ = ingest(tmp_path, path, "google-play-scraper")
    assert reviews.rows() == [
        ("r1", "Works well", 1, 5.0, "app", None, at(2023, 4, 12, 9, 42, 38)),
        ("r2", "Crashes", 0, 1.0, "app", None, at(2023, 4, 12, 9, 42, 38)),
    ]


def test_app_store_scraper(tmp_path):
    path = tmp_path / "app.csv"
    path.write_text(
        ",date,review,rating,isEdited,title,userName,developerResponse\n"
        "0,2020-07-20 17:37:50,Works well,5,False,Fine,A,\n"
        "1,2020-07-21 17:37:50,Crashes,1,False,Bad,B,\"{'id': 1, 'body': 'Sorry'}\"\n"
    )
    reviews, _ = ingest(tmp_path, path, "app-store-scraper")
    assert reviews.select("text", "label", "written_at").rows() == [
        ("Works well", 1, at(2020, 7, 20, 17, 37, 50)),
        ("Crashes", 0, at(2020, 7, 21, 17, 37, 50)),
    ]


@pytest.mark.parametrize("classes", [("negative", "positive"), ("negative", "neutral", "positive")])
def test_steam(tmp_path, classes):
    record = {"recommendationid": "7", "author": {"steamid": "765", "num_reviews": 3}, "language": "english"}
    record |= {"review": "Fun", "timestamp_created": 1683374400, "voted_up": True, "votes_up": 0}
    path = jsonl(tmp_path / "570.jsonl", record, record | {"voted_up": False, "review": "Dull"})
    reviews, _ = ingest(tmp_path, path, "steam", classes=classes)
    last = len(classes) - 1
    assert reviews.rows() == [
        ("7", "Fun", last, None, "570", "765", at(2023, 5, 6, 12)),
        ("7", "Dull", 0, None, "570", "765", at(2023, 5, 6, 12)),
    ]


def test_steam_of_kaggle(tmp_path):
    path = tmp_path / "dataset.csv"
    path.write_text(
        "app_id,app_name,review_text,review_score,review_votes\n"
        "10,Counter-Strike,Ruined my life.,1,0\n10,Counter-Strike,Dull,-1,1\n10,Counter-Strike,nan,-1,1\n"
    )
    reviews, counts = ingest(tmp_path, path, "kaggle-steam", max_bad_share=0.4)
    assert reviews.select("text", "label", "group").rows() == [("Ruined my life.", 1, "10"), ("Dull", 0, "10")]
    assert counts["reasons"] == {"missing_text": 1}


def test_goodreads(tmp_path):
    record = {"user_id": "8842", "book_id": "24375664", "review_id": "5cd4", "rating": 5, "review_text": "Loved it."}
    record |= {"date_added": "Fri Aug 25 13:55:02 -0700 2017", "date_updated": "", "read_at": "", "started_at": ""}
    record |= {"n_votes": 16, "n_comments": 0}
    path = jsonl(tmp_path / "goodreads_reviews_dedup.json", record, record | {"rating": 0, "review_id": "b1"})
    reviews, counts = ingest(tmp_path, path, "goodreads")
    assert reviews.select("review_id", "label", "rating", "group", "written_at").rows() == [
        ("5cd4", 1, 5.0, "24375664", at(2017, 8, 25, 20, 55, 2)),
        ("b1", None, None, "24375664", at(2017, 8, 25, 20, 55, 2)),
    ]
    assert counts["unrated"] == 0


SENTIMENT140 = [
    ("0", "1467810369", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", "one", "awful"),
    ("2", "4", "Mon May 11 03:21:41 UTC 2009", "kindle2", "two", "a kindle"),
    ("4", "5", "Mon May 11 03:21:41 UTC 2009", "kindle2", "three", "love it"),
]


@pytest.mark.parametrize(
    ("classes", "labels"),
    [(("negative", "positive"), [0, 1]), (("negative", "neutral", "positive"), [0, 1, 2])],
)
def test_sentiment140(classes, labels):
    mapping = PRESETS["sentiment140"]
    frame = pl.DataFrame(SENTIMENT140, schema=mapping.column_names, orient="row")
    origin = pl.DataFrame([("a.csv", n, "a") for n in (1, 2, 3)], schema=ORIGIN_SCHEMA, orient="row")
    batch = Batch(frame, origin, QUARANTINE_SCHEMA.to_frame(), tuple(frame.columns))
    unified = to_reviews(batch, IngestConfig(source="files", path="a.csv", preset="sentiment140", classes=classes))
    assert unified.reviews["label"].to_list() == labels
    assert unified.left_out == 3 - len(labels)
    assert unified.reviews.row(0) == ("1467810369", "awful", 0, None, "a", "one", at(2009, 4, 7, 5, 19, 45))
    assert mapping.encoding == "cp1252"


def test_imdb_of_kaggle(tmp_path):
    path = tmp_path / "IMDB Dataset.csv"
    path.write_text('review,sentiment\n"One of the best.<br /><br />See it.",positive\nDull,negative\n')
    reviews, _ = ingest(tmp_path, path, "kaggle-imdb")
    assert reviews["label"].to_list() == [1, 0]


def test_the_configuration_goes_before_the_preset():
    config = IngestConfig(source="files", path="a.csv", preset="sentiment140", dropped_labels=("0",))
    assert labels_of(config).classes == {"negative": 0, "positive": 1, "4": 1}
    config = IngestConfig(source="files", path="a.csv", preset="sentiment140", labels=("negative=4", "positive=0"))
    assert labels_of(config).classes == {"negative": 0, "positive": 1, "4": 0, "0": 1}
    assert not labels_of(config).dropped
    config = IngestConfig(source="files", path="a.csv", preset="sentiment140", classes=("bad", "good"))
    assert labels_of(config).dropped == frozenset()
    assert mapping_of(config).labels["2"] == "neutral"


def test_columns_that_a_preset_can_do_without_may_be_missing(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"reviewText": "Great.", "overall": 5}, {"reviewText": "Poor.", "overall": 1})
    reviews, counts = ingest(tmp_path, path, "amazon-reviews-2018")
    assert reviews["label"].to_list() == [1, 0]
    assert counts["with_group"] == 0
