"""Cleaning: every row is accounted for, no text is on two sides, and a review never changes sides."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_model.classes import BINARY, Classes
from sentiment_model.config import CleanConfig
from sentiment_model.errors import QualityError
from sentiment_model.store.datasets import DatasetWriter
from sentiment_model.text.clean import CLEAN_SCHEMA, write_cleaned
from sentiment_model.text.reviews import QUARANTINE_SCHEMA, REVIEW_SCHEMA

Row = tuple[str, int | None, str]  # text, label, source


def reviews(rows: Sequence[Row], first_id: int = 0) -> pl.LazyFrame:
    data = [
        {"review_id": str(number), "text": text, "label": label, "source": source}
        for number, (text, label, source) in enumerate(rows, first_id)
    ]
    return pl.LazyFrame(data, schema=REVIEW_SCHEMA)


def cleaned(
    tmp_path: Path,
    rows: Sequence[Row],
    test: Sequence[Row] | None = None,
    unlabelled: Sequence[Row] | None = None,
    classes: Classes = BINARY,
    **config: Any,
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Clean, and return the kept rows, the quarantine and the counts."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    writer = DatasetWriter(folder)
    own_test = None if test is None else reviews(test, len(rows))
    more = None if unlabelled is None else reviews(unlabelled, 10_000)
    counts = write_cleaned(writer, reviews(rows), own_test, more, classes, CleanConfig(**config))

    def read(role: str, schema: pl.Schema) -> pl.DataFrame:
        files = [folder / name for name, of in writer.roles.items() if of == role]
        return pl.read_parquet(files) if files else pl.DataFrame(schema=schema)

    return read("part", CLEAN_SCHEMA), read("quarantine", QUARANTINE_SCHEMA), counts


def many(number: int, source: str = "shop") -> list[Row]:
    return [(f"review number {n}", n % 2, source) for n in range(number)]


def sides(kept: pl.DataFrame) -> dict[str, str]:
    return dict(kept.select("text", "split").iter_rows())


def test_a_review_keeps_its_side_when_more_arrive(tmp_path: Path) -> None:
    few, _, _ = cleaned(tmp_path, many(300))
    more, _, counts = cleaned(tmp_path, [*reversed(many(3000)), *many(50)])
    assert few["split"].n_unique() == 3
    assert sides(few).items() <= sides(more).items()
    sizes = {split: sum(labels.values()) for split, labels in counts["splits"].items() if split != "unlabelled"}
    assert sum(sizes.values()) == 3000
    assert counts["duplicates"] == 50
    # 3000 draws with probability 0.1: the standard deviation is 16.
    assert abs(sizes["validation"] - 300) < 80
    assert abs(sizes["test"] - 300) < 80
    assert sides(cleaned(tmp_path, many(300), salt="v2")[0]) != sides(few)


def test_the_split_is_the_same_on_every_machine(tmp_path: Path) -> None:
    # A change here moves reviews from train to test of models that exist: raise the stage's version with it.
    kept, _, _ = cleaned(tmp_path, many(60))
    key = hashlib.sha256(b"v1").digest()
    for text, split in sides(kept).items():
        place = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16, key=key).digest(), "big") / 2**128
        assert split == ("validation" if place < 0.1 else "test" if place < 0.2 else "train")
    held_out = kept.filter(pl.col("split") == "validation")["review_id"].to_list()
    assert held_out == ["1", "13", "16", "18", "19", "46", "47", "51"]


def test_texts_that_differ_in_markup_or_case_are_one_review(tmp_path: Path) -> None:
    variants: list[Row] = [("A good film!", 1, "a"), ("a GOOD<br />film!", 1, "b"), ("A good film&#33;", None, "c")]
    kept, _, counts = cleaned(tmp_path, [*many(100), *variants])
    assert kept.filter(pl.col("text").str.contains("film")).select("text", "source").rows() == [("A good film!", "a")]
    assert counts["duplicates"] == 2


def test_a_labelled_copy_is_kept_rather_than_an_unlabelled_one(tmp_path: Path) -> None:
    kept, _, counts = cleaned(
        tmp_path, [("same film", None, "a"), ("other film", None, "a"), *many(100), ("same film", 0, "b")]
    )
    films = kept.filter(pl.col("text").str.contains("film")).sort("text")
    assert films.select("text", "label", "source").rows() == [("other film", None, "a"), ("same film", 0, "b")]
    assert counts["splits"]["unlabelled"] == 1
    assert films["split"][0] == "unlabelled"


def test_a_text_with_both_labels_is_removed_whole(tmp_path: Path) -> None:
    both: list[Row] = [("hm", 1, "a"), ("hm", 0, "b"), ("HM", None, "c")]
    kept, _, counts = cleaned(tmp_path, [*both, *many(100)])
    assert not kept["text"].str.to_lowercase().eq("hm").any()
    assert counts["contradictions"] == 3
    assert counts["rows_in"] == 103


def test_reviews_without_text_are_quarantined_with_their_row(tmp_path: Path) -> None:
    kept, quarantine, counts = cleaned(tmp_path, [("<br />\u200b", 1, "shop"), *many(100), ("&nbsp;", None, "shop")])
    assert kept.height == 100
    assert counts["quarantined"] == 2
    assert quarantine.select("reason", "raw").rows() == [
        ("empty_after_normalisation", "<br />\u200b"),
        ("empty_after_normalisation", "&nbsp;"),
    ]
    assert "review 0 " in quarantine["detail"][0]
    assert "review 101 " in quarantine["detail"][1]


def test_a_test_set_of_its_own_is_the_whole_test(tmp_path: Path) -> None:
    test: list[Row] = [("review number 3", 1, "own"), ("Unseen good", 1, "own"), ("unseen bad", 0, "own")]
    test += [("clash", 1, "own"), ("clash", 0, "own"), ("no label", None, "own")]
    kept, _, counts = cleaned(tmp_path, many(200), test, validation_share=0.2)
    held_out = kept.filter(pl.col("split") == "test").sort("text")
    assert held_out["text"].to_list() == ["Unseen good", "review number 3", "unseen bad"]
    assert held_out["source"].unique().to_list() == ["own"]
    assert counts["also_in_test"] == 1  # `review number 3`, which must not be trained on too
    assert counts["contradictions"] == 2
    assert counts["splits"]["unlabelled"] == 1
    assert kept["text"].is_unique().all()


def test_labels_of_unlabelled_reviews_are_not_read(tmp_path: Path) -> None:
    alone, _, _ = cleaned(tmp_path, many(200))
    more: list[Row] = [("review number 1", 0, "more"), ("new review", 1, "more"), ("another", None, "rotten_tomatoes")]
    kept, _, counts = cleaned(tmp_path, many(200), unlabelled=more)
    assert kept.filter(pl.col("label").is_not_null()).equals(alone)
    unlabelled = kept.filter(pl.col("label").is_null())
    assert unlabelled.select("text", "split").rows() == [("new review", "unlabelled"), ("another", "unlabelled")]
    assert (counts["duplicates"], counts["splits"]["unlabelled"]) == (1, 2)


def test_sources_held_out_are_test_only(tmp_path: Path) -> None:
    rows = [*many(200), *[(f"snippet {n}", n % 2, "rotten_tomatoes") for n in range(20)]]
    rows.append(("review number 7", 1, "rotten_tomatoes"))
    kept, _, counts = cleaned(tmp_path, rows)
    snippets = kept.filter(pl.col("source") == "rotten_tomatoes")
    assert snippets["split"].unique().to_list() == ["test"]
    assert snippets.height == 21
    assert counts["also_in_test"] == 1
    assert {"train", "validation", "test"} == set(kept.filter(pl.col("source") == "shop")["split"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "train has no reviews: of 0 rows"),
        ([(f"review {n}", 1, "a") for n in range(100)], "train has only positive reviews: of 100 rows"),
        ([(f"review {n}", None, "a") for n in range(100)], r"train has no reviews.*100 are unlabelled"),
        ([("good", 1, "a"), ("bad", 0, "a")], r"(train|validation|test) has (no|only)"),
    ],
    ids=["nothing", "one-class", "unlabelled", "too-few"],
)
def test_splits_that_cannot_train_a_classifier(tmp_path: Path, rows: list[Row], message: str) -> None:
    with pytest.raises(QualityError, match=message):
        cleaned(tmp_path, rows)


words = st.sampled_from(["good", "BAD", "good<br>", "&nbsp;", "film", "Film ", "<b></b>", "bad", "fine", "x"])
rows_of = st.lists(st.tuples(words, st.sampled_from([0, 1, None]), st.sampled_from(["shop", "rotten_tomatoes"])))


@settings(max_examples=40)
@given(rows=rows_of, test=st.none() | rows_of)
def test_every_row_goes_somewhere_and_no_text_is_on_two_sides(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], test: list[Row] | None
) -> None:
    base = [*many(100), *rows]
    # A test of its own needs both labels; else the splits are refused.
    own_test = None if test is None else [("tested good", 1, "own"), ("tested bad", 0, "own"), *test]
    kept, quarantine, counts = cleaned(tmp_path_factory.mktemp("clean"), base, own_test)
    assert counts["rows_in"] == len(base) + len(own_test or [])
    gone = sum(counts[name] for name in ("duplicates", "contradictions", "also_in_test"))
    assert counts["rows_in"] == kept.height + quarantine.height + gone
    assert (counts["rows"], counts["quarantined"]) == (kept.height, quarantine.height)
    lowered = kept["text"].str.to_lowercase()
    assert lowered.n_unique() == kept.height
    assert kept["text_hash"].n_unique() == kept.height
    assert kept.schema == CLEAN_SCHEMA
    assert kept.filter(pl.col("label").is_null())["split"].unique().to_list() in ([], ["unlabelled"])
    for (split, label), group in kept.group_by("split", "label"):
        name = {0: "negative", 1: "positive"}.get(label)  # type: ignore[call-overload]
        expected = counts["splits"][split][name] if name else counts["splits"]["unlabelled"]
        assert group.height == expected
