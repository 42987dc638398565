"""The verdicts as CSV (every field), Markdown and LaTeX."""

from itertools import groupby

import pandas as pd

from realnet.tables.formats import Column, Table, csv_text, to_latex, to_markdown
from realnet.tables.published import title
from realnet.tables.result_tables import TITLES
from realnet.tables.verdict_rules import IN_KIND, NOT_RUN, rules_sentences
from realnet.tables.verdicts import Verdict

FIELDS = (
    *("kind", "claim", "dataset", "category", "metric", "variants", "paper", "certainty", "ours"),
    *("low", "high", "difference", "p", "verdict", "note"),
)


def verdict_files(found: list[Verdict], digits: int) -> dict[str, str]:
    """Suffix -> text of ``tables/verdicts``."""
    table = verdict_table(found, digits)
    return {".csv": to_csv(found), ".md": to_markdown(table), ".tex": to_latex(table)}


def to_csv(found: list[Verdict]) -> str:
    """Percent and points with six significant digits; empty where there is no value."""

    def text(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        if isinstance(value, tuple):
            return " − ".join(value)
        return "" if value is None else str(value)

    rows = []
    for verdict in found:
        low, high = verdict.interval or (None, None)
        values = vars(verdict) | {"low": low, "high": high}
        rows.append([text(values[field]) for field in FIELDS])
    return csv_text(pd.DataFrame(rows, columns=FIELDS))


def verdict_table(found: list[Verdict], digits: int) -> Table:
    """Verdicts that were run first. Those not run share a line: all metrics of a number, all
    metrics and datasets of a claim."""
    columns = [
        Column("claim", "Number or claim", "text", width=0.3),
        Column("dataset", "Dataset", "text"),
        Column("metric", "Metric", "text"),
        Column("paper", "Paper", "text"),
        Column("ours", "Ours", "text"),
        Column("difference", "Ours − paper", "text"),
        Column("verdict", "Verdict", "text"),
        Column("note", "Note", "text", width=0.3),
    ]
    groups: dict[tuple[str, bool], list[list[object]]] = {}
    for verdict in found:
        if verdict.verdict != NOT_RUN:
            place = (verdict.kind, verdict.verdict in IN_KIND.values())
            groups.setdefault(place, []).append(_row(verdict, [verdict], digits))
    rest = [verdict for verdict in found if verdict.verdict == NOT_RUN]
    same = groupby(rest, key=lambda v: (v.claim, v.kind == "number" and v.dataset, v.note))
    left = [_row(verdicts[0], verdicts, digits) for _, group in same if (verdicts := list(group))]
    return Table(
        "Verdicts",
        columns,
        [*groups.values(), *([left] if left else [])],
        [
            "Numbers in percent; claims as the difference between their two variants, in points."
            " [low, high]: for a number, over the choice of test images; for a claim, over that"
            " and, from two seeds on, the noise of training; for the choice of the checkpoint on"
            " the test set, over seeds.",
            *rules_sentences(),
            "In kind: the claim was tested by the same rule on other data than the paper's, which"
            " is not a verdict on the paper. †: the paper's number is not certain. See"
            " docs/verdicts.md.",
        ],
        digits,
    )


def _row(verdict: Verdict, alike: list[Verdict], digits: int) -> list[object]:
    signed = verdict.kind != "number"
    paper = "" if verdict.paper is None or len(alike) > 1 else f"{verdict.paper:+g}"
    if paper and not signed:
        paper = f"{verdict.paper}"
    dagger = "†" if paper and verdict.certainty != "certain" else ""
    metrics, datasets = (dict.fromkeys(getattr(v, k) for v in alike) for k in ("metric", "dataset"))
    return [
        _claim(verdict),
        ", ".join(map(title, datasets)),
        ", ".join(TITLES[metric] for metric in metrics),
        paper + dagger,
        _number(verdict.ours, digits, signed) + _bounds(verdict, digits),
        _number(verdict.difference, digits, True),
        verdict.verdict,
        verdict.note,
    ]


def _claim(verdict: Verdict) -> str:
    if verdict.kind != "claim":
        return verdict.claim
    return f"{verdict.claim} ({' − '.join(verdict.variants)})"


def _number(value: float | None, digits: int, signed: bool) -> str:
    if value is None:
        return ""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _bounds(verdict: Verdict, digits: int) -> str:
    if verdict.interval is None:
        return ""
    low, high = (_number(end, digits, False) for end in verdict.interval)
    return f" [{low}, {high}]"
