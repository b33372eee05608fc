"""Pretrained word vectors: every format that people have, what is wrong with them, and that a training starts there."""

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
import zstandard

from sentiment_model.config import ModelConfig, TokenizeConfig, TrainConfig
from sentiment_model.errors import SourceError
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.sources.vectors import VECTORS, VectorsFile, WordVectors, read_vectors, write_vectors
from sentiment_model.store.datasets import Store
from sentiment_model.text.vocabulary import Vocabulary
from sentiment_model.training.fitting import fit_model

VOCABULARY = Vocabulary.fit(
    pl.LazyFrame({"text": ["good good good bad bad café . nobody"]}), TokenizeConfig(min_count=1)
)  # good 2, bad 3, and by code points . 4, café 5, nobody 6
GLOVE = "the 0.1 0.2 0.3\ngood 1 2 3\n. -1 0.5 1e-3\n. . 0.1 0.2 0.3\ncafé 4 5 6\ngood 9 9 9\nBad 7 7 7\n"


def take(tmp_path: Path, path: Path, size: int = 3) -> tuple[WordVectors, dict[str, int]]:
    file = VectorsFile.find(str(path), size)
    dataset, _ = Store(str(tmp_path / "store")).materialise(
        VECTORS, {"file": file.location.fingerprint()}, {}, lambda writer: write_vectors(writer, file, VOCABULARY)
    )
    return read_vectors(dataset), dataset.counts


def plain(text: str) -> bytes:
    return text.encode()


def fast_text(text: str) -> bytes:
    """A head, and a space at the end of each line."""
    lines = text.splitlines()
    return "\n".join([f"{len(lines)} 3", *(f"{line} " for line in lines), ""]).encode()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("glove.txt", plain),
        ("glove.3d.txt.gz", lambda text: gzip.compress(text.encode())),
        ("crawl.vec", fast_text),
        ("crawl.vec.zst", lambda text: zstandard.compress(fast_text(text))),
        ("tabs.txt", lambda text: text.replace(" ", "\t").encode()),
        ("indented.txt", lambda text: "".join(f" {line}\n" for line in text.splitlines()).encode()),
        ("windows.txt", lambda text: text.replace("\n", "\r\n").encode()),
    ],
)
def test_only_the_tokens_of_the_vocabulary_are_kept(tmp_path: Path, name: str, write: Callable[[str], bytes]) -> None:
    (tmp_path / name).write_bytes(write(GLOVE))
    vectors, counts = take(tmp_path, tmp_path / name)
    assert counts == {"tokens": 5, "found": 3}
    assert vectors.ids.tolist() == [2, 4, 5]
    assert vectors.values.equal(torch.tensor([[1, 2, 3], [-1, 0.5, 1e-3], [4, 5, 6]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not hold word vectors as text"),
        (b"text,label\ngood,1\n", "does not hold word vectors as text"),
        (b"1" * 5000 + b" 3\ngood 1 2 3\n", "have 1 numbers"),
        (b"100 3\n\x00\x80binary", "does not hold word vectors as text"),
        (b"good 1 2 3 4\n", "have 4 numbers; set model.embedding_size to 4"),
        (b"1 2\ngood 1 2\n", "have 2 numbers; set model.embedding_size to 2"),
        (b"other 1 2 3\n", "has no vector of any of the 5 tokens"),
        (b"other 1 2 3\ngood 1 2", "the line of 'good' is damaged or cut off"),
        (b"other 1 2 3\ngood 1 x 3\n", "the line of 'good' is damaged or cut off"),
        (b"other 1 2 3\ngood 1 1e60 3\n", "the line of 'good' is damaged or cut off"),
        (b"other 1 2 3\ngood 1 nan 3\n", "the line of 'good' is damaged or cut off"),
        (b"3 3\nother 1 2 3\ngood 1 2 3\n", "has 2 of the 3 words that its first line tells of"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, content: bytes, message: str
) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        take(tmp_path, path)
    assert not recwarn.list


def test_a_packed_file_that_is_cut_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt.gz"
    lines = "".join(f"word{n} {n} {n / 7} {n / 3}\n" for n in range(5000))
    path.write_bytes(gzip.compress((GLOVE + lines).encode())[:-2000])
    with pytest.raises(SourceError, match="the gz data is cut off"):
        take(tmp_path, path)


def test_a_path_is_one_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file at"):
        VectorsFile.find(str(tmp_path / "nothing.txt"), 3)
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(GLOVE)
    with pytest.raises(SourceError, match="is 2 files; name the one"):
        VectorsFile.find(str(tmp_path), 3)


@pytest.mark.parametrize("pretraining_tokens", [0, 1000])
def test_a_training_starts_from_them(tmp_path: Path, pretraining_tokens: int) -> None:
    """With a rate of almost nothing it ends where it starts, too."""
    ids = [[2, 3, 4, 5], [5, 4, 3, 2]] * 10
    frame = pl.DataFrame({"ids": ids, "label": [1, 0] * 10}, schema={"ids": pl.List(pl.Int32), "label": pl.Int8})
    reviews = TokenizedReviews.from_frame(frame)
    vectors = WordVectors(torch.tensor([3, 5]), torch.tensor([[3.0, 0, 0], [0, 4.0, 0]]))

    def embedding(vectors: WordVectors | None) -> torch.Tensor:
        fitted = fit_model(
            reviews,
            reviews,
            None,
            7,
            ModelConfig(embedding_size=3, hidden_size=4, ngrams=0, vectors="somewhere.txt"),
            TrainConfig(epochs=1, learning_rate=1e-9, ema_decay=0.0, pretraining_tokens=pretraining_tokens),
            device=torch.device("cpu"),
            checkpoint=tmp_path / f"{pretraining_tokens}-{vectors is None}.safetensors",
            vectors=vectors,
        )
        assert fitted
        assert fitted.network.vectors is None
        return fitted.weights["recurrent.encoder.embedding.weight"]

    weight, random = embedding(vectors), embedding(None)
    if pretraining_tokens:
        assert not weight.equal(random)
        return
    # As large as random ones, and as far apart from each other as they were.
    scale = 0.1 / (25 / 6) ** 0.5
    assert weight[[3, 5]].tolist() == pytest.approx(torch.tensor([[3 * scale, 0, 0], [0, 4 * scale, 0]]), abs=1e-6)
    assert weight[0].tolist() == [0, 0, 0]
    assert 0.01 < weight[[1, 2, 4, 6]].std() < 0.2
