"""The network over many reviews, in batches of similar length."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from sentiment_model.batching import TokenizedReviews, plan_batches


def predict_logits(
    network: nn.Module, reviews: TokenizedReviews, token_budget: int, device: torch.device, parts: tuple[int, ...] = ()
) -> Tensor:
    """Return the logits of all reviews in their order.

    Args:
        network: maps ids and lengths of a batch to logits, shape (batch, *parts).
        reviews: the reviews.
        token_budget: padded tokens in a batch.
        device: where the network is.
        parts: shape of the network's answer to one review.

    Returns:
        logits, float32, on the CPU, shape (reviews, *parts).
    """
    logits = torch.empty(len(reviews), *parts)
    network.eval()
    with torch.inference_mode(), autocast(device):
        for batch in plan_batches(reviews.lengths, token_budget):
            ids, lengths = reviews.batch(batch.rows, batch.padded_length)
            logits[batch.rows] = network(ids.to(device), lengths.to(device)).cpu()
    return logits


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context that computes in bfloat16 on CUDA; on the CPU it was measured to gain nothing."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
