"""The split: no group and no text is on two sides, nothing moves that should not, none is lopsided in silence."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_model.classes import BINARY
from sentiment_model.config import CleanConfig
from sentiment_model.errors import QualityError
from sentiment_model.store.datasets import DatasetWriter
from sentiment_model.text.clean import write_cleaned
from sentiment_model.text.reviews import REVIEW_SCHEMA

START = datetime(2026, 1, 1, tzinfo=UTC)


def review(number: int, group: str | None = None, day: float | None = None, **more: Any) -> dict[str, Any]:
    """Return one of many reviews; even ones are positive."""
    when = None if day is None else START + timedelta(days=day)
    row = {"review_id": str(number), "text": f"review number {number}", "label": (number + 1) % 2, "source": "shop"}
    return {**row, "group": group, "written_at": when, **more}


def in_groups(groups: int, each: int = 10, name: str = "product {}") -> list[dict[str, Any]]:
    return [review(each * g + n, name.format(g)) for g in range(groups) for n in range(each)]


def split(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    unlabelled: Sequence[dict[str, Any]] = (),
    test: Sequence[dict[str, Any]] = (),
    **config: Any,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Clean reviews, and return what is kept and the counts."""
    folder = folder / str(len(list(folder.iterdir())))
    folder.mkdir()
    writer = DatasetWriter(folder)
    frames = [pl.LazyFrame(list(part), schema=REVIEW_SCHEMA) for part in (rows, test, unlabelled)]
    counts = write_cleaned(
        writer, frames[0], frames[1] if test else None, frames[2] if unlabelled else None, BINARY, CleanConfig(**config)
    )
    files = [folder / name for name, role in writer.roles.items() if role == "part"]
    return pl.read_parquet(files), counts


def sides(kept: pl.DataFrame, of: str) -> dict[str, set[str]]:
    return {side: set(kept.filter(split=side)[of]) for side in ("train", "validation", "test", "unlabelled")}


def test_all_reviews_of_a_group_are_on_one_side_and_stay_there(tmp_path: Path) -> None:
    few, counts = split(tmp_path, in_groups(60))
    assert counts["split_by"] == "group"
    before = sides(few, "group")
    assert sum(map(len, before.values())) == 60
    assert counts["groups"] == {side: len(groups) for side, groups in before.items() if side != "unlabelled"}
    assert all(before[side] for side in ("train", "validation", "test"))
    more = [review(10_000 + n, f"product {n}") for n in range(200)]
    after = sides(split(tmp_path, [*more, *reversed(in_groups(60))])[0], "group")
    assert sum(map(len, after.values())) == 200
    for side, groups in before.items():
        assert groups <= after[side]
    assert sides(split(tmp_path, in_groups(60), salt="v2")[0], "group") != before
    assert sides(split(tmp_path, in_groups(60, name="Product {}"))[0], "group")["train"] == {
        group.replace("p", "P", 1) for group in before["train"]
    }


def test_without_groups_each_text_is_on_its_own(tmp_path: Path) -> None:
    rows = [review(n) for n in range(300)]
    kept, counts = split(tmp_path, rows)
    assert counts["split_by"] == "text"
    assert "groups" not in counts
    assert kept.equals(split(tmp_path, rows, split_by="text")[0])
    # A review without a group is where its text would be.
    mixed, counts = split(tmp_path, [*in_groups(60), *[{**row, "text": f"{row['text']} alone"} for row in rows]])
    alone = mixed.filter(pl.col("group").is_null())
    assert dict(alone.select("text", "split").rows()) == {
        f"{text}": side
        for text, side in split(tmp_path, [{**row, "text": f"{row['text']} alone"} for row in rows])[0]
        .select("text", "split")
        .rows()
    }
    assert counts["without_group"] == 300


def test_known_groups_can_be_split_by_text(tmp_path: Path) -> None:
    kept, counts = split(tmp_path, in_groups(60), split_by="text")
    assert sides(kept, "group")["train"] & sides(kept, "group")["test"]
    assert counts["test_of_known_groups"] == kept.filter(split="test").height > 0


def test_the_newest_are_the_test_and_the_next_newest_the_validation(tmp_path: Path) -> None:
    rows = [review(n, day=(7 * n) % 200) for n in range(200)]
    kept, counts = split(tmp_path, rows, split_by="time", validation_share=0.1, test_share=0.2)
    days = kept.with_columns(day=(pl.col("written_at") - START).dt.total_days())
    assert set(days.filter(split="test")["day"]) == set(range(160, 200))
    assert set(days.filter(split="validation")["day"]) == set(range(140, 160))
    assert set(days.filter(split="train")["day"]) == set(range(140))
    assert counts["validation_from"] == (START + timedelta(days=140)).isoformat()
    assert counts["test_from"] == (START + timedelta(days=160)).isoformat()


def test_reviews_of_one_day_are_on_one_side(tmp_path: Path) -> None:
    rows = [review(n, day=n // 20) for n in range(200)]
    kept, _ = split(tmp_path, rows, split_by="time", validation_share=0.05, test_share=0.05)
    assert kept.group_by("written_at").agg(pl.col("split").n_unique())["split"].max() == 1
    assert kept.filter(split="test")["written_at"].to_list() == [START + timedelta(days=9)] * 20


def test_a_review_without_a_date_is_on_no_side_of_a_split_by_time(tmp_path: Path) -> None:
    rows = [review(n, day=n) for n in range(100)] + [review(n) for n in range(100, 120)]
    kept, counts = split(tmp_path, rows, [review(500, label=None)], split_by="time")
    assert kept["written_at"].null_count() == 0
    assert counts["on_no_side"] == 21
    assert counts["rows_in"] == kept.height + 21


def test_unlabelled_reviews_of_what_is_held_out_are_not_trained_on(tmp_path: Path) -> None:
    more = [review(9_000 + g, f"product {g}", label=None) for g in range(80)]
    kept, counts = split(tmp_path, in_groups(60), [*more, review(9_999, label=None)])
    labelled, unlabelled = sides(kept.drop_nulls("label"), "group"), sides(kept, "group")["unlabelled"]
    assert not unlabelled & (labelled["validation"] | labelled["test"])
    assert labelled["train"] | {None} <= unlabelled
    assert counts["on_no_side"] == 80 + 1 - kept.filter(split="unlabelled").height > 0
    rows = [review(n, day=n) for n in range(100)]
    kept, counts = split(
        tmp_path, rows, [review(900, day=85, label=None), review(901, day=3, label=None)], split_by="time"
    )
    assert kept.filter(split="unlabelled")["review_id"].to_list() == ["901"]
    assert counts["on_no_side"] == 1


def test_nothing_is_trained_on_that_a_test_of_its_own_has_a_group_of(tmp_path: Path) -> None:
    test = [review(7_000, "product 1"), review(7_001, "product 1"), review(7_002, "new"), review(7_003)]
    more = [review(8_000, "product 1", label=None), review(8_001, "new", label=None), review(8_002, label=None)]
    kept, counts = split(tmp_path, in_groups(60), more, test=test)
    found = sides(kept, "review_id")
    assert found["test"] == {"7000", "7001", "7002", "7003"}
    assert found["unlabelled"] == {"8002"}
    of_test = pl.col("group").is_in(["product 1", "new"])
    assert set(kept.filter(of_test)["split"]) == {"test"}
    assert counts["on_no_side"] == 10 + 2
    assert (counts["test_of_known_groups"], counts["groups"]["test"]) == (0, 2)
    # By text, groups are nobody's business, which is said.
    kept, counts = split(tmp_path, in_groups(60), more, test=test, split_by="text")
    assert (counts["on_no_side"], counts["test_of_known_groups"]) == (0, 2)
    # The same of a source that is for the test only.
    rows = [*in_groups(60), *[{**row, "source": "panel"} for row in test]]
    kept, counts = split(tmp_path, rows, test_only_sources=("panel",))
    assert found["test"] < sides(kept, "review_id")["test"]
    assert set(kept.filter(of_test)["split"]) == {"test"}


def test_nothing_is_trained_on_from_the_time_of_a_test_of_its_own(tmp_path: Path) -> None:
    rows = [review(n, day=n) for n in range(100)]
    test = [review(7_000, day=80), review(7_001, day=300), review(7_002)]
    more = [review(8_000, day=79, label=None), review(8_001, day=20, label=None)]
    kept, counts = split(tmp_path, rows, more, test, split_by="time", validation_share=0.1)
    days = kept.with_columns(day=(pl.col("written_at") - START).dt.total_days())
    assert set(days.filter(split="train")["day"]) == set(range(70))
    assert set(days.filter(split="validation")["day"]) == set(range(70, 80))
    assert kept.filter(split="unlabelled")["review_id"].to_list() == ["8001"]
    assert (kept.filter(split="test").height, counts["on_no_side"]) == (3, 20 + 1)


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (in_groups(60, name=""), {"split_by": "group"}, "no labelled review has a group: name its column with"),
        ([review(n) for n in range(50)], {"split_by": "time"}, "only 0 of 50 labelled reviews have a date"),
        (
            [review(n, day=n if n < 25 else None) for n in range(50)],
            {"split_by": "time"},
            "only 25 of 50 labelled reviews have a date",
        ),
        (
            [review(n, day=0) for n in range(50)],
            {"split_by": "time"},
            "train has 0% of the reviews instead of 80%: too many are",
        ),
        (in_groups(3), {"salt": "v1"}, r"(validation|test) has [01] groups, at least 2 wanted: of 3 groups"),
        (
            [*in_groups(60), *[review(1000 + n, "x" * 300) for n in range(400)]],
            {"salt": "v10"},
            rf"test has \d+% .* instead of 10%: of 61 groups the largest \({'x' * 60}…\) has 40% of .*be `text`",
        ),
        (
            [review(n, day=min(n, 70)) for n in range(100)],
            {"split_by": "time"},
            "test has 30% of the reviews instead of 10%: too many are of one moment",
        ),
        (
            [*in_groups(40), *[review(1000 + n, "huge") for n in range(4000)]],
            {"salt": "v10"},
            r"train has \d+% of the reviews instead of 80%: of 41 groups the largest \(huge\) has 91% of the reviews",
        ),
        (
            [review(n, f"product {n // 10}", label=int(n // 10 not in (5, 6))) for n in range(600)],
            {},
            "has only positive reviews",
        ),
    ],
    ids=[
        "no-groups",
        "no-dates",
        "few-dates",
        "one-moment",
        "few-groups",
        "large-group",
        "busy-day",
        "huge-group",
        "one-class",
    ],
)
def test_a_split_that_would_be_lopsided_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], config: dict[str, Any], message: str
) -> None:
    rows = [{**row, "group": row["group"] or None} for row in rows]
    with pytest.raises(QualityError, match=message):
        split(tmp_path, rows, **config)


labels = st.sampled_from([0, 1, None])
rows_of = st.lists(
    st.tuples(st.integers(0, 30), labels, st.sampled_from(["a", "B", "b", None]), st.none() | st.integers(0, 100)),
    max_size=40,
)


@settings(max_examples=40)
@given(rows=rows_of, kind=st.sampled_from(["auto", "group", "time", "text"]))
def test_no_text_is_on_two_sides_and_no_held_out_group_or_time_is_trained_on(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int | None, str | None, int | None]], kind: str
) -> None:
    base = [{**row, "written_at": START + timedelta(days=n)} for n, row in enumerate(in_groups(40, 6))]
    more = [review(n, group, day, label=label) for n, label, group, day in rows]
    kept, counts = split(tmp_path_factory.mktemp("sides"), [*more, *base], split_by=kind, salt="v1")
    assert kept["text"].is_unique().all()
    gone = sum(counts[name] for name in ("quarantined", "duplicates", "contradictions", "on_no_side", "also_in_test"))
    assert counts["rows_in"] == len(rows) + len(base) == kept.height + gone
    trained = kept.filter(pl.col("split").is_in(["train", "unlabelled"]))
    held_out = kept.filter(pl.col("split").is_in(["validation", "test"]))
    if kind in {"auto", "group"}:
        assert not set(trained["group"].drop_nulls()) & set(held_out["group"].drop_nulls())
    if kind == "time":
        assert trained["written_at"].max() < held_out["written_at"].min()  # type: ignore[operator]
