"""Histograms and the distances between them, against the formulas."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_model.models.drift import EDGES, add, bins, drift, histograms

ROWS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(1, 30_000), st.floats(0, 1)).map(
        lambda row: {"probabilities": [1 - row[0], row[0]], "n_tokens": row[1], "n_unknown": round(row[1] * row[2])}
    ),
    min_size=1,
    max_size=60,
)


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    classes = len(rows[0]["probabilities"])
    return pl.DataFrame(rows, schema_overrides={"probabilities": pl.Array(pl.Float64(), classes)})


def binned(counts: tuple[int, ...]) -> np.ndarray:
    """Return the number of its bin for each row."""
    return np.repeat(np.arange(len(counts)), counts)


@settings(max_examples=40, deadline=None)
@given(first=ROWS, second=ROWS)
def test_distances_of_any_rows_are_those_of_the_formulas(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    reference, current = (histograms(table(rows)) for rows in (first, second))
    assert add(reference, current) == histograms(table(first + second))
    assert add(reference, {}) == add({}, reference) == reference
    found, back = drift(reference, current), drift(reference, reference)
    for name in bins(2):
        assert sum(reference[name]) == len(first)
        rows, others = binned(reference[name]), binned(current[name])
        gaps = [abs((rows <= edge).mean() - (others <= edge).mean()) for edge in range(len(EDGES[name]))]
        assert found[name].ks == pytest.approx(max(gaps), abs=1e-9)
        assert found[name].psi >= -1e-12
        assert (back[name].psi, back[name].ks) == pytest.approx((0, 0), abs=1e-9)


def test_a_bin_holds_what_is_above_its_lower_edge_and_up_to_its_upper_one() -> None:
    answers = zip([0.0, 0.02, 0.03, 1.0], [1, 2, 20_000, 20_001], [0, 1, 1, 20_001], strict=True)
    counts = histograms(table([{"probabilities": [1 - p, p], "n_tokens": n, "n_unknown": u} for p, n, u in answers]))
    # Models keep histograms of these bins; with other ones they could not be compared.
    assert {name: len(of) for name, of in counts.items()} == {"probability": 50, "tokens": 55, "unknown_share": 41}
    rows = {name: binned(of).tolist() for name, of in counts.items()}
    assert rows["probability"] == [0, 0, 1, 49]
    assert rows["tokens"] == [0, 1, len(EDGES["tokens"]) - 1, len(EDGES["tokens"])]
    # None, one in 20,000, one in two (at the 37th of 39 steps from 0.001 to 1, beside the edge at 0) and all.
    assert rows["unknown_share"] == [0, 1, 37, 40]


def flat(**counts: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return histograms with these counts in the first bins, and one row in each bin of the other quantities."""
    sizes = bins(2)
    zeros = {name: (0,) * (sizes[name] - len(of)) for name, of in counts.items()}
    return {name: (*counts[name], *zeros[name]) if name in counts else (1,) * size for name, size in sizes.items()}


def test_the_stability_index_is_over_tenths_of_the_reference() -> None:
    reference = [10] * 50  # five bins to a group
    groups = np.array([100, 0, 70, 10, 60, 40, 65, 35, 55, 85])
    expected, actual = np.full(10, 0.1), groups / 520
    actual[1] = 1e-4  # what an empty group counts as
    psi = float(((actual - expected) * np.log(actual / expected)).sum())
    found = drift(flat(probability=reference), flat(probability=np.repeat(groups // 5, 5).tolist()))
    assert found["probability"].psi == pytest.approx(psi)
    assert found["probability"].ks == pytest.approx(100 / 520 - 0.1)  # after the first tenth
    assert found["tokens"].psi == pytest.approx(0)


def test_a_bin_is_in_the_tenth_that_its_middle_is_in() -> None:
    # The first two bins, with their middles at 0.03 and 0.095, are one group.
    found = drift(flat(probability=[6, 7, 87]), flat(probability=[20, 0, 80]))["probability"]
    assert found.psi == pytest.approx(0.07 * np.log(0.2 / 0.13) - 0.07 * np.log(0.8 / 0.87))
    assert found.ks == pytest.approx(0.14)


def test_without_rows_there_is_nothing_to_compare() -> None:
    some, none = flat(), {name: (0,) * len(of) for name, of in flat().items()}
    for nothing in (none, {}):
        assert drift(some, nothing) == drift(nothing, some) == {}
    assert len(drift(some, some)) == 3
