"""A training as a job that one process or several can run: tokenized dataset in, model folder out.

Run by hand on several nodes with ``torchrun ... -m sentiment_model.training_job JOB.json``.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
import torch
import torch.distributed as dist
from pydantic import BaseModel, ValidationError

from sentiment_model.classes import Classes
from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.errors import ModelError, SentimentError
from sentiment_model.models.bundle import DESCRIPTION, VOCABULARY, WEIGHTS, save_bundle
from sentiment_model.models.drift import Histograms, histograms
from sentiment_model.networks.device import choose_device, count_cores
from sentiment_model.settings import DeviceName
from sentiment_model.sources.vectors import read_vectors
from sentiment_model.store.datasets import Dataset, DatasetRef, DatasetWriter, Stage, open_dataset
from sentiment_model.text.tokenize import read_tokens
from sentiment_model.text.vocabulary import Vocabulary
from sentiment_model.training.fitting import FittedModel, PhaseObserver, fit_model
from sentiment_model.training.history import EpochMetrics, Phase, PretrainingMetrics

TRAIN = Stage("train", 13)
HISTORY = "history.json"

_MAX_CPU_PROCESSES = 4  # a batch in more parts is small work each, and has to be summed more often


class TrainingJob(BaseModel):
    """Everything a training process has to know."""

    tokens: DatasetRef
    vectors: DatasetRef | None = None
    classes: Classes
    model: ModelConfig
    train: TrainConfig
    device: DeviceName
    checkpoint: Path
    output: Path


def training_identity(
    tokens: DatasetRef, vectors: DatasetRef | None, model: ModelConfig, config: TrainConfig
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the inputs and the parameters that a trained model is named by.

    Of word vectors it is their numbers that do, not where the file is.

    How often checkpoints are written and what device computes do not name another model; the number of processes does.
    """
    train = config.model_dump(exclude={"checkpoint_seconds"})
    inputs = {"tokenize": tokens.fingerprint} | ({"vectors": vectors.fingerprint} if vectors else {})
    return inputs, {"model": model.model_dump(exclude={"vectors"}), "train": train}


def resolve_processes(config: TrainConfig, device: DeviceName) -> TrainConfig:
    """Return the configuration with the number of processes that 0 means on this machine.

    On CPU, processes of one thread each beat threads inside each operation: the steps of a recurrent network are so
    small that the threads mostly wait for each other, and on a busy machine for one that does not run.
    """
    if config.processes:
        return config
    on_gpu = choose_device(device).type == "cuda"
    processes = torch.cuda.device_count() if on_gpu else min(_MAX_CPU_PROCESSES, count_cores())
    return config.model_copy(update={"processes": processes})


def write_model(writer: DatasetWriter, job: TrainingJob, observer: PhaseObserver) -> dict[str, Any]:
    """Train in this process, or in `job.train.processes` new ones, and write the model's files to `job.output`.

    Returns:
        the best epoch's figures.

    Raises:
        SentimentError: the data or the configuration cannot be trained on; the message says why.
    """
    if job.train.processes > 1:
        _train_in_processes(job, observer)
    else:
        _train_here(job, observer)
    for name in (WEIGHTS, VOCABULARY, DESCRIPTION, HISTORY):
        writer.file(name)
    history = json.loads((job.output / HISTORY).read_text())
    best: dict[str, Any] = min(history, key=lambda metrics: metrics["validation_loss"])
    return {"epochs": len(history), "best": best}


def _train_here(job: TrainingJob, observer: PhaseObserver | None) -> None:
    tokens = open_dataset(job.tokens)
    splits = ["train", "validation"]
    if job.train.distillation or job.train.pretraining_tokens:
        splits.append("unlabelled")
    job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with tokens.local_folder() as folder:
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        reviews, validation, *unlabelled = read_tokens(
            [[folder / PurePosixPath(file).name for file in tokens.files(split)] for split in splits],
            scratch=job.checkpoint.parent,
        )
    fitted = fit_model(
        reviews,
        validation,
        unlabelled[0] if unlabelled else None,
        len(vocabulary),
        job.model,
        job.train,
        device=choose_device(job.device),
        checkpoint=job.checkpoint,
        classes=len(job.classes),
        vectors=read_vectors(open_dataset(job.vectors)) if job.vectors else None,
        observer=observer,
    )
    if fitted:
        save_bundle(
            job.output,
            fitted.weights,
            vocabulary,
            fitted.network,
            job.classes,
            max_tokens=tokens.manifest.parameters["max_tokens"],
            temperature=fitted.temperature,
            trained_on={**tokens.manifest.inputs, "tokenize": job.tokens.fingerprint},
            reference=_reference(tokens, fitted),
        )
        (job.output / HISTORY).write_text(json.dumps([asdict(metrics) for metrics in fitted.history], indent=2))


def _reference(tokens: Dataset, fitted: FittedModel) -> Histograms:
    lengths = tokens.scan("validation").select("n_tokens", "n_unknown").collect()
    scores = lengths.with_columns(probabilities=pl.Series(fitted.probabilities.numpy()))
    return histograms(scores.filter(pl.col("n_tokens") > 0))


def _train_in_processes(job: TrainingJob, observer: PhaseObserver) -> None:
    """Start torchrun on this machine and pass on what its first process reports, one JSON object a line."""
    description = job.output / "job.json"
    description.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={job.train.processes}", "-m", "sentiment_model.training_job", str(description)]
    threads = max(1, count_cores() // job.train.processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603 - ours
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


def _pass_on(line: str, observer: PhaseObserver) -> str:
    try:
        message = json.loads(line)
    except json.JSONDecodeError:
        sys.stdout.write(line)
        return ""
    if "step" in message:
        observer.on_step(**message)
    elif "metrics" in message:
        kind = PretrainingMetrics if message["phase"] == "pretraining" else EpochMetrics
        observer.on_epoch(message["phase"], kind(**message["metrics"]))
    return str(message.get("error", ""))


def _tell_parent(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class _Reporter:
    """Reports to the parent process, a JSON object a line.

    Each line is flushed: when the parent is killed, the next one fails, and the training ends instead of going on
    beside the one that is started again.
    """

    def on_step(self, phase: Phase, step: int, total_steps: int, loss: float | None) -> None:
        _tell_parent({"phase": phase, "step": step, "total_steps": total_steps, "loss": loss})

    def on_epoch(self, phase: Phase, metrics: PretrainingMetrics) -> None:
        _tell_parent({"phase": phase, "metrics": asdict(metrics)})


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
        _train_here(job, _Reporter())
    except SentimentError as error:
        _tell_parent({"error": str(error)})
        return 1
    finally:
        dist.destroy_process_group()
    return 0
