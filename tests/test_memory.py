"""How much memory is taken for how much data, and for small files that unpack to large ones."""

import gzip
import io
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sentiment_model.config import ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.files import SourceFile, read_batches
from sentiment_model.sources.lines import split_lines
from sentiment_model.sources.listing import list_files

LIMIT = """
import resource

def limit(more):
    '''Let this process have at most so many bytes more of its own; what it maps of files does not count.'''
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(line.split()[1]) + more, resource.RLIM_INFINITY))
"""

TRAIN = """
import sys
from pathlib import Path

import polars as pl
import torch

from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.training.fitting import fit_model
from sentiment_model.store.parts import PartWriter
from sentiment_model.store.datasets import DatasetWriter
from sentiment_model.text.tokenize import TOKEN_SCHEMA, read_tokens

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
    files = [write(folder, split, count) for split, count in splits.items()]
    if reviews == many:
        limit(4 * LENGTH * many // 2)
    loaded = read_tokens(files, folder)
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
prepare(*some, part.take(torch.arange(1000)), some_checkpoint)
*all_of_them, checkpoint = load(Path(sys.argv[1], "all"), many)
prepare(*all_of_them, checkpoint)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_token_ids_are_not_in_memory(tmp_path: Path) -> None:
    """Not when they are read, and not although a student learns from each review and its halves."""
    run = subprocess.run(
        [sys.executable, "-c", LIMIT + TRAIN, tmp_path], check=False, stderr=subprocess.PIPE, text=True
    )
    assert run.returncode == 0, run.stderr


MIB = 1 << 20


def packed(folder: Path, name: str, pieces: Iterable[bytes]) -> SourceFile:
    """Write a compressed file and return it."""
    with (folder / name).open("wb") as file:
        writer = gzip.GzipFile(fileobj=file, mode="wb") if name.endswith(".gz") else zstandard.open(file, "wb")
        with writer:
            for piece in pieces:
                writer.write(piece)
    (source,) = list_files(ReviewFiles(path=str(folder / name))).files
    assert source.location.size < MIB
    return source


@contextmanager
def at_most(most: int) -> Iterator[None]:
    """Check that Python allocates at most so many bytes."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= most


def test_an_endless_line_is_one_reject(tmp_path: Path) -> None:
    source = packed(tmp_path, "a.csv.zst", [b"text\ngood\n", *[b"a" * MIB] * 300])
    with at_most(256 * MIB):  # where all of it is more
        (batch,) = read_batches(source, ReviewFiles(path=str(tmp_path)), 4096)
    assert batch.rejects["reason"].to_list() == ["line_too_long"]
    assert batch.frame["text"].to_list() == ["good"]


def test_rejected_lines_are_not_collected(tmp_path: Path) -> None:
    """Of each, all that is read of it is in memory until its batch is whole."""
    source = packed(tmp_path, "a.jsonl.zst", [b"a" * (10 * MIB) + b"\n"] * 40)
    with at_most(280 * MIB):
        batches = list(read_batches(source, ReviewFiles(path=str(tmp_path)), 4096, ["text"]))
    assert sum(len(batch.rejects) for batch in batches) == 40


def test_lines_are_split_a_piece_at_a_time() -> None:
    """What 2 KiB of zstd can unpack to may be nothing but ends of lines, each of which a list holds a reference to."""
    unpacked = b"\n" * (16 * MIB)
    with at_most(40 * MIB):
        assert next(split_lines(iter([unpacked]), MIB)) == b""
    assert list(split_lines(iter([b"a\n" * MIB, b"b\n\n" * MIB, b"end"]), MIB)) == [
        *[b"a"] * MIB,
        *[b"b", b""] * MIB,
        b"end",
    ]


def test_empty_lines_in_quotes_count_to_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentiment_model.sources.files._MIN_RECORD_BYTES", 1 << 16)
    config = ReviewFiles(path=str(tmp_path), max_text_bytes=1000)
    source = packed(tmp_path, "a.csv.gz", [b'text\n"', b"\n" * 20_000, b'"\ngood\n'])
    (batch,) = read_batches(source, config, 4096)
    assert batch.rejects["reason"].to_list() == ["broken_csv", "broken_csv"]  # each of the quotes alone
    assert batch.frame["text"].to_list() == ["good"]


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.pq.zst"])
def test_parquet_is_unpacked_to_a_hundred_times_its_size(tmp_path: Path, name: str) -> None:
    bomb = packed(tmp_path, name, [bytes(MIB)] * 65)
    with pytest.raises(SourceError, match=rf"^{name} unpacks to more than 100 times its [\d,]+ bytes; .* unpack it: "):
        next(read_batches(bomb, ReviewFiles(path=str(tmp_path)), 4096))
    buffer = io.BytesIO()
    pl.DataFrame({"text": ["good " * 1000] * 5000}).write_parquet(buffer, compression="uncompressed")
    source = packed(tmp_path, name, [buffer.getvalue()])
    batches = read_batches(source, ReviewFiles(path=str(tmp_path)), 4096)
    assert sum(len(batch.frame) for batch in batches) == 5000


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_text_that_parquet_stores_once_is_read_a_few_rows_at_a_time(tmp_path: Path, dictionary: bool) -> None:
    texts = pa.array(["x" * MIB] * 150)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts.dictionary_encode() if dictionary else texts, "n": range(150)}), path)
    assert path.stat().st_size < MIB
    (source,) = list_files(ReviewFiles(path=str(path))).files
    numbers = []
    for batch in read_batches(source, ReviewFiles(path=str(path)), 4096):
        assert batch.frame.estimated_size() < 100 * MIB
        numbers += batch.frame["n"].to_list()
    assert numbers == list(range(150))
