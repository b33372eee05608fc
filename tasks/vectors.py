"""The vectors of a vocabulary's tokens as a Prefect task."""

from sentiment_model.sources.vectors import VECTORS, VectorsFile, write_vectors
from sentiment_model.store.datasets import DatasetRef, open_dataset
from sentiment_model.text.tokenize import read_vocabulary
from tasks._stage import run_stage

_TIMEOUT_SECONDS = 24 * 3600.0


def vectors(tokens: DatasetRef, file: VectorsFile) -> DatasetRef:
    """Take the vectors of the vocabulary's tokens out of a file of pretrained ones.

    Raises:
        SourceError: the file cannot be read, is damaged, or has no vector for any token.
        StoreError: the store cannot be read or written.
    """
    return run_stage(
        VECTORS,
        tokens.store_url,
        {"tokenize": tokens.fingerprint, "file": file.location.fingerprint()},
        {"name": file.location.name},
        lambda writer: write_vectors(writer, file, read_vocabulary(open_dataset(tokens))),
        timeout_seconds=_TIMEOUT_SECONDS,
    )
