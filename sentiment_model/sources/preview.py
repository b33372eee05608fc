"""How files are read, by their first rows: what a wrong column, a wrong scale or a wrong delimiter shows in."""

from collections import Counter
from collections.abc import Iterator, Mapping

import polars as pl

from sentiment_model.config import IngestConfig, ReviewFiles
from sentiment_model.errors import SentimentError
from sentiment_model.markdown import markdown_cell
from sentiment_model.sources.columns import mapping_of
from sentiment_model.sources.files import SourceFile, read_batches, usable_text, written_as
from sentiment_model.sources.listing import list_files
from sentiment_model.sources.tally import Tally
from sentiment_model.sources.unify import Unified, to_reviews
from sentiment_model.text.reviews import Batch

_ROWS = 1000
_FILES_SHOWN = 10
_COLUMNS_SHOWN = 40
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 60
_VALUES_SHOWN = 12
_MUCH_LONGER = 3


def preview(config: ReviewFiles) -> str:
    """Return as Markdown how the files are read that a configuration names, by the first rows of each.

    Raises:
        SourceError: there is no such path, or no review file.
    """
    listing = list_files(config)
    files = listing.files[:_FILES_SHOWN]
    parts = [line for file in files for line in _section(file, config)]
    if len(listing.files) > len(files):
        parts.append(f"And {len(listing.files) - len(files):,} more files.")
    if message := listing.message():
        parts.append(f"{markdown_cell(message)}.")
    return "\n\n".join(parts) + "\n"


def _section(file: SourceFile, config: ReviewFiles) -> Iterator[str]:
    yield f"## {markdown_cell(file.name)}"
    try:
        written = written_as(file, config)
        batch = next(read_batches(file, config, _ROWS, guess_types=True), None)
        if batch is None:
            yield f"{markdown_cell(written)}; no rows."
            return
        rows = len(batch.origin) + len(batch.rejects)
        yield f"{markdown_cell(written)}; rows read here: {rows:,}"
        yield _columns(batch, config)
        usable, texts = usable_text(batch, config)
        yield from _of_texts(batch, texts, config)
        if isinstance(config, IngestConfig):
            unified = to_reviews(batch, config)
            yield _labels(unified, config)
            yield from _quarantine(unified.rejects)
            tally = Tally(config)
            tally.add(batch, unified)
            tally.check()
        else:
            yield from _quarantine(usable.rejects)
            if len(usable.rejects) > config.max_bad_share * rows:
                yield (
                    f"**This fails a run:** {len(usable.rejects):,} of {rows:,} rows cannot be scored, where "
                    f"max_bad_share is {config.max_bad_share:.1%}"
                )
    except SentimentError as error:
        yield f"**This stops a run:** {markdown_cell(str(error))}"


def _columns(batch: Batch, config: ReviewFiles) -> str:
    used = {name: use for use, name in mapping_of(config).columns.model_dump().items() if name is not None}
    lines = ["| column | read as | examples |", "| --- | --- | --- |"]
    for name in batch.frame.columns[:_COLUMNS_SHOWN]:
        examples = [_example(value) for value in batch.frame[name].drop_nulls().head(_EXAMPLES).to_list()]
        use = ", ".join(use for other, use in used.items() if name in (other, other.partition(".")[0]))
        lines.append(f"| {markdown_cell(name)} | {use and f'**{use}**'} | {markdown_cell(' / '.join(examples))} |")
    if more := len(batch.frame.columns) - _COLUMNS_SHOWN:
        lines += [f"| and {more:,} more | | |"] if more > 0 else []
    return "\n".join(lines)


def _example(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _EXAMPLE_CHARACTERS else f"{text[:_EXAMPLE_CHARACTERS]}..."


def _of_texts(batch: Batch, texts: pl.Series, config: ReviewFiles) -> Iterator[str]:
    if texts.is_empty():
        yield "No usable text."
        return
    typical, longest = _typical_length(texts), texts.str.len_chars().cast(pl.Int64()).sort()[-1]
    yield f"Usable texts: {len(texts):,}; half of them are longer than {typical:,.0f} characters, one has {longest:,}."
    others = {name: _typical_length(batch.frame[name]) for name in batch.frame.columns if _is_text(batch, name, config)}
    other = max(others, key=lambda name: others[name], default="")
    if other and others[other] >= _MUCH_LONGER * typical:
        yield f"**Is the column right?** {markdown_cell(other)} holds longer texts, half of over {others[other]:,.0f}."


def _is_text(batch: Batch, name: str, config: ReviewFiles) -> bool:
    is_other = name != mapping_of(config).columns.text and batch.frame.schema[name] == pl.String()
    return is_other and bool(batch.frame[name].str.contains(r"\S\s+\S").any())


def _typical_length(texts: pl.Series) -> float:
    return float(texts.str.len_chars().median() or 0)  # type: ignore[arg-type]  # of numbers it is one


def _labels(unified: Unified, config: IngestConfig) -> str:
    reviews, left_out = unified.reviews, unified.left_out
    counts = Counter("unlabelled" if place is None else config.classes[place] for place in reviews["label"])
    said = [f"{name} {counts[name]:,}" for name in (*config.classes, "unlabelled") if counts[name]]
    ratings = reviews["rating"].drop_nulls().value_counts().sort("rating")
    line = f"Labels: {', '.join(said) or 'none'}{f'; left out {left_out:,}' if left_out else ''}."
    if len(ratings):
        shown = ", ".join(f"{rating:g} ({count:,})" for rating, count in ratings.head(_VALUES_SHOWN).iter_rows())
        line += f" Ratings: {shown}{', ...' if len(ratings) > _VALUES_SHOWN else ''}."
    return markdown_cell(line)


def _quarantine(rejects: pl.DataFrame) -> Iterator[str]:
    counts: Mapping[str, int] = dict(rejects["reason"].value_counts(sort=True).iter_rows())
    for row, reason, detail, raw in (
        rejects.unique("reason", keep="first", maintain_order=True).select("row", "reason", "detail", "raw").iter_rows()
    ):
        found = f"{reason} {counts[reason]:,}, first in row {row}: {detail}: {_example(raw)}"
        yield f"**Quarantine:** {markdown_cell(found)}"
