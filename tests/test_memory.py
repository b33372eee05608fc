"""How much memory is taken for how much data: measured in a process of its own, since what one frees it may keep."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PEAK = """
def peak():
    '''Return the most memory that this process has held, in bytes; getrusage counts that of its parent too.'''
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
"""

TRAIN = """
import sys
from pathlib import Path

import polars as pl
import torch

from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.fitting import fit_model
from sentiment_model.parts import PartWriter
from sentiment_model.store import DatasetWriter
from sentiment_model.tokenize import TOKEN_SCHEMA, read_tokens

WORDS, LENGTH = 1000, 250


class Stop(Exception):
    pass


class StopAt:
    def __init__(self, phase):
        self.phase = phase

    def on_step(self, phase, step, total_steps, loss):
        if phase == self.phase:
            raise Stop

    def on_epoch(self, phase, metrics):
        pass


def write(folder, split, reviews):
    ids = pl.Series([list(range(2, LENGTH + 2))], dtype=pl.List(pl.Int32))
    writer = DatasetWriter(folder)
    with PartWriter(writer, split, TOKEN_SCHEMA) as part:
        for start in range(0, reviews, 1000):
            rows = pl.DataFrame({"row": range(start, min(reviews, start + 1000))}).with_columns(
                pl.col("row").cast(pl.String).alias("review_id"),
                (pl.col("row") % 2).alias("label"),
                source=pl.lit("s"),
                n_tokens=LENGTH,
                n_unknown=0,
            )
            rows = rows.with_columns(ids=ids.new_from_index(0, len(rows)))
            part.write(rows.select(TOKEN_SCHEMA.names()).cast(dict(TOKEN_SCHEMA)))
    return [folder / name for name in writer.roles]


def load(folder, reviews):
    folder.mkdir()
    splits = {"train": 100, "validation": 100, "unlabelled": reviews}
    loaded = read_tokens([write(folder, split, count) for split, count in splits.items()])
    assert len(loaded[-1]) == reviews
    return *loaded, folder / "checkpoint.safetensors"


def prepare(reviews, validation, unlabelled, checkpoint):
    # Begin a pretraining with all reviews, and a distillation up to the teacher's answers to all of them.
    model = ModelConfig(hidden_size=2, embedding_size=2, ngrams=0)
    for phase, tokens in (("pretraining", len(unlabelled) * LENGTH), ("answers", 0)):
        config = TrainConfig(epochs=1, tokens_per_batch=4000, distillation=True, pretraining_tokens=tokens)
        options = {"device": torch.device("cpu"), "checkpoint": checkpoint, "observer": StopAt(phase)}
        try:
            fit_model(reviews, validation, unlabelled, WORDS, model, config, **options)
        except Stop:
            pass


few, many = 20_000, 80_000
*some, part, some_checkpoint = load(Path(sys.argv[1], "some"), few)
before = peak()
*all_of_them, checkpoint = load(Path(sys.argv[1], "all"), many)
print((peak() - before) / (4 * LENGTH * many))
prepare(*some, part.take(torch.arange(1000)), some_checkpoint)
before = peak()
prepare(*all_of_them, checkpoint)
print((peak() - before) / (4 * LENGTH * many))
"""


def measure(script: str, *arguments: str | Path) -> list[float]:
    """Return what a script prints: numbers."""
    command = [sys.executable, "-c", PEAK + script, *map(str, arguments)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [float(number) for number in run.stdout.split()]


def test_token_ids_are_in_memory_once(tmp_path: Path) -> None:
    """However many more there are, and although a student learns from each review and its halves."""
    loading, preparing = measure(TRAIN, tmp_path)
    assert 0.3 < loading < 1.7
    assert preparing < 1
