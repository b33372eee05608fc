"""A training as a job that one process or several can run: tokenized dataset in, model folder out.

Run by hand on several nodes with ``torchrun ... -m sentiment_model.training_job JOB.json``.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel, ValidationError

from sentiment_model.batching import TokenizedReviews
from sentiment_model.bundle import DESCRIPTION, VOCABULARY, WEIGHTS, save_bundle
from sentiment_model.calibration import fit_temperature
from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.errors import ModelError, SentimentError
from sentiment_model.settings import DeviceName
from sentiment_model.store import DatasetRef, DatasetWriter, Stage, open_dataset
from sentiment_model.training import EpochMetrics, Observer, TrainingResult, choose_device, train
from sentiment_model.vocabulary import Vocabulary

TRAIN = Stage("train", 2)
HISTORY = "history.json"


class TrainingJob(BaseModel):
    """Everything a training process has to know."""

    tokens: DatasetRef
    model: ModelConfig
    train: TrainConfig
    device: DeviceName
    checkpoint: Path
    output: Path


def training_identity(
    tokens: DatasetRef, model: ModelConfig, config: TrainConfig
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the inputs and the parameters that a trained model is named by.

    How often checkpoints are written and what device computes do not name another model.
    """
    parameters = {"model": model.model_dump(), "train": config.model_dump(exclude={"checkpoint_seconds"})}
    return {"tokenize": tokens.fingerprint}, parameters


def write_model(writer: DatasetWriter, job: TrainingJob, observer: Observer) -> dict[str, Any]:
    """Train in this process, or in `job.train.processes` new ones, and write the model's files to `job.output`.

    Returns:
        the best epoch's figures.

    Raises:
        SentimentError: the data or the configuration cannot be trained on; the message says why.
    """
    if job.train.processes == 1:
        _train_here(job, observer)
    else:
        _train_in_processes(job, observer)
    for name in (WEIGHTS, VOCABULARY, DESCRIPTION, HISTORY):
        writer.file(name)
    history = json.loads((job.output / HISTORY).read_text())
    best: dict[str, Any] = min(history, key=lambda metrics: metrics["validation_loss"])
    return {"epochs": len(history), "best": best}


def _train_here(job: TrainingJob, observer: Observer | None) -> None:
    tokens = open_dataset(job.tokens)
    device = choose_device(job.device)

    def load(split: str) -> TokenizedReviews:
        return TokenizedReviews.from_frame(tokens.scan(split).select("ids", "label").collect())

    validation = load("validation")
    with tokens.local_folder() as folder:
        vocabulary = Vocabulary.load(folder / VOCABULARY)
    result = train(
        load("train"),
        validation,
        len(vocabulary),
        job.model,
        job.train,
        device=device,
        checkpoint=job.checkpoint,
        observer=observer,
    )
    if not dist.is_initialized() or dist.get_rank() == 0:
        _save(job, result, vocabulary, validation)


def _save(job: TrainingJob, result: TrainingResult, vocabulary: Vocabulary, validation: TokenizedReviews) -> None:
    tokens = open_dataset(job.tokens).manifest
    save_bundle(
        job.output,
        result.weights,
        vocabulary,
        job.model,
        max_tokens=tokens.parameters["max_tokens"],
        temperature=fit_temperature(result.validation_logits.numpy(), validation.labels.numpy()),
        trained_on={**tokens.inputs, "tokenize": job.tokens.fingerprint},
    )
    (job.output / HISTORY).write_text(json.dumps([asdict(metrics) for metrics in result.history], indent=2))


def _train_in_processes(job: TrainingJob, observer: Observer) -> None:
    """Start torchrun on this machine and pass on what its first process reports, one JSON object a line."""
    description = job.output / "job.json"
    description.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={job.train.processes}", "-m", "sentiment_model.training_job", str(description)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own arguments
        failure = ""
        try:
            for line in process.stdout or ():
                failure = _pass_on(line, observer) or failure
        except BaseException:
            process.terminate()  # torchrun ends its workers
            raise
    description.unlink()
    if process.returncode:
        raise ModelError(failure or f"a training process failed with status {process.returncode}; its log says why")


def _pass_on(line: str, observer: Observer) -> str:
    try:
        message = json.loads(line)
    except json.JSONDecodeError:
        sys.stdout.write(line)
        return ""
    if "step" in message:
        observer.on_step(**message)
    elif "epoch" in message:
        observer.on_epoch(EpochMetrics(**message))
    return str(message.get("error", ""))


class _Reporter:
    """Reports to the parent process, a JSON object a line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def on_step(self, step: int, total_steps: int, loss: float) -> None:
        self._write(json.dumps({"step": step, "total_steps": total_steps, "loss": loss}) + "\n")

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self._write(json.dumps(asdict(metrics)) + "\n")


def main() -> int:
    """Take part in a training as one of torchrun's processes."""
    try:
        job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_bytes())
    except (IndexError, OSError, ValidationError) as error:
        raise SystemExit(f"usage: torchrun ... -m sentiment_model.training_job JOB.json ({error})") from error
    cuda = job.device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        _train_here(job, _Reporter(sys.stdout.write))
    except SentimentError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    finally:
        sys.stdout.flush()
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
