"""On which side of the split each review is: by group, by time, or by its text.

A classifier that was tested on reviews of products that it was trained on is tested on names that it has learned. So
all reviews of a group are on one side where groups are known. A side by group or text is a function of the group's or
the text's hash and the salt: it does not change when more reviews arrive. A side by time does, as time goes on.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from sentiment_model.config import CleanConfig
from sentiment_model.errors import QualityError

SPLITS = ("train", "validation", "test", "unlabelled")
LABELLED = SPLITS[:3]
_SIDE = pl.Enum(SPLITS)
_NAME_CHARACTERS = 60
_FEWEST_GROUPS = 2  # of a side: nothing is known of how one group differs from another


class Sides(NamedTuple):
    """Where reviews are.

    Attributes:
        split: the side of each review, one of :data:`SPLITS`; null for one that is on none.
        facts: how they were split, and what shares came of it.
    """

    split: pl.Series
    facts: dict[str, Any]


def sides(reviews: pl.DataFrame, config: CleanConfig, *, own_test: bool) -> Sides:
    """Put reviews on their sides.

    A review is on no side where its group or its time is held out, but not it: an unlabelled one, and any beside a test
    that has sources of its own. A review without a date is on no side of a split by time. One without a group is a
    group of its own.

    Args:
        reviews: distinct reviews with `label` (null for none), `is_test` (those that the test has from its own
            sources), `text_place` and `group_place` (the hash as a number from 0 to 1; null for no group), `group` and
            `written_at`.
        config: kind, shares and salt of the split.
        own_test: whether the test has sources of its own, so that none of the others is held out for it.

    Raises:
        QualityError: the split needs groups or dates that there are not, or one side gets nearly all or nothing.
    """
    shares = {"validation": config.validation_share, "test": 0.0 if own_test else config.test_share}
    labelled, is_test = pl.col("label").is_not_null(), pl.col("is_test")
    kind = config.split_by
    if kind == "auto":
        kind = "group" if reviews.select((labelled & ~is_test & pl.col("group").is_not_null()).any()).item() else "text"
    tests, others = reviews.filter(is_test), reviews.filter(~is_test)
    drawn = others.filter(labelled)
    facts: dict[str, Any] = {"split_by": kind}
    is_alone, is_free = pl.lit(kind == "text"), pl.lit(value=True)
    if kind == "time":
        if starts := tests["written_at"].drop_nulls().to_list():
            is_free = pl.col("written_at") < min(starts)
        side, cuts = _by_time(drawn, drawn.filter(is_free), shares)
        facts |= cuts
    elif kind == "group":
        if drawn["group"].count() == 0:
            raise QualityError(
                "clean.split_by is `group`, but no labelled review has a group: name its column with "
                "ingest.columns.group, or choose `text`"
            )
        # A text without a group is on its own: nothing else of it can be held out.
        is_alone = pl.col("group").is_null()
        is_free = is_alone | ~pl.col("group").is_in(tests["group"].drop_nulls().unique().implode())
        side = _by_place(pl.coalesce("group_place", "text_place"), shares)
    else:
        side = _by_place(pl.col("text_place"), shares)
    split = reviews.select(
        split=pl.when(is_test)
        .then(pl.lit("test", _SIDE))
        .when(is_free & labelled)
        .then(side)
        .when(is_free & (is_alone | (side == "train")))
        .then(pl.lit("unlabelled", _SIDE))
    ).to_series()
    placed = reviews.with_columns(split).filter(labelled)
    if kind == "time":
        dated = placed.filter(~is_test & pl.col("written_at").is_not_null())
        _check_shares(
            dated, shares, "too many are of one moment, or of the test's own time; change the shares or clean.split_by"
        )
    elif kind == "group":
        _check_groups(placed.filter(~is_test), shares)
    return Sides(split, facts | _groups(placed.drop_nulls("split")))


def _by_place(place: pl.Expr, shares: Mapping[str, float]) -> pl.Expr:
    validation = shares["validation"]
    return (
        pl.when(place < validation)
        .then(pl.lit("validation", _SIDE))
        .when(place < validation + shares["test"])
        .then(pl.lit("test", _SIDE))
        .otherwise(pl.lit("train", _SIDE))
    )


def _by_time(reviews: pl.DataFrame, free: pl.DataFrame, shares: Mapping[str, float]) -> tuple[pl.Expr, dict[str, Any]]:
    """Return the side, and from when on reviews are held out; reviews of one moment are on one side.

    Args:
        reviews: those that may be on any side.
        free: those of them that are not of the time of a test of its own.
        shares: of the held-out sides.
    """
    if 2 * (dated := reviews["written_at"].count()) <= len(reviews):
        raise QualityError(
            f"clean.split_by is `time`, but only {dated:,} of {len(reviews):,} labelled reviews have a date that can "
            "be read: name its column with ingest.columns.written_at, or choose another split"
        )
    time, times = pl.col("written_at"), free["written_at"].drop_nulls().sort()
    held_out = []
    cuts = {}
    for name in ("test", "validation"):
        if (count := round(shares[name] * dated)) and not times.is_empty():
            start = times[max(0, len(times) - count)]
            held_out.append(pl.when(time >= start).then(pl.lit(name, _SIDE)))
            times = times.filter(times < start)
            cuts[f"{name}_from"] = start.isoformat()
    return pl.coalesce(*held_out, pl.when(time.is_not_null()).then(pl.lit("train", _SIDE))), cuts


def _groups(placed: pl.DataFrame) -> dict[str, Any]:
    """Return how many groups each side has, and how many reviews of the test are of groups that training knows."""
    known = placed.drop_nulls("group")
    if known.is_empty():
        return {}
    groups = {split: known.filter(pl.col("split") == split)["group"].unique() for split in LABELLED}
    trained_on = pl.concat([groups["train"], groups["validation"]])
    return {
        "groups": {split: len(names) for split, names in groups.items()},
        "without_group": len(placed) - len(known),
        "test_of_known_groups": known.filter(split="test")["group"].is_in(trained_on.implode()).sum(),
    }


def _check_shares(drawn: pl.DataFrame, shares: Mapping[str, float], why: str) -> None:
    """Raise where a side has more than twice what was asked for, or less than half of that is left to train on."""
    found = {name: drawn.filter(split=name).height / len(drawn) for name in shares}
    kept, wanted = drawn.filter(split="train").height / len(drawn), 1.0 - sum(shares.values())
    if kept < wanted / 2:
        raise QualityError(f"train has {kept:.0%} of the reviews instead of {wanted:.0%}: {why}")
    for name, share in shares.items():
        if found[name] > 2 * share:
            raise QualityError(f"{name} has {found[name]:.0%} of the reviews instead of {share:.0%}: {why}")


def _check_groups(drawn: pl.DataFrame, shares: Mapping[str, float]) -> None:
    """Raise where the groups make a side too large or too small, or a side has too few to tell how they differ."""
    unit = pl.coalesce("group", pl.format("a review on its own, {}", "text_place"))
    units = drawn.group_by(unit.alias("unit")).agg(rows=pl.len(), split=pl.col("split").unique())
    largest = units.sort("rows", "unit", descending=[True, False]).row(0, named=True)
    name = largest["unit"][:_NAME_CHARACTERS] + ("…" if len(largest["unit"]) > _NAME_CHARACTERS else "")
    why = f"of {len(units):,} groups the largest ({name}) has {largest['rows'] / len(drawn):.0%} of the reviews"
    if dropped := drawn["split"].null_count():
        why += f", and {dropped:,} reviews are of groups that the test has from its own sources"
    why += "; add groups, change clean.salt or the shares, or let clean.split_by be `text`, which tests on known groups"
    _check_shares(drawn, shares, why)
    for name, share in shares.items():
        count = units.filter(pl.col("split").list.contains(name)).height
        if share and count < _FEWEST_GROUPS:
            raise QualityError(f"{name} has {count} groups, at least {_FEWEST_GROUPS} wanted: {why}")
