"""The wide part: its scores against a plain loop, what it learns, and how it is weighed."""

import random
from collections import Counter
from collections.abc import Callable, ItemsView
from itertools import islice

import numpy as np
import polars as pl
import pytest
import torch
from of_both import of_both

from sentiment_model.errors import QualityError
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.inference import predict_logits
from sentiment_model.networks.ngrams import BUCKETS, HASH_BITS, NGramScore, bucket_of, check_of, ngram_hashes
from sentiment_model.training.calibration import calibrated_loss, fit_combination, fit_temperature
from sentiment_model.training.dual_ascent import NGramValues, rounds
from sentiment_model.training.naive_bayes import fit_ngrams, log_ratio
from sentiment_model.training.ngram_counts import count_ngrams, entries_of

CPU = torch.device("cpu")


def reviews(ids: list[list[int]], labels: list[int] | None = None) -> TokenizedReviews:
    schema = {"ids": pl.List(pl.Int32), "label": pl.Int8}
    return TokenizedReviews.from_frame(pl.DataFrame({"ids": ids, "label": labels or [0] * len(ids)}, schema=schema))


def random_ids(count: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randrange(2, 30_000) for _ in range(generator.randint(1, longest))] for _ in range(count)]


def weight_of(score: NGramScore, ngram: list[int]) -> float:
    """Look an n-gram up as the formula says."""
    (hashed,) = ngram_hashes(torch.tensor(ngram), len(ngram))
    bucket = bucket_of(hashed)
    return float(score.weight[bucket]) if score.check[bucket] == check_of(hashed) else 0.0


def learned_score(ids: list[list[int]], max_order: int) -> NGramScore:
    """Return a score with a random weight for each n-gram of every second review."""
    score = NGramScore(max_order)
    for review in ids[::2]:
        for order in range(1, min(max_order, len(review)) + 1):
            hashes = ngram_hashes(torch.tensor(review), order)
            score.check[bucket_of(hashes)] = check_of(hashes)
            score.weight[bucket_of(hashes), 0] = torch.randn(
                len(hashes), generator=torch.Generator().manual_seed(order)
            )
    score.bias.fill_(0.25)
    return score


def fitted(ids: list[list[int]], labels: list[int], max_order: int) -> NGramScore:
    """Return a score fitted on reviews, which choose the regularisation too."""
    return fit_ngrams(reviews(ids, labels), reviews(ids, labels), max_order)


def ngrams(review: list[int], max_order: int) -> ItemsView[tuple[int, ...], int]:
    return Counter(
        tuple(review[start : start + order])
        for order in range(1, max_order + 1)
        for start in range(len(review) - order + 1)
    ).items()


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("max_order", [1, 2, 3, 5])
def test_scores_as_a_plain_loop_would_and_sees_no_padding(max_order: int, once: bool) -> None:
    ids = [[7], [7, 8], [7, 8, 7, 8, 7, 8, 9], *random_ids(30)]
    score = learned_score(ids, max_order)
    score.counts_once.fill_(once)
    expected = [
        0.25
        + sum(weight_of(score, list(ngram)) * (1 if once else times) for ngram, times in ngrams(review, max_order))
        / len(review) ** 0.5
        for review in ids
    ]
    together = predict_logits(score, reviews(ids), 512, CPU)
    alone = torch.cat([predict_logits(score, reviews([review]), 512, CPU) for review in ids])
    padded = score(*reviews(ids).batch(torch.arange(len(ids)), 100))
    for found in (together, alone, padded):
        np.testing.assert_allclose(found.squeeze(1).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_hashes_are_spread_and_know_the_order_of_tokens() -> None:
    pairs = torch.cartesian_prod(torch.arange(1000), torch.arange(1000))
    hashes = ngram_hashes(pairs, 2).squeeze(1)
    assert hashes.min() >= 0
    assert hashes.max() < 1 << HASH_BITS
    assert len(hashes.unique()) > len(hashes) - 10  # thrown at random, two of a million share a number
    # A million balls thrown at random into that many urns leave this many of them not empty, give or take 400.
    expected = BUCKETS * (1 - np.exp(-len(pairs) / BUCKETS))
    assert abs(len(bucket_of(hashes).unique()) - expected) < 4000
    assert abs(len(check_of(hashes).unique()) - (1 << 16)) < 10
    assert ngram_hashes(torch.tensor([3, 4]), 2) != ngram_hashes(torch.tensor([4, 3]), 2)
    assert ngram_hashes(torch.tensor([3]), 1) != ngram_hashes(torch.tensor([0, 3]), 2)
    # Weights are looked up by these numbers: a change here makes every saved model wrong.
    assert ngram_hashes(torch.tensor([5, 6, 7]), 3).tolist() == [32502452785]


def test_of_ngrams_that_share_a_bucket_the_most_frequent_is_known() -> None:
    first = torch.arange(2, 4000)
    buckets = bucket_of(ngram_hashes(first.unsqueeze(1), 1)).squeeze(1)
    taken = {int(bucket): int(token) for token, bucket in zip(first, buckets, strict=True)}
    second = torch.arange(4000, 30_000)
    token, other = next(
        (taken[bucket], int(token))
        for token, bucket in zip(
            second, bucket_of(ngram_hashes(second.unsqueeze(1), 1)).squeeze(1).tolist(), strict=True
        )
        if bucket in taken
    )
    often, rare = [[token, 1]] * 3 + [[1]] * 3, [[other, 1]] * 2 + [[1]] * 2
    score = fitted([*often, *rare], [1, 1, 1, 0, 0, 0, 0, 0, 1, 1], 1)
    assert weight_of(score, [token]) > 0
    assert weight_of(score, [other]) == 0
    assert weight_of(fitted(rare, [0, 0, 1, 1], 1), [other]) < 0


def test_a_pair_of_words_is_learned_that_neither_word_tells() -> None:
    good, bad, nothing = 2, 3, 4
    generator = random.Random(0)
    ids, labels = [], []
    for number in range(200):
        negated, said = number % 2, generator.choice([good, bad])
        filler = [generator.randrange(10, 30) for _ in range(5)]
        ids.append([*filler, *([nothing, said] if negated else [said, nothing]), *filler])
        labels.append(int((said == good) != bool(negated)))
    accuracy = {}
    for order in (1, 2):
        scores = predict_logits(fitted(ids, labels, order), reviews(ids), 512, CPU).squeeze(1).numpy()
        accuracy[order] = ((scores > 0) == np.array(labels)).mean()
    assert accuracy[2] == 1.0
    assert accuracy[1] < 0.8


def test_of_more_classes_each_has_weights_of_its_own() -> None:
    generator = random.Random(0)
    drawn = [(label, [10 + label, *(generator.randrange(20, 40) for _ in range(6))]) for label in [0, 1, 2, 3] * 50]
    some = reviews([ids for _, ids in drawn], [label for label, _ in drawn])
    score = fit_ngrams(some, some, 2, 4)
    logits = predict_logits(score, some, 512, CPU)
    assert logits.shape == (200, 4)
    assert (logits.argmax(dim=1) == some.labels).all()
    for label in range(4):
        (bucket,) = bucket_of(ngram_hashes(torch.tensor([10 + label]), 1))
        assert score.weight[score.place[bucket]].argmax() == label


def test_an_ngram_of_one_review_counts_for_nothing() -> None:
    ids = [[2, 9], [2, 2, 2], [3], [3]]
    score = fitted(ids, [1, 1, 0, 0], 1)
    of = {token: weight_of(score, [token]) for token in (2, 3, 9)}
    assert of[2] > 0 > of[3]
    assert of[9] == 0
    assert (score.weight != 0).sum() == 2


def test_the_weights_follow_the_formula_of_naive_bayes() -> None:
    # 3 of 4 positive and 1 of 4 negative reviews say 2; all say 5, which tells nothing.
    ids = [[2, 5], [2, 2, 5], [5, 2], [5], [2, 5], [5], [5], [5]]
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32)
    counts = count_ngrams(reviews(ids), labels[:, None], 1)
    ratio = np.array([np.log(4 / 2), np.log(5 / 5)]) - np.log((4 + 5) / (2 + 5))
    order = [counts.hashes.tolist().index(ngram_hashes(torch.tensor([token]), 1).item()) for token in (2, 5)]
    np.testing.assert_allclose(log_ratio(counts, 0)[order], ratio)
    ngrams = NGramValues(entries_of(counts.hashes), log_ratio(counts, 0), counts.reviews, 1)
    strengths = np.array([1.0, 100.0])
    (learned,) = islice(rounds(reviews(ids), labels, ngrams, strengths), 999, 1000)
    has = np.array([[1, 1], [1, 1], [1, 1], [0, 1], [1, 1]] + [[0, 1]] * 3)
    values = has * ratio / np.sqrt([[len(review)] for review in ids])
    truth = np.array([1] * 4 + [-1] * 4)
    for number, strength in enumerate(strengths):
        weights, bias = learned.weights(number)[order] / ratio, learned.biases[number]
        margins = values @ weights + bias
        np.testing.assert_allclose(learned.scores(reviews(ids))[:, number], margins, rtol=1e-4, atol=1e-6)

        def loss(weights: np.ndarray, bias: float, strength: float = strength) -> float:
            margins = truth * (values @ weights + bias)
            return float(0.5 * weights @ weights + strength * np.logaddexp(0, -margins).sum())

        found = loss(weights, bias)
        for change in (0.01, -0.01):
            assert found < loss(weights + np.array([change, 0]), bias)
            assert found < loss(weights + np.array([0, change]), bias)
            assert found < loss(weights, bias + change)


def said_outright(generator: random.Random) -> tuple[list[int], int]:
    """Each word is for itself, and one label in five is wrong."""
    label = generator.randrange(2)
    return [2 + label + 2 * generator.randrange(20) for _ in range(3)], label ^ (generator.random() < 0.2)


def said_in_pairs(generator: random.Random) -> tuple[list[int], int]:
    """Only pairs of words tell, beside much that does not."""
    filler = [generator.randrange(10, 60) for _ in range(20)]
    negated, said = generator.randrange(2), generator.choice([2, 3])
    return [*filler, *([4, said] if negated else [said, 4])], (said == 2) ^ negated


@pytest.mark.parametrize(("draw", "count", "expected"), [(said_outright, 600, 1.0), (said_in_pairs, 60, 100.0)])
def test_validation_says_how_strong_the_regularisation_is(
    monkeypatch: pytest.MonkeyPatch, draw: Callable[[random.Random], tuple[list[int], int]], count: int, expected: float
) -> None:
    generator = random.Random(1)
    train, validation = (
        reviews([ids for ids, _ in drawn], [int(label) for _, label in drawn])
        for drawn in ([draw(generator) for _ in range(count)] for _ in range(2))
    )
    strengths = (1.0, 3.0, 10.0, 30.0, 100.0)
    losses, weights = {}, {}
    for strength in strengths:
        monkeypatch.setattr("sentiment_model.training.naive_bayes._INVERSE_REGULARISATIONS", (strength,))
        score = fit_ngrams(train, validation, 2)
        logits = predict_logits(score, validation, 512, CPU).numpy()
        losses[strength], weights[strength] = calibrated_loss(of_both(logits), validation.labels.numpy()), score.weight
    monkeypatch.setattr("sentiment_model.training.naive_bayes._INVERSE_REGULARISATIONS", strengths)
    assert min(losses, key=lambda strength: losses[strength]) == expected
    assert fit_ngrams(train, validation, 2).weight.equal(weights[expected])


def test_ngrams_are_counted_once_a_review() -> None:
    ids, labels = [*random_ids(50), [7, 8, 7, 8], [7, 8], [7], []], [1, 0] * 27
    counts = count_ngrams(reviews(ids * 2), np.array([labels * 2, [1] * 108], np.float32).T, 3)
    expected: Counter[tuple[tuple[int, ...], int]] = Counter()
    for review, label in zip(ids, labels, strict=True):
        expected.update((ngram, label) for ngram, _ in ngrams(review, 3))
    known = {ngram for ngram, _ in expected}
    hashes = {int(ngram_hashes(torch.tensor(ngram), len(ngram))): ngram for ngram in known}
    assert len(known) - 10 < len(counts.hashes) <= len(known)  # of two that share a bucket, one is counted
    for number, hashed in enumerate(counts.hashes.tolist()):
        ngram = hashes[hashed]
        assert counts.reviews[number] == 2 * (expected[ngram, 0] + expected[ngram, 1])
        assert counts.labelled[number, 0] == 2 * expected[ngram, 1]
        assert counts.labelled[number, 1] == counts.reviews[number]


def test_the_most_frequent_of_more_ngrams_than_a_bucket_remembers_is_known() -> None:
    pairs = torch.cartesian_prod(torch.arange(2, 2000), torch.arange(2, 5000))
    buckets = bucket_of(ngram_hashes(pairs, 2).squeeze(1))
    (crowded,) = torch.nonzero(buckets == buckets.bincount().argmax(), as_tuple=True)
    often, *rare = pairs[crowded].tolist()
    assert len(rare) > 8
    ids = [pair for number, pair in enumerate(rare * 3) for pair in ([pair, often] if number % 3 == 0 else [pair])]
    counts = count_ngrams(reviews(ids), np.zeros((len(ids), 0), np.float32), 2)
    (found,) = np.flatnonzero(counts.hashes == ngram_hashes(torch.tensor(often), 2).numpy())
    assert counts.reviews[found] == len(rare)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(2)
    drawn = [said_in_pairs(generator) for _ in range(300)]
    ids, labels = [ids for ids, _ in drawn], [label for _, label in drawn]
    scores = []
    for number in (1, 3):
        for module in ("ngram_counts", "dual_ascent"):
            monkeypatch.setattr(f"sentiment_model.training.{module}.count_cores", lambda number=number: number)
        scores.append(fitted(ids, labels, 3))
    assert scores[0].weight.count_nonzero() > 1000
    for name, tensor in scores[0].state_dict().items():
        assert tensor.equal(scores[1].state_dict()[name])


def test_taking_rows() -> None:
    ids = [*random_ids(20), []]
    rows = torch.tensor([20, 3, 3, 0, 20, 19])
    taken = reviews(ids, list(range(21))).take(rows)
    assert [part.tolist() for part in taken.flat().split(taken.lengths.tolist())] == [ids[row] for row in rows.tolist()]
    assert taken.labels.tolist() == rows.tolist()
    assert len(taken.take(torch.tensor([], dtype=torch.int64))) == 0


def test_the_combination_that_made_the_labels_is_found() -> None:
    generator = np.random.default_rng(0)
    logits, others = generator.normal(scale=3, size=50_000), generator.normal(scale=0.2, size=50_000)
    chance = 1 / (1 + np.exp(-(logits + 4 * others - 0.5) / 2))
    labels = (generator.random(50_000) < chance).astype(np.float32)
    temperature, scale, shifts = fit_combination(of_both(logits), of_both(others), labels)
    assert (temperature, scale, *shifts) == pytest.approx((2, 4, 0, -0.5), rel=0.1)


def test_a_part_that_tells_nothing_or_the_opposite_is_not_listened_to() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3, size=5_000)
    labels = (generator.random(5_000) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    temperature, scale, _ = fit_combination(of_both(logits), of_both(-logits), labels)
    assert scale == 0
    assert temperature == pytest.approx(fit_temperature(of_both(logits), labels), rel=0.01)
    temperature, scale, shift = fit_combination(of_both(logits), np.zeros((5_000, 2)), labels)
    assert np.isfinite([temperature, scale, *shift]).all()
    # A useless first part is divided away, and the second carries the answer.
    temperature, scale, _ = fit_combination(of_both(-logits), of_both(logits), labels)
    combined = (-logits + scale * logits) / temperature
    assert ((combined > 0) == (labels > 0.5)).mean() == pytest.approx(((logits > 0) == (labels > 0.5)).mean(), abs=0.01)


def test_parts_that_make_no_mistake_do_not_claim_certainty() -> None:
    labels = np.array([0.0, 1.0] * 50)
    logits = np.where(labels > 0.5, 5.0, -5.0)
    temperature, scale, (_, shift) = fit_combination(of_both(logits), of_both(3 * logits), labels)
    probability = 1 / (1 + np.exp(-(logits + scale * 3 * logits + shift) / temperature))
    assert probability.max() == pytest.approx(51 / 52, abs=0.001)


def test_labels_of_one_class_cannot_weigh_parts() -> None:
    with pytest.raises(QualityError, match="more than one class"):
        fit_combination(np.zeros((3, 2)), np.zeros((3, 2)), np.ones(3))


def test_a_bias_stays_bounded_where_nothing_is_uncertain() -> None:
    """Copies of one review, one of them of the other class: Newton's step for the bias would go to infinity."""
    generator = np.random.default_rng(5)
    texts = [generator.integers(5, 3000, 200).tolist() for _ in range(3)]
    copied = reviews([texts[0]] * 11 + [texts[1]] * 2 + [texts[2]] * 2)
    labels = np.array([1] * 10 + [0] * 5, np.float32)
    counts = count_ngrams(copied, labels[:, None], 3)
    ngrams = NGramValues(entries_of(counts.hashes), log_ratio(counts, 0), counts.reviews, 3)
    for fitted in islice(rounds(copied, labels, ngrams, np.array([1.0, 30.0, 100.0])), 12):
        assert np.abs(fitted.biases).max() < 12
        assert np.isfinite(fitted.lines).all()
