"""The compiled loop against the network that was trained, in float64, and against itself in any company."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from sentiment_model.config import ModelConfig
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.fused import FusedModel, can_be_fused
from sentiment_model.networks.network import SentimentModel
from sentiment_model.networks.ngrams import bucket_of, ngram_hashes

WORDS = 500


def reviews(lengths: list[int], seed: int = 0) -> TokenizedReviews:
    """Return reviews of few words, so that n-grams are repeated."""
    generator = np.random.default_rng(seed)
    values = torch.from_numpy(np.minimum(generator.zipf(1.3, sum(lengths)), WORDS - 1).astype(np.int32))
    ends = torch.tensor(lengths).cumsum(0)
    return TokenizedReviews(values, ends - torch.tensor(lengths), torch.tensor(lengths), torch.zeros(len(lengths)))


def model(some: TokenizedReviews, seed: int = 0, once: bool = True, classes: int = 2, **config: Any) -> SentimentModel:
    """Return a network whose n-grams are half of those of some reviews."""
    torch.manual_seed(seed)
    found = SentimentModel(WORDS, ModelConfig(**{"hidden_size": 24, "embedding_size": 16, **config}), classes).eval()
    torch.nn.init.normal_(found.recurrent.encoder.embedding.weight)
    if found.wide is not None:
        orders = range(1, found.wide.max_order + 1)
        hashes = torch.cat([ngram_hashes(some.values, order)[::2] for order in orders])
        hashes = hashes[torch.from_numpy(np.unique(bucket_of(hashes).numpy(), return_index=True)[1])]
        found.wide.learn(hashes, torch.randn(len(hashes), *found.wide.answer_shape))
        found.wide.bias.copy_(0.3 + torch.arange(len(found.wide.bias)))
        found.wide.counts_once.fill_(once)
    return found


LENGTHS = [0, 1, 2, 3, 4, 7, 64, 1000, *random.Random(0).choices(range(1, 300), k=200)]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"pooling": ("last",)},
        {"pooling": ("max", "mean"), "hidden_size": 7},
        {"pooling": ("mean", "last", "max"), "bidirectional": False, "ngrams": 5},
        {"ngrams": 0},
        {"ngrams": 1, "hidden_size": 1, "pooling": ("mean",)},
    ],
)
@pytest.mark.parametrize(("once", "classes"), [(True, 2), (False, 2), (True, 5)])
def test_the_loop_is_the_network(config: dict[str, Any], once: bool, classes: int) -> None:
    some = reviews(LENGTHS)
    network = model(some, once=once, classes=classes, **config)
    found = FusedModel(network).score(some)
    assert found.dtype == torch.float32
    assert found.shape == (len(some), 2, 1 if classes == 2 else classes)
    network.double()
    with torch.inference_mode():
        exact = torch.cat([network(*some.batch(torch.tensor([row]), 1000)) for row in range(len(some))])
    assert (found - exact).abs().max() < 1e-4
    assert found[:, 0].std() > 0.01
    assert (network.wide is None) == (found[:, 1] == 0).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_score_is_the_same_to_the_last_bit_in_any_company(classes: int) -> None:
    some = reviews([*LENGTHS, *random.Random(1).choices(range(1, 300), k=9_000)])
    fused = FusedModel(model(some, classes=classes))
    whole = fused.score(some)
    order = torch.randperm(len(some))
    assert fused.score(some.take(order)).equal(whole[order])
    for row in range(len(LENGTHS)):
        assert fused.score(some.take(torch.tensor([row]))).equal(whole[row : row + 1])
    assert len(fused.score(some.take(torch.tensor([], dtype=torch.int64)))) == 0


def test_a_model_that_is_loaded_again_scores_the_same_to_the_last_bit() -> None:
    some = reviews(LENGTHS)
    network = model(some)
    again = model(some, seed=9)
    again.load_state_dict(network.state_dict())
    assert FusedModel(again).score(some).equal(FusedModel(network).score(some))


def test_a_model_of_more_classes_is_as_large_as_what_it_knows() -> None:
    some = reviews(LENGTHS)
    network = model(some, classes=50)
    assert network.wide is not None
    known = int((network.wide.place > 0).sum())
    assert 1_000 < known < 100_000
    assert network.wide.weight.shape == (1 + known, 50)
    again = SentimentModel(WORDS, network.recurrent.config, 50).eval()
    again.load_state_dict(network.state_dict())
    assert FusedModel(again).score(some).equal(FusedModel(network).score(some))


@pytest.mark.parametrize("config", [{"layers": 2}, {"cell": "qrnn"}, {"cell": "lstm"}])
def test_what_cannot_be_looked_up_is_left_to_pytorch(config: dict[str, Any]) -> None:
    assert can_be_fused(model(reviews([3])))
    assert not can_be_fused(model(reviews([3]), **config))
