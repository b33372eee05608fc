"""Where a dataset comes from: the stages before it, their configuration and what they counted."""

import json
import shlex
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from sentiment_model.config import TrainingRun
from sentiment_model.store.datasets import Dataset, DatasetRef, Store

# The stage that makes an input, by the name under which the next stage knows it. Other inputs are sources of reviews.
_STAGES = {
    "ingest": "ingest",
    "test": "ingest",
    "unlabelled": "ingest",
    "clean": "clean",
    "tokenize": "tokenize",
    "vectors": "vectors",
}


class StageRecord(BaseModel):
    """One stage: its role, the dataset it made, and how.

    Parameters and counts are nested mappings, empty for a dataset that has been deleted.
    """

    name: str
    fingerprint: str
    parameters: dict[str, Any]
    counts: dict[str, Any]


def lineage(*datasets: Dataset) -> list[StageRecord]:
    """Return what datasets were made from, the sources first and the last of them last."""
    records: dict[str, StageRecord] = {}
    for dataset in datasets:
        records |= _walk(dataset.ref.stage, dataset.ref, dataset)
    return list(records.values())


def training_command(records: Iterable[StageRecord]) -> str | None:
    """Return the shell command that makes a model again, or None where a dataset behind it has been deleted.

    It names the options that differ from their defaults. ``PATH`` stands for where the reviews are, which is not
    recorded: the same files elsewhere give the same model. Of a file of word vectors the name is.

    Args:
        records: the lineage of the model.
    """
    made = {record.name: record.parameters for record in records if record.name in (*_STAGES, "train")}
    if not made.keys() >= {"ingest", "clean", "tokenize", "train"} or not all(made.values()):
        return None
    training = made.pop("train")
    training = {name: training[name] for name in ("model", "train")}  # besides, it names the classes, as ingest does
    if vectors := made.pop("vectors", None):
        training = training | {"model": training["model"] | {"vectors": vectors["name"]}}
    sections = made | training
    for source in sections.keys() & {"ingest", "test", "unlabelled"}:
        if sections[source]["source"] != "imdb":
            sections[source] = sections[source] | {"path": "PATH"}
    chosen = TrainingRun.model_validate(sections).model_dump(mode="json", exclude_defaults=True)
    options = (f"--{name} {shlex.quote(json.dumps(values, ensure_ascii=False))}" for name, values in chosen.items())
    return " \\\n    ".join([".venv/bin/python -m flows.train", *options])


def _walk(name: str, ref: DatasetRef, dataset: Dataset | None) -> dict[str, StageRecord]:
    records: dict[str, StageRecord] = {}
    if dataset is None:
        return {name: StageRecord(name=name, fingerprint=ref.fingerprint, parameters={}, counts={})}
    for role, fingerprint in dataset.manifest.inputs.items():
        if role in _STAGES:
            made_from = DatasetRef(store_url=ref.store_url, stage=_STAGES[role], fingerprint=fingerprint)
            records |= _walk(role, made_from, Store(ref.store_url).find(made_from.stage, fingerprint))
    manifest = dataset.manifest
    return records | {
        name: StageRecord(
            name=name, fingerprint=ref.fingerprint, parameters=manifest.parameters, counts=manifest.counts
        )
    }
