"""The network over many reviews, in batches of similar length."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from sentiment_model.batching import Batch, TokenizedReviews, plan_batches


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
    batches = plan_batches(reviews.lengths, token_budget)
    logits = torch.empty(len(reviews), *parts)
    network.eval()

    def answer(batch: Batch) -> Tensor:
        with torch.inference_mode(), autocast(device):
            ids, lengths = reviews.batch(batch.rows, batch.padded_length)
            answered: Tensor = network(ids.to(device), lengths.to(device)).cpu()
            return answered

    with _batch_threads(device) as threads:
        for batch, answered in zip(batches, threads.map(answer, batches), strict=True):
            logits[batch.rows] = answered
    return logits


@contextmanager
def _batch_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that compute a batch each, with one thread inside each operation.

    The steps of a recurrent network are too small to be shared out: threads inside an operation wait for each other
    at every step, and on a busy machine for one that does not run.
    """
    if device.type != "cpu":
        with ThreadPoolExecutor(1) as threads:
            yield threads
        return
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores) as threads:
            yield threads
    finally:
        torch.set_num_threads(cores)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return the context that computes in bfloat16 on CUDA; on the CPU it was measured to gain nothing."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
