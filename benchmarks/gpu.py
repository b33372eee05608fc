"""Training steps on a GPU, with our kernels and without: ``python -m benchmarks.gpu``; `--help` lists the options.

Steps of pretraining and of training, of the networks of the profiles, on random tokens. Without the kernels the
recurrence is the loop over PyTorch's operations that a GPU without Triton gets. Each figure is the median of rounds in
which the contestants take turns.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks.speed import rounds
from benchmarks.table import Table
from sentiment_model.config import ModelConfig, TrainingRun
from sentiment_model.networks import scan
from sentiment_model.networks.device import choose_device
from sentiment_model.networks.inference import autocast
from sentiment_model.networks.network import Encoder, SentimentNetwork
from sentiment_model.training.fitting import student_of
from sentiment_model.training.language_model import LanguageModel

_WORDS = 40_000
_LENGTH = 256
_STEPS = 5


def step_of(network: nn.Module, tokens: int, device: torch.device) -> Callable[[], None]:
    """Return a step of training on so many tokens."""
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(2, _WORDS, (tokens // _LENGTH, _LENGTH), device=device)
    lengths = torch.randint(_LENGTH - 31, _LENGTH + 1, (len(ids),), device=device)

    def step() -> None:
        with autocast(device):
            loss = network(ids, lengths).square().sum() / tokens
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def seconds_of(step: Callable[[], None], device: torch.device, *, kernels: bool) -> float:
    """Return how long a step takes, after one that is not counted."""
    has_triton, scan._HAS_TRITON = scan._HAS_TRITON, scan._HAS_TRITON and kernels
    try:
        step()
        _wait(device)
        started = time.perf_counter()
        for _ in range(_STEPS):
            step()
        _wait(device)
        return (time.perf_counter() - started) / _STEPS
    finally:
        scan._HAS_TRITON = has_triton


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def contestants() -> dict[str, Callable[[], nn.Module]]:
    """Return what is measured."""
    nightly, gpu = TrainingRun(profile="nightly").model, TrainingRun(profile="gpu").model

    def language_model(config: ModelConfig) -> nn.Module:
        return LanguageModel(Encoder(_WORDS, config), torch.ones(_WORDS))

    return {
        "nightly, pretraining": partial(language_model, nightly),
        "nightly, its student": partial(SentimentNetwork, _WORDS, student_of(nightly)),
        "gpu, pretraining": partial(language_model, gpu),
        "gpu, training": partial(SentimentNetwork, _WORDS, gpu),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the benchmark itself")
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        default=[12_288, 32_768, 65_536],
        help=f"tokens in a step, multiples of {_LENGTH}",
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    rows = []
    for (name, make), tokens in itertools.product(contestants().items(), options.tokens):
        measure = partial(seconds_of, step_of(make(), tokens, device), device)
        ways: dict[str, Callable[[], float]] = {
            "kernels": partial(measure, kernels=True),
            "loop": partial(measure, kernels=False),
        }
        ours, loop = rounds(ways, options.rounds).values()
        rows.append([name, f"{tokens:,}", f"{tokens / ours:,.0f}", f"{tokens / loop:,.0f}", f"{loop / ours:.1f}"])
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    columns = ["step", "tokens", "with kernels (tokens/s)", "without", "ratio"]
    sys.stdout.write(Table(f"Training steps on {where}, PyTorch {torch.__version__}", columns, rows).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
