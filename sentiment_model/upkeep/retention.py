"""What may be deleted: old datasets, scores, checkpoints and MLflow runs that nothing needs any more.

Of the log of the table of scores, receipts and plans stay, so that nothing is scored again; claims on what is done go.

A registered model version needs every dataset that its tags, its training run or the manifests of those datasets
name, and so on back to the reviews. A training that has not ended needs the same, and its checkpoint. A dataset
counts as used when a run makes or reuses it, so what a run in progress works with is never old.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from sentiment_model.config import TidyRun
from sentiment_model.evaluation.baseline import BASELINE
from sentiment_model.evaluation.job import EVALUATE
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring.delta import delete_from_delta, delta_partitions, vacuum_delta
from sentiment_model.scoring.table import ScoreTable
from sentiment_model.sources.ingest import INGEST
from sentiment_model.sources.split import SPLIT
from sentiment_model.sources.vectors import VECTORS
from sentiment_model.store.datasets import MANIFEST, USED, Manifest, Store
from sentiment_model.store.objects import StoredObject
from sentiment_model.text.clean import CLEAN
from sentiment_model.text.tokenize import TOKENIZE
from sentiment_model.training.job import TRAIN

_STAGES = (INGEST, CLEAN, TOKENIZE, VECTORS, TRAIN, BASELINE, EVALUATE, SPLIT)
_TABLE = "scores"
_SCORES = tuple(f"{_TABLE}/{folder}" for folder in ("scores", "quarantine", "csv", "to-label"))
_DELTA = f"{_TABLE}/delta"
_STAGED = re.compile(rf"{_TABLE}/_staged/([^/]+)/")
_IN_DATASET = re.compile(r"[^/]+/([0-9a-f]{20})/")
_CHECKPOINT = re.compile(r"train-([0-9a-f]{20})-[a-z]+\.(safetensors|tmp)")


class Verdict(BaseModel):
    """What becomes of one thing.

    Attributes:
        kind: `dataset`, `scores`, `Delta rows`, `unfinished files`, `claims`, `checkpoint` or `MLflow run`.
        name: its path in the store or in the scratch folder, or the run's id.
        bytes: its size; unknown for an MLflow run and for rows of a Delta table.
        days: its age.
        delete: whether it goes.
        reason: why it goes or stays.
    """

    kind: str
    name: str
    bytes: int | None
    days: float
    delete: bool
    reason: str


@dataclass(frozen=True)
class _Folder:
    """What lies at `<stage>/<fingerprint>`."""

    path: str
    fingerprint: str
    manifest: Manifest | None
    objects: list[StoredObject]

    def published(self) -> list[StoredObject]:
        """Return the dataset's objects in the order in which to delete them: what makes it readable first."""
        if self.manifest is None:
            return []
        files = {f"{self.path}/{entry.path}" for entry in self.manifest.files}
        ours = [each for each in self.objects if each.path in files or each.path.endswith((f"/{MANIFEST}", f"/{USED}"))]
        return sorted(ours, key=lambda each: not each.path.endswith(f"/{MANIFEST}"))

    def unfinished(self) -> dict[str, list[StoredObject]]:
        """Return the objects that belong to no dataset, by the writer that left them."""
        ours = {each.path for each in self.published()}
        return _by_folder((each for each in self.objects if each.path not in ours), 3)

    @property
    def last_used(self) -> datetime:
        return max(each.modified for each in self.published())


def judge(policy: TidyRun, store: Store, scratch: Path, tracker: Tracker, now: datetime) -> list[Verdict]:
    """Decide about everything that the policy is for; delete nothing.

    Args:
        policy: how long what is kept.
        store: the datasets.
        scratch: folder of the checkpoints.
        tracker: the connection to MLflow, which knows what is needed.
        now: the time that ages are counted from.

    Raises:
        StoreError: the store cannot be read, or a manifest is damaged: what it needs is not known then.
        TrackingError: MLflow cannot be reached.
    """
    folders = [folder for stage in _STAGES for folder in _folders(store, stage.name)]
    needed = _needed(tracker.claims(), folders)
    return [
        *(verdict for folder in folders for verdict in _judge_folder(folder, policy, needed, now)),
        *_judge_scores(store, policy, now),
        *_judge_staged(store, policy, now),
        *_judge_claims(store, policy, now),
        *_judge_delta(store, policy, now),
        *_judge_checkpoints(scratch, policy, needed, now),
        *(
            _verdict("MLflow run", run.run_id, None, run.ended_at, policy.mlflow_days, None, now)
            for run in tracker.ended_runs()
        ),
    ]


def carry_out(
    verdicts: Iterable[Verdict], store: Store, scratch: Path, tracker: Tracker, now: datetime
) -> Iterator[Verdict]:
    """Delete what is to go, and yield each verdict when it has been carried out.

    A dataset that a run has begun to use since stays. Stopped at any moment, it leaves nothing that is readable in
    part, and the next clean-up goes on.

    Raises:
        StoreError: the store or the scratch folder cannot be written.
        TrackingError: MLflow cannot be reached.
    """
    for verdict in verdicts:
        if not verdict.delete:
            continue
        if staged := _STAGED.match(verdict.name):
            # Of a shard that is done, these are the rows, which a worker has not come to publish.
            ScoreTable(f"{store.url}/{_TABLE}", staged[1]).recover()
        if verdict.kind == "Delta rows":
            delete_from_delta(f"{store.url}/{_DELTA}", verdict.name.removeprefix(f"{_DELTA}/"))
        elif verdict.name == _DELTA:
            vacuum_delta(f"{store.url}/{_DELTA}", verdict.days, dry_run=False)
        elif verdict.kind == "checkpoint":
            (scratch / verdict.name).unlink(missing_ok=True)
        elif verdict.kind == "MLflow run":
            tracker.delete_run(verdict.name)
        elif verdict.kind in ("scores", "unfinished files", "claims"):
            store.delete([each.path for each in store.listing(verdict.name)] or [verdict.name])
        else:
            stage, _, fingerprint = verdict.name.partition("/")
            folder = _folder(store, stage, fingerprint, store.listing(verdict.name))
            if folder.manifest is None or _days(folder.last_used, now) < verdict.days:
                continue
            store.delete([each.path for each in folder.published()])
        yield verdict


def _folders(store: Store, stage: str) -> list[_Folder]:
    found: dict[str, list[StoredObject]] = {}
    for each in store.listing(stage):
        if named := _IN_DATASET.match(each.path):  # what else lies there is not ours
            found.setdefault(named[1], []).append(each)
    return [_folder(store, stage, fingerprint, objects) for fingerprint, objects in found.items()]


def _folder(store: Store, stage: str, fingerprint: str, objects: list[StoredObject]) -> _Folder:
    return _Folder(f"{stage}/{fingerprint}", fingerprint, store.manifest(stage, fingerprint), objects)


def _needed(claims: Mapping[str, str], folders: Iterable[_Folder]) -> dict[str, str]:
    """Follow the manifests from what is claimed to everything that it was made from."""
    made_from = {folder.fingerprint: folder.manifest.inputs.values() for folder in folders if folder.manifest}
    needed = dict(claims)
    waiting = list(claims)
    while waiting:
        fingerprint = waiting.pop()
        for source in made_from.get(fingerprint, ()):
            if source not in needed:
                needed[source] = needed[fingerprint]
                waiting.append(source)
    return needed


def _judge_folder(folder: _Folder, policy: TidyRun, needed: Mapping[str, str], now: datetime) -> Iterator[Verdict]:
    owner = needed.get(folder.fingerprint)
    if folder.manifest:
        yield _verdict_on(folder.published(), "dataset", folder.path, policy.dataset_days, owner, now)
    for path, objects in folder.unfinished().items():
        yield _verdict_on(objects, "unfinished files", path, policy.unfinished_days, owner, now)


def _by_folder(objects: Iterable[StoredObject], depth: int = -1) -> dict[str, list[StoredObject]]:
    """Return objects by the folder that lies so many names deep, or by the one that they are in."""
    folders: dict[str, list[StoredObject]] = {}
    for each in objects:
        folders.setdefault("/".join(each.path.split("/")[:depth]), []).append(each)
    return folders


def _judge_staged(store: Store, policy: TidyRun, now: datetime) -> Iterator[Verdict]:
    """Judge what workers and exports that were killed left in the table of scores."""
    for path, objects in _by_folder(store.listing(f"{_TABLE}/_staged"), 4).items():
        yield _verdict_on(objects, "unfinished files", path, policy.unfinished_days, None, now)


def _judge_claims(store: Store, policy: TidyRun, now: datetime) -> Iterator[Verdict]:
    """Judge the claims on shards that are done, which nobody can take any more."""
    for log, objects in _by_folder(store.listing(f"{_TABLE}/_log"), 3).items():
        done = {Path(each.path).stem for each in objects if each.path.startswith(f"{log}/receipts/")}
        claims = [each for each in objects if each.path.startswith(f"{log}/claims/")]
        for path, of_shard in _by_folder(claims, 5).items():
            owner = None if path.rpartition("/")[2] in done else "a shard that is not done"
            yield _verdict_on(of_shard, "claims", path, policy.unfinished_days, owner, now)


def _judge_delta(store: Store, policy: TidyRun, now: datetime) -> Iterator[Verdict]:
    """Judge the partitions of the Delta table, and files that no version of it needs."""
    url = f"{store.url}/{_DELTA}"
    if not store.listing(f"{_DELTA}/_delta_log"):
        return
    for name, day in delta_partitions(url):
        end = datetime.combine(day, datetime.max.time(), UTC)
        yield _verdict("Delta rows", f"{_DELTA}/{name}", None, end, policy.score_days, None, now)
    days = policy.unfinished_days
    if vacuum_delta(url, days, dry_run=True):
        reason = f"files that the table has not needed for {days:g} days"
        yield Verdict(kind="unfinished files", name=_DELTA, bytes=None, days=days, delete=True, reason=reason)


def _judge_scores(store: Store, policy: TidyRun, now: datetime) -> Iterator[Verdict]:
    """Judge the partitions of the table of scores; its log stays, so that nothing is scored again."""
    for path, objects in _by_folder(each for folder in _SCORES for each in store.listing(folder)).items():
        yield _verdict_on(objects, "scores", path, policy.score_days, None, now)


def _judge_checkpoints(scratch: Path, policy: TidyRun, needed: Mapping[str, str], now: datetime) -> Iterator[Verdict]:
    for path in sorted(scratch.glob("train-*")):
        if training := _CHECKPOINT.fullmatch(path.name):
            status = path.stat()
            written = datetime.fromtimestamp(status.st_mtime, UTC)
            owner = needed.get(training[1])
            yield _verdict("checkpoint", path.name, status.st_size, written, policy.checkpoint_days, owner, now)


def _verdict_on(
    objects: Collection[StoredObject], kind: str, name: str, limit: float, owner: str | None, now: datetime
) -> Verdict:
    """Judge objects together, by the newest of them."""
    newest = max(each.modified for each in objects)
    return _verdict(kind, name, sum(each.bytes for each in objects), newest, limit, owner, now)


def _verdict(
    kind: str, name: str, size: int | None, since: datetime, limit: float, owner: str | None, now: datetime
) -> Verdict:
    days = _days(since, now)
    delete = owner is None and days >= limit
    reason = f"{owner} needs it" if owner else f"{days:.1f} days old, kept for {limit:g}"
    return Verdict(kind=kind, name=name, bytes=size, days=days, delete=delete, reason=reason)


def _days(since: datetime, now: datetime) -> float:
    return (now - since) / timedelta(days=1)
