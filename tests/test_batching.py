"""Batches hold every review once, within the budget, with the right ids."""

import polars as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_model.networks.batching import LENGTH_STEP, TokenizedReviews, plan_batches

REVIEWS = st.lists(st.lists(st.integers(1, 2**31 - 1), max_size=90), min_size=1, max_size=40)


def tokenized(ids: list[list[int]]) -> TokenizedReviews:
    labels = [i % 2 for i in range(len(ids))]
    return TokenizedReviews.from_frame(
        pl.DataFrame({"ids": ids, "label": labels}, schema={"ids": pl.List(pl.Int32), "label": pl.Int8})
    )


@settings(max_examples=60, deadline=None)
@given(ids=REVIEWS, budget=st.integers(1, 400), seed=st.none() | st.integers(0, 2**31))
def test_every_review_is_in_one_batch_with_its_own_tokens(ids: list[list[int]], budget: int, seed: int | None) -> None:
    reviews = tokenized(ids)
    seen: list[int] = []
    for batch in plan_batches(reviews.lengths, budget, seed):
        assert batch.padded_length % LENGTH_STEP == 0
        assert len(batch.rows) == 1 or len(batch.rows) * batch.padded_length <= budget
        padded, lengths = reviews.batch(batch.rows, batch.padded_length)
        assert padded.shape == (len(batch.rows), batch.padded_length)
        for row, tokens, length in zip(batch.rows.tolist(), padded.tolist(), lengths.tolist(), strict=True):
            assert length == max(1, len(ids[row]))
            assert tokens == ids[row] + [0] * (batch.padded_length - len(ids[row]))
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(ids)))


def test_order_is_drawn_by_the_seed_alone() -> None:
    lengths = torch.randint(1, 400, (500,), generator=torch.Generator().manual_seed(0))

    def plan(seed: int) -> list[tuple[int, list[int]]]:
        return [(batch.padded_length, batch.rows.tolist()) for batch in plan_batches(lengths, 4_000, seed)]

    first, other = plan(1), plan(2)
    assert plan(1) == first
    assert len(first) == len(other)
    # Both are drawn: what shares a batch, and which batch comes when.
    together = [{frozenset(rows) for _, rows in batches} for batches in (first, other)]
    assert len(together[0] & together[1]) < 0.2 * len(first)
    sizes = [[size for size, _ in batches] for batches in (first, other)]
    assert sorted(sizes[0]) == sorted(sizes[1])
    assert sum(one == two for one, two in zip(*sizes, strict=True)) < 0.5 * len(first)


def test_little_of_a_batch_is_padding() -> None:
    lengths = torch.randint(1, 400, (5_000,), generator=torch.Generator().manual_seed(0))
    batches = plan_batches(lengths, 12_000)
    computed = sum(len(batch.rows) * batch.padded_length for batch in batches)
    assert computed < 1.1 * int(lengths.sum())
    assert len({batch.padded_length for batch in batches}) <= 400 // LENGTH_STEP + 1


def test_sliced_frames_and_missing_labels() -> None:
    frame = pl.DataFrame({"ids": [[9], [1, 2], [], [3]], "label": [0, 1, None, 1]})
    frame = frame.cast({"ids": pl.List(pl.Int32), "label": pl.Int8}).slice(1)
    reviews = TokenizedReviews.from_frame(frame)
    assert reviews.values.tolist() == [1, 2, 3]
    assert reviews.lengths.tolist() == [2, 0, 1]
    assert reviews.labels.isnan().tolist() == [False, True, False]
    assert TokenizedReviews.from_frame(frame.select("ids")).labels.isnan().all()
    assert len(TokenizedReviews.from_frame(frame.clear())) == 0


def test_no_reviews_are_no_batches() -> None:
    assert plan_batches(torch.tensor([], dtype=torch.int64), 100) == []


@given(ids=REVIEWS)
def test_halves_are_each_review_in_two(ids: list[list[int]]) -> None:
    halves = tokenized(ids).halves()
    expected = [half for tokens in ids for half in (tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :])]
    padded, lengths = halves.batch(torch.arange(len(halves)), 90)
    assert lengths.tolist() == [max(1, len(half)) for half in expected]
    assert [row[: len(half)] for row, half in zip(padded.tolist(), expected, strict=True)] == expected
    assert bool(halves.labels.isnan().all())
