"""Where a dataset comes from: the stages before it, their configuration and what they counted."""

from typing import Any

from pydantic import BaseModel

from sentiment_model.store import Dataset, DatasetRef, Store

# The stage that makes an input, by the name under which the next stage knows it. Other inputs are sources of reviews.
_STAGES = {"ingest": "ingest", "test": "ingest", "clean": "clean", "tokenize": "tokenize"}


class StageRecord(BaseModel):
    """One stage: its role, the dataset it made, and how.

    Parameters and counts are nested mappings, empty for a dataset that has been deleted.
    """

    name: str
    fingerprint: str
    parameters: dict[str, Any]
    counts: dict[str, Any]


def lineage(dataset: Dataset) -> list[StageRecord]:
    """Return what a dataset was made from, the sources first and itself last."""
    return list(_walk(dataset.ref.stage, dataset.ref, dataset).values())


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
