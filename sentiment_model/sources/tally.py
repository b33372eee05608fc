"""What became of the rows of a source, and the rules that this must keep."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Collection
from typing import Any

from sentiment_model.classes import BINARY, example_ranges, fold
from sentiment_model.config import IngestConfig
from sentiment_model.errors import QualityError, SourceError
from sentiment_model.sources.columns import has_column, labels_of, mapping_of
from sentiment_model.sources.unify import Seen, Unified
from sentiment_model.text.reviews import Batch

_UNLABELLED = "unlabelled"
_STRAY_SHARE = 0.001  # of ratings on another scale that may be slips, where nobody named the scale
_SLIPS_SHARE = 0.05  # that are still worth the question whether they are slips
_SHOWN = 10  # unknown labels
_NAMED = 3  # of them in an example
_NEUTRAL = {"neutral", "neu", "mixed"}


def named_columns(config: IngestConfig) -> list[str]:
    """Return the columns that the configuration or its preset names."""
    return [name for name in mapping_of(config).columns.model_dump().values() if name is not None]


class Tally:
    """Counts what goes where, and the rules that the counts must keep."""

    def __init__(self, config: IngestConfig) -> None:
        self._config = config
        self._rows_in = 0
        self._rows = 0
        self._left_out = 0
        self._labels: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._grouped = 0
        self._group = mapping_of(config).group
        wanted = named_columns(config)
        columns = mapping_of(config).columns
        if config.preset:  # of which there are dumps with and without the others
            wanted = [name for name in (columns.text, columns.label, columns.rating) if name is not None]
        self._absent = dict.fromkeys(wanted)
        self._written_at = columns.written_at
        self._seen = Seen()
        self._columns: dict[str, None] = {}

    def add(self, batch: Batch, unified: Unified) -> None:
        """Count a batch and what became of it."""
        reviews, rejects = unified.reviews, unified.rejects
        self._seen.add(unified.seen)
        self._rows_in += len(batch.origin) + len(batch.rejects)
        self._rows += len(reviews)
        self._left_out += unified.left_out
        self._grouped += reviews["group"].count()
        labels = reviews["label"].value_counts()
        self._labels.update(
            {_UNLABELLED if number is None else self._config.classes[number]: n for number, n in labels.iter_rows()}
        )
        self._sources.update(dict(reviews["source"].value_counts().iter_rows()))
        self._reasons.update(dict(rejects["reason"].value_counts().iter_rows()))
        for file, row, reason, detail, _ in rejects.unique("reason", keep="first").iter_rows():
            self._examples.setdefault(reason, f"{file} row {row}: {detail}")
        self._columns.update(dict.fromkeys(batch.columns))
        for name in [name for name in self._absent if has_column(batch, name)]:
            del self._absent[name]

    @property
    def _quarantined(self) -> int:
        return sum(self._reasons.values())

    def check(self) -> None:
        """Raise where rows were lost, or where what is left cannot be trusted.

        Raises:
            SourceError: there are no rows, or no file has a column that was named.
            QualityError: too many rows are unusable, ratings are of another scale, or no date can be read.
        """
        config = self._config
        if self._rows_in != self._rows + self._quarantined + self._left_out:
            raise RuntimeError(
                f"{self._rows_in} rows came in, but {self._rows} went out, {self._quarantined} to quarantine "
                f"and {self._left_out} were left out; this is a defect of the program"
            )
        where = config.path or config.source
        if not self._rows_in:
            raise SourceError(f"there are no reviews in {where}; every file is empty or has only a header")
        self._check_scale(where)
        share = self._quarantined / self._rows_in
        if share > config.max_bad_share or not self._rows:
            raise QualityError(
                f"{self._quarantined:,} of {self._rows_in:,} rows of {where} are unusable, {share:.1%} "
                f"(max_bad_share: {config.max_bad_share:.1%}), and {self._left_out:,} "
                f"{'was' if self._left_out == 1 else 'were'} left out; repair them, "
                f"correct column mapping and label values, or raise max_bad_share\n{self._table()}{self._advice()}"
            )
        if self._absent:
            raise SourceError(
                f"no file of {where} has the column {next(iter(self._absent))!r}; there are {', '.join(self._columns)}"
            )
        if config.source == "files" and not config.preset and self._group and not self._grouped:
            raise SourceError(f"no review of {where} has a group in the column {self._group!r}; name another or none")
        seen = self._seen
        if config.source == "files" and not config.preset and seen.dates and seen.unread_dates == seen.dates:
            raise QualityError(
                f"no date of {where} in the column {self._written_at!r} can be read, the first is "
                f"{seen.unread_date!r}; write them as 2015-09-04, or name another column or none with "
                "--ingest.columns.written-at"
            )

    def _check_scale(self, where: str) -> None:
        """Raise where nobody named the ratings of the classes, and what was found is hardly on the usual scale.

        A few of many ratings may be slips of the pen, and are in quarantine. Where some have 0 or -1, which is no
        rating on a scale from 1 to 5, others have to reach its end, or it is a scale from 0 to 4, or from -1 to 1.
        """
        seen, ranges = self._seen, self._config.ranges()
        if self._config.ratings is not None or ranges is None or not seen.rated:
            return
        if seen.outside > _STRAY_SHARE * seen.rated or (seen.unrated and seen.high < ranges[-1].high):
            raise QualityError(f"{where}: {self._scale()}")

    def _scale(self) -> str:
        """Return on which scale the ratings are, and what to do."""
        seen, ranges = self._seen, self._config.ranges() or ()
        said = []
        low, high = seen.low, seen.high
        if seen.scales:
            said.append("ratings are out of " + ", ".join(f"{scale:g}" for scale in sorted(seen.scales)))
            low, high = min(low, 1.0), max(high, *seen.scales)
        if math.isfinite(seen.low):
            said.append(f"ratings lie from {seen.low:g} to {seen.high:g}")
        off = seen.outside + seen.unrated
        said.append(f"{off:,} of {seen.rated:,} are not from {ranges[0].low:g} to {ranges[-1].high:g}")
        example = example_ranges(low, high, len(self._config.classes))
        advice = "name the ratings of each class" + (f", for example {_option('ratings', *example)}" if example else "")
        if seen.unrated:
            advice += f"; or, where {seen.low:g} stands for no rating, {_option('missing_values', f'{seen.low:g}')}"
        elif self._config.ratings is None and off <= _SLIPS_SHARE * seen.rated:
            usual = (f"{low:g}" if low == high else f"{low:g}-{high:g}" for low, high in ranges)
            advice += f"; or, where these are slips, {_option('ratings', *usual)}, which quarantines them"
        return f"{', '.join(said)}; {advice}"

    def _advice(self) -> str:
        """Return what is to be said of labels and ratings that mean nothing, in lines of their own."""
        lines = []
        if self._seen.outside:
            lines.append(self._scale())
        meant = labels_of(self._config)
        if unknown := self._seen.labels.keys() - meant.classes.keys() - meant.dropped:
            lines.append(self._unknown_labels(unknown))
        return "".join(f"\n{line}" for line in lines)

    def _unknown_labels(self, unknown: Collection[str]) -> str:
        """Return the labels that mean nothing, and the options that give them a meaning."""
        counts, classes = self._seen.labels, self._config.classes
        most = sorted(unknown, key=lambda label: (-counts[label], label))
        shown = ", ".join(f"{label} ({counts[label]:,})" for label in most[:_SHOWN])
        more = f" and {len(most) - _SHOWN:,} more" if len(most) > _SHOWN else ""
        neutral = next((label for label in most if label in _NEUTRAL), None)
        options = [f"{_option('dropped_labels', *most[:_NAMED])} leaves such reviews out"]
        if neutral and tuple(map(fold, classes)) == BINARY.names:
            options.append(f"{_option('classes', classes[0], neutral, classes[1])} makes it a class")
        numbers = sorted(filter(_is_number, counts), key=float)
        lowest, highest = (numbers[0], numbers[-1]) if _is_number(most[0]) else (most[0], "...")
        options.append(
            f"{_option('labels', f'{classes[0]}={lowest}', f'{classes[-1]}={highest}')} says which class they mean"
        )
        options.append(
            f"{_option('missing_values', *(['-1'] if '-1' in unknown else most[:1]))} that there is no label"
        )
        if len(most) > 1 and all(map(_is_number, most)):
            options.append("--ingest.columns.rating names a column of ratings")
        return f"labels that mean none of {', '.join(classes)}: {shown}{more}; {'; '.join(options)}"

    def _table(self) -> str:
        width = max((len(reason) for reason in self._reasons), default=0)
        return "\n".join(
            f"  {reason:<{width}}  {count:>9,}  first: {self._examples[reason]}"
            for reason, count in self._reasons.most_common()
        )

    def counts(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "rows_in": self._rows_in,
            "rows": self._rows,
            "quarantined": self._quarantined,
            "left_out": self._left_out,
            "with_group": self._grouped,
            "unrated": self._seen.unrated,
            "unread_dates": self._seen.unread_dates,
            "unread_date": self._seen.unread_date,
            "labels": {name: self._labels[name] for name in (*self._config.classes, _UNLABELLED)},
            "sources": dict(sorted(self._sources.items())),
            "reasons": dict(self._reasons.most_common()),
        }


def _option(name: str, *values: str) -> str:
    """Return an option of the command line, as a shell takes it."""
    value = json.dumps(values, ensure_ascii=False) if any("," in value for value in values) else ",".join(values)
    between = "=" if value.startswith("-") else " "
    return f"--ingest.{name.replace('_', '-')}{between}{shlex.quote(value)}"


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False
