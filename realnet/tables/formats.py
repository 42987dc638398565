"""One description of a table as CSV (for machines), Markdown (aligned) and LaTeX (booktabs).

Markdown and LaTeX are written here and not by pandas, which has neither groups of rows, nor ranks
within a comparison, nor columns that wrap.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

import pandas as pd

from realnet.tables.published import Number
from realnet.tables.runs import MEAN, Stat

MISSING, UNDEFINED, UNCERTAIN = "–", "n/a", "†"


class Name(NamedTuple):
    """A key for CSV files and a title for people: ``mvtec_ad``, MVTec-AD."""

    key: str
    title: str


class Delta(NamedTuple):
    """A difference, as a fraction, with its interval where there is one."""

    value: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Column:
    """``text`` holds a string or a Name, ``percent`` a Stat, ``delta`` a Delta, ``published`` a
    Number of the paper, printed as in its source, ``p`` a p-value and ``number`` a count. Values of
    all kinds but ``text`` may be None: an empty field.

    ``group`` is a heading over several columns; Markdown, which has no such headings, puts it
    before the title of the first column. ``interval``: the CSV has columns for it. ``width`` (of
    text): fraction of the line width in LaTeX, which then wraps the text.
    """

    key: str  # CSV header
    title: str  # header for people
    kind: Literal["text", "percent", "delta", "published", "p", "number"]
    group: str = ""
    interval: bool = False
    width: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows in groups, with a rule between groups; rows of means are bold.

    ``ranked``: keys of text columns. Among rows with the same values in them, the best value
    of each percent column is bold and the second underlined (in Markdown: in italics).
    """

    title: str
    columns: Sequence[Column]
    groups: Sequence[Sequence[Sequence[Any]]]
    notes: Sequence[str]
    digits: int
    ranked: tuple[str, ...] = ()


def to_csv(table: Table) -> str:
    """Percent, rounded. A percent column is followed by ``_std`` (empty with one seed), a column
    with intervals by ``_low`` and ``_high``, a published one by ``_certainty``."""
    header: list[str] = []
    for column in table.columns:
        header.append(column.key)
        header += [f"{column.key}_std"] if column.kind == "percent" else []
        header += [f"{column.key}_{end}" for end in ("low", "high")] if column.interval else []
        header += [f"{column.key}_certainty"] if column.kind == "published" else []
    rows = []
    for row in _rows(table):
        fields: list[str] = []
        for column, value in zip(table.columns, row, strict=True):
            if column.kind == "text":
                fields.append(value.key if isinstance(value, Name) else value)
            elif column.kind == "published":
                fields += [str(value.value), value.certainty] if value else ["", ""]
            elif column.kind in ("percent", "delta"):
                numbers = [value.value if value else None]
                numbers += [value.std if value else None] if column.kind == "percent" else []
                if column.interval:
                    numbers += (value and value.interval) or (None, None)
                fields += [_percent(number, table.digits, "", "") for number in numbers]
            elif column.kind == "p":
                fields.append("" if value is None else f"{value:.4g}")
            else:
                fields.append("" if value is None else str(value))
        rows.append(fields)
    return csv_text(pd.DataFrame(rows, columns=header))


def to_markdown(table: Table) -> str:
    """A pipe table, padded to align as plain text."""
    table = _shown(table)
    body = []
    for row, places in zip(_rows(table), ranks(table), strict=True):
        fields = []
        for column, value, place in zip(table.columns, row, places, strict=True):
            main, tail = _text(column, value, table.digits)
            stars = {1: "**", 2: "*"}.get(place, "")
            marked = f"{stars}{main}{stars}{tail}" if stars else main + tail
            mean = _is_mean(row) and marked and (not table.ranked or column.kind == "text")
            fields.append(f"**{marked}**" if mean else marked)
        body.append(fields)
    header = _headings(table)
    widths = [max(map(len, fields)) for fields in zip(header, *body, strict=True)]
    left = [column.kind == "text" for column in table.columns]

    def line(fields: Sequence[str]) -> str:
        padded = (
            f.ljust(w) if le else f.rjust(w) for f, w, le in zip(fields, widths, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * w if le else "-" * (w - 1) + ":" for w, le in zip(widths, left, strict=True)
    ]  # fmt: skip
    lines = [f"### {table.title}", "", line(header), line(rule), *map(line, body), ""]
    return "\n".join([*lines, *_spaced(table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    """A ``tabular`` to \\input; needs \\usepackage{booktabs}."""
    table = _shown(table)
    alignment = "".join(map(_alignment, table.columns))
    lines = [f"% {table.title}. Needs \\usepackage{{booktabs}}."]
    lines += [f"% {note}" for note in table.notes]
    lines += [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule", *_latex_head(table)]
    placed = iter(ranks(table))
    for group in table.groups:
        lines.append("\\midrule")
        for row in group:
            fields = []
            for column, value, place in zip(table.columns, row, next(placed), strict=True):
                main, tail = map(_escape, _text(column, value, table.digits))
                tail = tail and f" {{\\scriptsize {tail.strip()}}}"
                if place:
                    main = f"\\{'textbf' if place == 1 else 'underline'}{{{main}}}"
                mean = _is_mean(row) and main and (not table.ranked or column.kind == "text")
                fields.append(f"\\textbf{{{main}}}{tail}" if mean else main + tail)
            lines.append(" & ".join(fields) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def csv_text(frame: pd.DataFrame) -> str:
    """The CSV that all tables are written as: a header, no index, an empty field for NaN."""
    return frame.to_csv(index=False, lineterminator="\n")


# --- headings ------------------------------------------------------------------------------------


def _headings(table: Table) -> list[str]:
    """One line of headings: the first column of a group has the group's name too."""
    names, last = [], ""
    for column in table.columns:
        first = column.group and column.group != last
        names.append(f"{column.group}: {column.title}" if first else column.title)
        last = column.group
    return names


def _latex_head(table: Table) -> list[str]:
    """Two lines with rules under the groups or, where no group has two columns, one line."""
    spans = [(g, len(list(columns))) for g, columns in groupby(table.columns, lambda c: c.group)]
    if all(width == 1 for group, width in spans if group):
        return [" & ".join(map(_escape, _headings(table))) + " \\\\"]
    above, rules, start = [], [], 1
    for group, width in spans:
        if group:
            above.append(f"\\multicolumn{{{width}}}{{c}}{{{_escape(group)}}}")
            rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        else:
            above += [""] * width
        start += width
    titles = " & ".join(_escape(column.title) for column in table.columns)
    return [" & ".join(above) + " \\\\", " ".join(rules), f"{titles} \\\\"]


# --- fields --------------------------------------------------------------------------------------


def _rows(table: Table) -> list[Sequence[Any]]:
    return [row for group in table.groups for row in group]


def _is_mean(row: Sequence[Any]) -> bool:
    return any((value.key if isinstance(value, Name) else value) == MEAN for value in row)


def _shown(table: Table) -> Table:
    """Without empty columns, such as the paper's numbers on other datasets."""
    if not _rows(table):
        return table
    keep = [
        i for i in range(len(table.columns)) if any(row[i] is not None for row in _rows(table))
    ]  # fmt: skip
    return replace(
        table,
        columns=[table.columns[i] for i in keep],
        groups=[[[row[i] for i in keep] for row in group] for group in table.groups],
    )


def _text(column: Column, value: Any, digits: int) -> tuple[str, str]:
    """A value, and the interval after it."""
    if value is None:
        return "", ""
    if column.kind == "text":
        return (value.title if isinstance(value, Name) else value), ""
    if column.kind == "published":
        assert isinstance(value, Number)
        return f"{value.value}{'' if value.certain else UNCERTAIN}", ""
    if column.kind in ("number", "p"):
        return (str(value) if column.kind == "number" else p_value(value)), ""
    assert isinstance(value, Stat | Delta)
    tail = ""
    if value.interval:
        low, high = (_percent(end, digits, "", "") for end in value.interval)
        tail = f" [{low}, {high}]"
    if isinstance(value, Stat):
        text = _percent(value.value, digits, MISSING, UNDEFINED)
        deviation = "" if value.std is None else f" ± {_percent(value.std, digits, '', '')}"
        return text + deviation, tail
    text = _percent(value.value, digits, "", UNDEFINED)
    return (f"+{text}" if text[:1].isdigit() and float(text) > 0 else text), tail


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def ranks(table: Table) -> list[list[int]]:
    """For each field 1 if it is the best of its comparison, 2 if the second, else 0.

    Values that are equal as printed share their place. The second is marked only if a third value
    is lower.
    """
    rows = _rows(table)
    found = [[0] * len(table.columns) for _ in rows]
    keys = [i for i, column in enumerate(table.columns) if column.key in table.ranked]
    sets: dict[tuple[Any, ...], list[int]] = {}
    for k, row in enumerate(rows) if keys else ():
        sets.setdefault(tuple(row[i] for i in keys), []).append(k)
    for members in sets.values():
        for i, column in enumerate(table.columns):
            if column.kind != "percent":
                continue
            shown = {}
            for k in members:
                value = rows[k][i] and rows[k][i].value
                if value is not None and not math.isnan(value):
                    shown[k] = float(_percent(value, table.digits, "", ""))
            order = sorted(set(shown.values()), reverse=True)
            for place, best in enumerate(order[: max(0, min(2, len(order) - 1))], start=1):
                for k, value in shown.items():
                    found[k][i] = place if value == best else found[k][i]
    return found


def _alignment(column: Column) -> str:
    if column.width:
        return f"p{{{column.width:g}\\linewidth}}"
    return "l" if column.kind == "text" else "r"


def _percent(value: float | None, digits: int, missing: str, undefined: str) -> str:
    if value is None:
        return missing
    if math.isnan(value):
        return undefined
    text = f"{100 * value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _escape(text: str) -> str:
    special = {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"±": r"$\pm$", "Δ": r"$\Delta$", "–": "--", "−": "$-$", UNCERTAIN: r"$^\dagger$"},
        **{"<": "$<$", "√": r"$\sqrt{}$", "“": "``", "”": "''", "’": "'"},
    }
    escaped = "".join(special.get(character, character) for character in text)
    return re.sub(r"(^|[\[ ])([+-]\d[\d.]*)", r"\1$\2$", escaped)  # a sign, not a hyphen


def _spaced(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in (note, "")][:-1]
