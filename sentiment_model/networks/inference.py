"""The network over many reviews, in batches of similar length."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from sentiment_model.networks.batching import Batch, TokenizedReviews, plan_batches
from sentiment_model.networks.network import SentimentModel, SentimentNetwork, Table
from sentiment_model.networks.ngrams import NGramScore


def predict_logits(
    network: SentimentNetwork | SentimentModel | NGramScore,
    reviews: TokenizedReviews,
    token_budget: int,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the logits of all reviews in their order.

    Args:
        network: maps ids and lengths of a batch to logits, shape (batch, *network.answer_shape).
        reviews: the reviews.
        token_budget: padded tokens in a batch.
        device: where the network is.
        on_batch: called after each batch with the number of batches done, and of all.

    Returns:
        logits, float32, on the CPU, shape (reviews, *network.answer_shape).
    """
    batches = plan_batches(reviews.lengths, token_budget)
    logits = torch.empty(len(reviews), *network.answer_shape)
    network.eval()
    tables = _tables(network, reviews, device)

    def answer(batch: Batch) -> Tensor:
        with torch.inference_mode(), autocast(device):
            ids, lengths = reviews.batch(batch.rows, batch.padded_length)
            answered: Tensor = network(ids.to(device), lengths.to(device), *tables).cpu()
            return answered

    with _batch_threads(device) as threads:
        for done, (batch, answered) in enumerate(zip(batches, threads.map(answer, batches), strict=True), start=1):
            logits[batch.rows] = answered
            if on_batch:
                on_batch(done, len(batches))
    return logits


def _tables(
    network: SentimentNetwork | SentimentModel | NGramScore, reviews: TokenizedReviews, device: torch.device
) -> tuple[tuple[Table, ...], ...]:
    """Return the tables that spare the network work, or nothing where there are none or they would be more work."""
    if isinstance(network, NGramScore):
        return ()
    recurrent = network.recurrent if isinstance(network, SentimentModel) else network
    # The tables cost as much as computing each token of the vocabulary once.
    if reviews.tokens <= recurrent.encoder.embedding.num_embeddings:
        return ()
    with torch.inference_mode(), autocast(device):
        tables = recurrent.encoder.tabulate()
    return () if tables is None else (tables,)


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
    """Return the context that multiplies matrices in bfloat16 where that is faster: on CUDA and on CPUs made for it."""
    capabilities = torch.cpu.get_capabilities()
    is_faster = device.type == "cuda" or any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_faster)
