"""Logits of many reviews at once."""

import pytest
import torch

from sentiment_model.config import Cell, ModelConfig
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.networks.inference import autocast, predict_logits
from sentiment_model.networks.network import SentimentNetwork

VOCABULARY = 40


@pytest.mark.parametrize("cell", ["lstm", "mingru", "qrnn"])
@pytest.mark.parametrize("count", [3, 200])
@pytest.mark.parametrize("capability", ["none", "avx512_bf16"])
def test_logits_are_those_of_each_review_alone(
    cell: Cell, count: int, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 3 reviews there are fewer tokens than the vocabulary has, with 200 there are more."""
    # Of a table in bfloat16 QRNN adds two entries, each of them rounded.
    tolerance = 5e-3 if cell == "qrnn" and count > 3 and capability == "avx512_bf16" else 1e-5
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    torch.manual_seed(count)
    lengths = torch.randint(0, 70, (count,)) if count > 3 else torch.tensor([5, 0, 9])
    values = torch.randint(1, VOCABULARY, (int(lengths.sum()),), dtype=torch.int32)
    reviews = TokenizedReviews(values, lengths.cumsum(0) - lengths, lengths, torch.zeros(count))
    network = SentimentNetwork(VOCABULARY, ModelConfig(cell=cell, hidden_size=8, embedding_size=6))
    torch.nn.init.normal_(network.encoder.embedding.weight)
    done = []
    logits = predict_logits(network, reviews, 512, torch.device("cpu"), on_batch=lambda *of: done.append(of))
    assert done == [(batch, len(done)) for batch in range(1, len(done) + 1)] != []
    network.eval()
    with torch.no_grad(), autocast(torch.device("cpu")):
        alone = [network(*reviews.batch(torch.tensor([row]), max(1, int(n)))) for row, n in enumerate(lengths)]
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=tolerance)
    assert logits.std() > 1e-2


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [("amx_bf16", torch.bfloat16), ("avx512_bf16", torch.bfloat16), ("avx512_f", torch.float32)],
)
def test_cpus_made_for_bfloat16_multiply_in_it(
    capability: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    x = torch.ones(4, 4)
    with autocast(torch.device("cpu")):
        assert (x @ x).dtype == dtype
