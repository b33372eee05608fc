"""How the tracking server, the UI and the log are told what a scoring run made."""

from sentiment_model.classes import BINARY, Classes, class_keys
from sentiment_model.config import ScoringRun
from sentiment_model.markdown import markdown_cell
from sentiment_model.scoring.summary import ScoringSummary

_FAILURES_SHOWN = 100
_SHARES_SHOWN = 5


def drift_message(summary: ScoringSummary) -> str:
    """Return what says how far the drifted quantities are from those of the validation reviews."""
    figures = ", ".join(
        f"{name} (PSI {summary.drift[name].psi:.2f}, KS {summary.drift[name].ks:.2f})" for name in summary.drifted
    )
    return f"the reviews differ from those that the model was validated on: {figures}"


def unlearned_message(summary: ScoringSummary) -> str:
    """Return what says that most of the reviews are in scripts that the model has not learned."""
    return (
        f"{sum(summary.unlearned.values()):.1%} of the reviews are in scripts that the model has not learned "
        f"({', '.join(summary.unlearned)}): their labels mean little; train a model on such reviews"
    )


def unusable_message(summary: ScoringSummary) -> str:
    """Return what says which files an earlier run found to be broken."""
    (name, reason), *others = summary.unusable.items()
    more = f" (and {len(others)} more)" if others else ""
    return f"an earlier run found {len(summary.unusable):,} to be broken: {name}: {reason}{more}"


def removed_message(summary: ScoringSummary) -> str:
    """Return what says that rows were labelled and are gone, and what to do about it."""
    return (
        f"{summary.removed:,} rows that an earlier run labelled have been removed from the table since; to label them "
        "again, name a re-scoring with rescore"
    )


def unexported_message(summary: ScoringSummary) -> str:
    """Return what says which files were asked for and are not written, and why."""
    faults = "; ".join(f"no {what}: {reason}" for what, reason in summary.unexported.items())
    return f"{faults}; the scores are published; run again to export them"


def shares_message(summary: ScoringSummary) -> str:
    """Return what says how many of the rows are of which class: of two, of the second; of many, of the largest."""
    shares = list(summary.shares.items())
    if len(shares) == 2:
        del shares[0]
    largest = sorted(shares, key=lambda item: -item[1])[:_SHARES_SHOWN]
    said = [f"{100 * share:.1f} % {name}" for name, share in shares if (name, share) in largest]
    if left := len(shares) - len(largest):
        rest = sum(share for _, share in shares) - sum(share for _, share in largest)
        said.append(f"{100 * rest:.1f} % of {left} other classes")
    return ", ".join(said)


def scoring_metrics(summary: ScoringSummary) -> dict[str, float]:
    """Return the figures of a run for a tracking server, by name."""
    names = ("rows_in", "scored", "quarantined", "uncertain_share", "unknown_share", "mean_tokens")
    figures = {name: float(getattr(summary, name)) for name in (*names, "reviews_per_second")}
    figures["failed_shards"] = float(len(summary.failures))
    if tuple(summary.shares) == BINARY.names:
        figures["positive_share"] = summary.shares[BINARY.names[1]]
    else:
        keys = class_keys(Classes(names=tuple(summary.shares)))
        figures |= {f"share_{key}": share for key, share in zip(keys, summary.shares.values(), strict=True)}
    if summary.disagreement_share is not None:
        figures["disagreement_share"] = summary.disagreement_share
    return figures | {
        f"{measure}_{name}": getattr(far, measure) for name, far in summary.drift.items() for measure in ("psi", "ks")
    }


def scoring_markdown(run: ScoringRun, summary: ScoringSummary, model: str, tracked: str | None) -> str:
    """Return what the UI shows of a run.

    Args:
        run: what was asked for.
        summary: what it made.
        model: Markdown that names the model's version.
        tracked: Markdown that names the run in the tracking server, if there is one.
    """
    rows: dict[str, str] = {
        "Files, new of all": f"{summary.new_files:,} of {summary.files:,}",
        "Rows read": f"{summary.rows_in:,}",
        "Rows labelled": f"{summary.scored:,}",
        "Rows in quarantine": f"{summary.quarantined:,}",
        **{f"  for {reason}": f"{count:,}" for reason, count in summary.reasons.items()},
        **_shares(summary),
        "Uncertain": f"{summary.uncertain_share:.1%}",
        "Tokens unknown to the model": f"{summary.unknown_share:.1%}",
        "Tokens a review": f"{summary.mean_tokens:,.0f}",
        **{f"Drift of {name}": f"PSI {far.psi:.3f}, KS {far.ks:.3f}" for name, far in summary.drift.items()},
        "Time": f"{summary.seconds:,.1f} s",
        "Reviews a second": f"{summary.reviews_per_second:,.0f}",
    }
    if summary.disagreement_share is not None:
        rows[f"Labelled otherwise by version {summary.shadow_version}"] = f"{summary.disagreement_share:.1%}"
    table = "\n".join(f"| {markdown_cell(name)} | {markdown_cell(value)} |" for name, value in rows.items())
    heading = "Nothing new; an earlier run labelled these files" if summary.reused else "Labelled"
    warning = f"\n**Drift:** {drift_message(summary)}\n" if summary.drifted else ""
    if summary.drift_unjudged:
        warning = f"\nThere are {summary.drift_unjudged}.\n"
    if summary.nothing:
        heading, warning = "Nothing to score", f"\n{markdown_cell(summary.nothing)}\n"
    if summary.unlearned:
        warning += f"\n**Scripts:** {unlearned_message(summary)}\n"
    if summary.passed_over:
        warning += f"\n{markdown_cell(summary.passed_over)}.\n"
    if summary.removed:
        warning += f"\n**Removed:** {markdown_cell(removed_message(summary))}\n"
    if summary.unexported:
        warning += f"\n**Not exported:** {markdown_cell(unexported_message(summary))}\n"
    if summary.failures:
        failed = f"{len(summary.failures):,} of {summary.shards:,} shards or files failed"
        heading = f"{failed}; what the others labelled is published"
    places = [
        f"In {markdown_cell(f'{summary.table}/scores/version={summary.model_version}/')}",
        summary.csv and markdown_cell(summary.csv),
        summary.to_label and markdown_cell(summary.to_label),
        tracked,
    ]
    return (
        f"# {heading}\n\n{markdown_cell(str(run.files.path))} with {markdown_cell(run.model_uri)}, {model}\n{warning}\n"
        f"| | |\n| --- | ---: |\n{table}\n\n"
        + _failed("What failed, and is left to the next run", summary.failures)
        + _failed("Left out, since an earlier run found it to be broken", summary.unusable)
        + "\n\n".join(place for place in places if place)
        + "\n"
    )


def _shares(summary: ScoringSummary) -> dict[str, str]:
    """Return the rows of the table that say how many reviews are of which class."""
    if tuple(summary.shares) == BINARY.names:
        return {"Positive": f"{summary.shares[BINARY.names[1]]:.1%}"}
    return {f"Labelled {name}": f"{share:.1%}" for name, share in summary.shares.items()}


def _failed(heading: str, failures: dict[str, str]) -> str:
    """Return a section that tells what failed and why, or nothing where nothing did."""
    if not failures:
        return ""
    shown = list(failures.items())[:_FAILURES_SHOWN]
    lines = [f"- {markdown_cell(name)}: {markdown_cell(reason)}" for name, reason in shown]
    if more := len(failures) - len(shown):
        lines.append(f"- and {more:,} more")
    return "\n".join([f"## {heading}", "", *lines, "", ""])
