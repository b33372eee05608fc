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


def save_checkpoint(path: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` durably: a crash leaves the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"progress": json.dumps(progress)},
    )
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the progress of a checkpoint, or None where there is none.

    Raises:
        ModelError: the file is not a whole checkpoint.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads((file.metadata() or {})["progress"])
            return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"checkpoint {path} is damaged ({error}); delete it to start the training anew") from error
