"""What was counted in shards, and what their counts come to."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from sentiment_model.classes import BINARY
from sentiment_model.config import ReviewFiles
from sentiment_model.errors import QualityError, SourceError
from sentiment_model.models.drift import Histograms, add
from sentiment_model.scoring.table import Receipt

_NUMBERS = ("rows_in", "scored", "uncertain", "disagreements", "tokens", "unknown")


class Counts(BaseModel):
    """What was counted in one shard or several.

    Attributes:
        rows_in: rows read.
        scored: rows labelled.
        labels: of these, those of each class, by its name.
        uncertain: of the labelled ones, uncertain.
        disagreements: of the labelled ones, labelled otherwise by the shadow model.
        tokens: tokens of the labelled rows.
        unknown: of these, unknown to the model.
        reasons: quarantined rows by reason.
        examples: the first of each reason.
        scripts: labelled rows by main script; rows without a letter are not counted, nor were any by older versions.
        histograms: distributions of the labelled rows, see :mod:`sentiment_model.models.drift`.
    """

    rows_in: int = 0
    scored: int = 0
    labels: dict[str, int] = {}
    uncertain: int = 0
    disagreements: int = 0
    tokens: int = 0
    unknown: int = 0
    reasons: dict[str, int] = {}
    examples: dict[str, str] = {}
    scripts: dict[str, int] = {}
    histograms: dict[str, tuple[int, ...]] = {}

    @property
    def quarantined(self) -> int:
        """Rows that could not be labelled."""
        return sum(self.reasons.values())

    def __add__(self, other: "Counts") -> "Counts":
        return _sum(counts.model_dump() for counts in (self, other))

    def unlearned(self, scripts: Collection[str]) -> dict[str, float]:
        """Return the shares of the rows that are in other scripts than these, most first; nothing unless most rows are.

        Args:
            scripts: those that a model has learned; none where that is not known, of which nothing can be said.
        """
        rows = sum(self.scripts.values())
        most_first = sorted(self.scripts.items(), key=lambda item: -item[1])
        shares = {script: found / rows for script, found in most_first if script not in scripts}
        return shares if scripts and sum(shares.values()) > 0.5 else {}

    def check_complete(self) -> None:
        """Raise where rows were lost."""
        if self.rows_in != self.scored + self.quarantined:
            raise RuntimeError(
                f"{self.rows_in} rows came in, but {self.scored} were scored and {self.quarantined} quarantined; "
                "this is a defect of the program"
            )

    def check_quality(self, files: ReviewFiles) -> None:
        """Raise where there was nothing to score, or too much that cannot be.

        Raises:
            SourceError: there is no row at all.
            QualityError: more than `max_bad_share` of the rows could not be scored.
        """
        if not self.rows_in:
            raise SourceError(f"there are no reviews in {files.path}; every file is empty or has only a header")
        share = self.quarantined / self.rows_in
        if share > files.max_bad_share or not self.scored:
            reasons = "; ".join(
                f"{reason} {count:,} (first: {self.examples[reason]})"
                for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1])
            )
            raise QualityError(
                f"{self.quarantined:,} of {self.rows_in:,} rows of {files.path} cannot be scored ({share:.1%}, "
                f"where max_bad_share is {files.max_bad_share:.1%}): {reasons}; the others are scored; repair the "
                "rows, correct the column mapping, or raise max_bad_share"
            )


def total(receipts: Iterable[Receipt]) -> Counts:
    """Return the counts of several shards.

    Raises:
        StoreError: another version of the project counted some of them, see :func:`sentiment_model.models.drift.add`.
    """
    return _sum(receipt.counts for receipt in receipts)


def _sum(parts: Iterable[Mapping[str, Any]]) -> Counts:
    """Add up what models of counts say; of many receipts, no model is made of each."""
    numbers: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    sums: Histograms = {}
    for counts in parts:
        numbers.update({name: counts.get(name, 0) for name in _NUMBERS})
        labels.update(counts["labels"] if "labels" in counts else _older_labels(counts))
        reasons.update(counts.get("reasons", {}))
        scripts.update(counts.get("scripts", {}))
        examples = {**counts.get("examples", {}), **examples}
        sums = add(sums, counts.get("histograms", {}))
    return Counts(**numbers, labels=labels, reasons=reasons, examples=examples, scripts=scripts, histograms=sums)


def _older_labels(counts: Mapping[str, Any]) -> dict[str, int]:
    """Return the labels of a receipt from when there were two classes, of which one was counted."""
    if "positives" not in counts:
        return {}
    positives = counts["positives"]
    return dict(zip(BINARY.names, (counts["scored"] - positives, positives), strict=True))
