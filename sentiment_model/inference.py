"""The network over many reviews, in batches of similar length."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sentiment_model.batching import TokenizedReviews, plan_batches
from sentiment_model.network import SentimentNetwork


def predict_logits(
    network: SentimentNetwork, reviews: TokenizedReviews, token_budget: int, device: torch.device
) -> Tensor:
    """Return the logits of all reviews in their order, float32 on the CPU, shape (reviews,)."""
    logits = torch.empty(len(reviews))
    network.eval()
    with torch.inference_mode(), autocast(device):
        # The table costs as much as computing each token of the vocabulary once.
        table = network.tabulate() if len(reviews.values) > network.embedding.num_embeddings else None
        for batch in plan_batches(reviews.lengths, token_budget):
            ids, lengths = reviews.batch(batch.rows, batch.padded_length)
            logits[batch.rows] = network(ids.to(device), lengths.to(device), table).cpu()
    return logits


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context that computes in bfloat16 on CUDA; on the CPU it was measured to gain nothing."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
