"""What there is to compute on."""

import os
from collections.abc import Callable

import torch
import torch.distributed as dist

from sentiment_model.errors import ModelError


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here.

    Raises:
        ModelError: CUDA was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("SENTIMENT_DEVICE is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", dist.get_node_local_rank(0) if dist.is_initialized() else 0)


def count_cores() -> int:
    """Return how many cores this process may use, which can be fewer than the machine has."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
