"""Reading a file of reviews in a test."""

from pathlib import Path

from sentiment_model.config import ReviewFiles
from sentiment_model.sources.files import read_batches, usable_text
from sentiment_model.sources.listing import list_files


def write(path: Path, content: str | bytes) -> Path:
    """Write a file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **options: object) -> tuple[dict[int, str], dict[int, str]]:
    """Return the text of each usable row of a file, and why each other is not usable."""
    config = ReviewFiles.model_validate({"path": str(path), **options})
    (file,) = list_files(config).files
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for batch in read_batches(file, config, 100):
        usable, text = usable_text(batch, config)
        texts.update(zip(usable.origin["row"], text, strict=True))
        reasons.update(usable.rejects.select("row", "reason").iter_rows())
    assert sorted([*texts, *reasons]) == list(range(1, len(texts) + len(reasons) + 1))
    return texts, reasons


def texts(path: Path, **options: object) -> list[str]:
    """Return the texts of a file of which every row is usable."""
    found, reasons = read(path, **options)
    assert not reasons
    return list(found.values())
