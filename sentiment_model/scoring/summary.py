"""What a scoring run made: its figures, from the receipts of its shards."""

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel

from sentiment_model.config import ScoringRun
from sentiment_model.models.bundle import ModelDescription
from sentiment_model.models.drift import Drift, drift, unjudged
from sentiment_model.scoring.counts import Counts, total
from sentiment_model.scoring.exports import Exports
from sentiment_model.scoring.table import Receipt
from sentiment_model.scoring.work import Work


class ScoringSummary(BaseModel):
    """What a scoring run made; shares are in 0..1.

    Attributes:
        table: folder or URL of the table of scores.
        scores: its files with the rows of this run's files.
        nothing: why there was nothing to score, or None; the rows below are 0 then.
        passed_over: which files of the folder were passed over and why, or None.
        reused: whether all files had been scored before; the figures are those of then.
        model_version: version of the model in the registry.
        shadow_version: version of the model beside it.
        files: files that the run names.
        new_files: of these, those that had not been scored before; the figures below are theirs.
        shards: shards that this run was to score, and files that it could not read.
        failures: why shards of these failed, or files cannot be read, by name; the figures below are of the others.
        unusable: why files are left out that an earlier run found to be broken, by name of the shard.
        removed: rows that were labelled before and have been removed from the table since; no figure counts them.
        rows_in: rows read.
        scored: rows labelled.
        quarantined: rows that could not be labelled.
        reasons: those rows by reason.
        shares: share of the labelled rows that are of each class, by its name, in the order of the classes.
        uncertain_share: share of the labelled rows that are uncertain.
        disagreement_share: share of the labelled rows that the shadow model labels otherwise; None without one.
        unknown_share: share of the tokens that the model's vocabulary does not have.
        mean_tokens: tokens a review.
        unlearned: shares of the labelled rows with letters that are in scripts which the model's training reviews did
            not have, by script; empty where these are not most of the rows.
        drift: distance from the reviews that the model was validated on, by quantity; empty where it is not known.
        drifted: the quantities in which it is too large.
        drift_unjudged: why that was not judged, or None.
        seconds: time that this run took to score.
        reviews_per_second: rows that this run labelled by that time.
        csv: file with the scores as CSV.
        to_label: file with the most uncertain reviews.
        unexported: why files that were asked for could not be written, by what they are.
    """

    table: str
    scores: list[str]
    nothing: str | None
    passed_over: str | None
    reused: bool
    model_version: str
    shadow_version: str | None
    files: int
    new_files: int
    shards: int
    failures: dict[str, str]
    unusable: dict[str, str]
    removed: int
    rows_in: int
    scored: int
    quarantined: int
    reasons: dict[str, int]
    shares: dict[str, float]
    uncertain_share: float
    disagreement_share: float | None
    unknown_share: float
    mean_tokens: float
    unlearned: dict[str, float]
    drift: dict[str, Drift]
    drifted: list[str]
    drift_unjudged: str | None
    seconds: float
    reviews_per_second: float
    csv: str | None
    to_label: str | None
    unexported: dict[str, str]


class Figures(NamedTuple):
    """What is known of the files of a run.

    Attributes:
        counts: of the new files, or of all where none is new.
        paths: the files of the table with rows of all of them.
        removed: rows that were labelled and are in the table no more, of which nothing is counted.
    """

    counts: Counts
    paths: list[str]
    removed: int


def count(work: Work) -> Figures:
    """Add up what the receipts of a run's files say."""
    to_count = {receipt.shard for receipt in work.ledger.scored(work.new)}
    there = work.table.published(work.ledger.scored(work.inbox.files))
    paths: list[str] = []
    removed = 0

    def counted() -> Iterator[Receipt]:
        nonlocal removed
        for receipt in work.ledger.scored(work.inbox.files):
            if not there.issuperset(file.path for file in receipt.files if file.role == "scores"):
                removed += receipt.counts["scored"]
                continue
            paths.extend(work.table.paths([receipt]))
            if not work.new or receipt.shard in to_count:
                yield receipt

    counts = total(counted())
    counts.check_complete()
    return Figures(counts, paths, removed)


def summarise(
    run: ScoringRun,
    work: Work,
    figures: Figures,
    model: ModelDescription,
    *,
    model_version: str,
    shadow_version: str | None,
    seconds: float,
    exports: Exports,
) -> ScoringSummary:
    """Return what a run made.

    Args:
        run: what was asked for.
        work: what was done.
        figures: what was counted.
        model: the model.
        model_version: its version.
        shadow_version: version of the model beside it.
        seconds: how long the shards took.
        exports: what was exported.
    """
    counts, files = figures.counts, work.inbox.files
    failures = work.reasons()
    unusable = {name: reason for name, reason in work.known_unusable.items() if name not in failures}
    nothing = work.inbox.nothing
    if not (failures or unusable or figures.removed):
        nothing = nothing or _no_rows(run, work, counts)
    own = total(receipt for receipt in work.receipts.values() if receipt.outcome == "scored")
    distances = drift(model.reference, counts.histograms)
    too_few = unjudged(model.reference, counts.histograms, run.drift)
    return ScoringSummary(
        table=work.table.url,
        scores=figures.paths,
        nothing=nothing,
        passed_over=work.inbox.passed_over,
        reused=bool(files) and not work.new,
        model_version=model_version,
        shadow_version=shadow_version,
        files=len(files),
        new_files=len(work.new & set(files)),
        shards=work.shards + len(work.unreadable),
        failures=failures,
        unusable=unusable,
        removed=figures.removed,
        rows_in=counts.rows_in,
        scored=counts.scored,
        quarantined=counts.quarantined,
        reasons=counts.reasons,
        shares={name: counts.labels.get(name, 0) / max(1, counts.scored) for name in model.classes.names},
        uncertain_share=counts.uncertain / max(1, counts.scored),
        disagreement_share=counts.disagreements / max(1, counts.scored) if shadow_version else None,
        unknown_share=counts.unknown / max(1, counts.tokens),
        mean_tokens=counts.tokens / max(1, counts.scored),
        unlearned=counts.unlearned(model.scripts),
        drift=distances,
        drifted=[] if too_few else _drifted(run, distances),
        drift_unjudged=too_few,
        seconds=seconds,
        reviews_per_second=own.scored / seconds if seconds else 0.0,
        csv=exports.csv,
        to_label=exports.to_label,
        unexported=exports.faults,
    )


def _no_rows(run: ScoringRun, work: Work, counts: Counts) -> str | None:
    """Return why files had nothing to score, or None where they had, or where the run names the file that has not.

    Who puts empty files into an inbox has nothing to mend there; who names one file expects rows of it.
    """
    if counts.rows_in or work.inbox.is_one_file(str(run.files.path)):
        return None
    return f"every {'new ' if work.new else ''}file in {run.files.path} is empty or has only a header"


def _drifted(run: ScoringRun, distances: dict[str, Drift]) -> list[str]:
    return [name for name, far in distances.items() if far.psi > run.drift.max_psi or far.ks > run.drift.max_ks]
