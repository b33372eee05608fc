"""Atomic training checkpoints in one safetensors file; nothing is pickled.

A checkpoint holds tensors (weights, averaged weights, best weights, optimizer moments) and a JSON header (position
and history). Dropout and batch order are seeded per step and per epoch, so no random-number state has to be kept.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sentiment_model.errors import ModelError

FORMAT = "1"
"""Of the names of the tensors, and of what the header says of the progress."""


def save_checkpoint(path: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` durably: a crash leaves the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"format": FORMAT, "progress": json.dumps(progress)},
    )
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the progress of a checkpoint, or None where there is none.

    Raises:
        ModelError: the file is not a whole checkpoint, or of another format.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if (found := header.get("format")) != FORMAT:
                raise ModelError(
                    f"checkpoint {path} is of another version of the project (format {found}, where this one reads "
                    f"{FORMAT}); delete it to start the training anew, or go on with the version that wrote it"
                )
            progress = json.loads(header["progress"])
            return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"checkpoint {path} is damaged ({error}); delete it to start the training anew") from error
