"""Ratings as people write them."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment_model.classes import example_ranges, read_ranges
from sentiment_model.sources.ratings import read_ratings


@pytest.mark.parametrize(
    ("written", "number", "scale"),
    [
        ("4", 4, None),
        ("4.5", 4.5, None),
        ("-1", -1, None),
        ("4,5", 4.5, None),
        ("4.0 out of 5 stars", 4, 5),
        ("rated 4 out of 5", 4, 5),
        ("4,0 von 5 sternen", 4, 5),
        ("4,0 sur 5 étoiles", 4, 5),
        ("8/10", 8, 10),
        ("4.5 / 5.0", 4.5, 5),
        ("80%", 80, 100),
        ("1 star", 1, None),
        ("4-star", 4, None),
        ("4★", 4, None),
        ("five stars", 5, None),
        ("one", 1, None),
        ("4½", 4.5, None),
        ("★★★★", 4, None),
        ("★★★★☆", 4, 5),
        ("★★★½☆", 3.5, 5),
        ("⭐️⭐️ ⭐️", 3, None),
        ("☆☆☆", None, None),
        ("4/5/2020", None, None),
        ("1,000", None, None),
        ("inf", None, None),
        ("true", None, None),
        ("good", None, None),
        (None, None, None),
    ],
)
def test_what_a_rating_says(written, number, scale):
    read = read_ratings(pl.Series([written, "3"], dtype=pl.String()))
    assert read.rows() == [(number, scale), (3, None)]


@pytest.mark.parametrize(
    ("low", "high", "two", "three"),
    [
        (1, 5, "1-2 4-5", "1-2 3 4-5"),
        (0.5, 5, "0.5-2 4-5", "0.5-2 3 4-5"),
        (1, 10, "1-4 7-10", "1-4 5-6 7-10"),
        (2, 9, "1-4 7-10", "1-4 5-6 7-10"),
        (0, 10, "0-4 6-10", "0-4 5 6-10"),
        (0, 4, "0-1 3-4", "0-1 2 3-4"),
        (-1, 1, "-1 1", "-1 0 1"),
        (0, 1, "0-0.4 0.6-1", "0-0.4 0.5 0.6-1"),
        (3, 87, "1-40 61-100", "1-40 41-60 61-100"),
    ],
)
def test_ranges_for_ratings_of_another_scale(low, high, two, three):
    assert example_ranges(low, high, 2) == tuple(two.split())
    assert example_ranges(low, high, 3) == tuple(three.split())


@given(low=st.floats(-2000, 2000), high=st.floats(-2000, 2000), n_classes=st.integers(2, 4))
def test_examples_can_be_named(low, high, n_classes):
    if example := example_ranges(low, high, n_classes):
        assert len(read_ranges(example)) == n_classes


@pytest.mark.parametrize("scale", [(1, 10, 4), (0, 0, 2), (1, 1e300, 2)])
def test_there_is_no_example_for_more_classes_or_without_a_scale(scale):
    assert example_ranges(*scale) is None
