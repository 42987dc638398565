"""One description of a table as CSV (for machines), Markdown (aligned) and LaTeX (booktabs)."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

from realnet.reporting.collect import MEAN, Stat
from realnet.reporting.published import Number

MISSING, UNDEFINED, UNCERTAIN = "–", "n/a", "†"


class Name(NamedTuple):
    """A text that reads otherwise for machines than for people: ``mvtec_ad``, MVTec-AD."""

    key: str
    title: str


@dataclass(frozen=True)
class Column:
    """``text`` holds a string or a Name, ``percent`` a Stat, ``delta`` a fraction, ``published`` a
    Number of the paper, to print as its source does, and ``number`` a count. All but ``text`` may
    be None, where there is nothing to say.

    ``group`` is a heading over several columns; Markdown, which has none, puts it before the title
    of the first of them.
    """

    key: str  # CSV header
    title: str  # header for people
    kind: Literal["text", "percent", "delta", "published", "number"]
    group: str = ""


@dataclass(frozen=True)
class Table:
    """Rows in groups: a rule is drawn between groups; rows that hold a mean stand out."""

    title: str
    columns: Sequence[Column]
    groups: Sequence[Sequence[Sequence[Any]]]
    notes: Sequence[str]
    digits: int


def to_csv(table: Table) -> str:
    """Percent, rounded. Each percent column has its ``_std``, empty where there is one seed, and
    each published one its ``_certainty``."""
    beside = {"percent": "_std", "published": "_certainty"}
    header: list[str] = []
    for column in table.columns:
        header.append(column.key)
        if column.kind in beside:
            header.append(column.key + beside[column.kind])
    rows = []
    for row in _rows(table):
        fields: list[str] = []
        for column, value in zip(table.columns, row, strict=True):
            if column.kind == "text":
                fields.append(value.key if isinstance(value, Name) else value)
            elif column.kind == "percent":
                both = (value.value, value.std) if value else (None, None)
                fields += [_percent(number, table.digits, "", "") for number in both]
            elif column.kind == "published":
                fields += [str(value.value), value.certainty] if value else ["", ""]
            else:
                fields.append(_text(column, value, table.digits).removeprefix("+"))
        rows.append(fields)
    return csv_text([header, *rows])


def to_markdown(table: Table) -> str:
    """A pipe table, padded so that it also reads well as plain text."""
    table = _shown(table)
    body = []
    for row in _rows(table):
        fields = [_text(c, v, table.digits) for c, v in zip(table.columns, row, strict=True)]
        body.append([field and f"**{field}**" for field in fields] if _is_mean(row) else fields)
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
    alignment = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [f"% {table.title}. Needs \\usepackage{{booktabs}}."]
    lines += [f"% {note}" for note in table.notes]
    lines += [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule", *_latex_head(table)]
    for group in table.groups:
        lines.append("\\midrule")
        for row in group:
            fields = [
                _escape(_text(c, v, table.digits)) for c, v in zip(table.columns, row, strict=True)
            ]
            if _is_mean(row):
                fields = [f"\\textbf{{{field}}}" if field else "" for field in fields]
            lines.append(" & ".join(fields) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows(rows)
    return target.getvalue()


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


# --- cells ---------------------------------------------------------------------------------------


def _rows(table: Table) -> list[Sequence[Any]]:
    return [row for group in table.groups for row in group]


def _is_mean(row: Sequence[Any]) -> bool:
    return any((value.key if isinstance(value, Name) else value) == MEAN for value in row)


def _shown(table: Table) -> Table:
    """Without the columns that are empty everywhere, as the paper's are on other data sets."""
    keep = [
        i for i in range(len(table.columns)) if any(row[i] is not None for row in _rows(table))
    ]  # fmt: skip
    return replace(
        table,
        columns=[table.columns[i] for i in keep],
        groups=[[[row[i] for i in keep] for row in group] for group in table.groups],
    )


def _text(column: Column, value: Any, digits: int) -> str:
    if column.kind == "text":
        return value.title if isinstance(value, Name) else value
    if value is None:
        return ""
    if column.kind == "percent":
        assert isinstance(value, Stat)
        text = _percent(value.value, digits, MISSING, UNDEFINED)
        return text if value.std is None else f"{text} ± {_percent(value.std, digits, '', '')}"
    if column.kind == "number":
        return str(value)
    if column.kind == "published":
        assert isinstance(value, Number)
        return f"{value.value}{'' if value.certain else UNCERTAIN}"
    text = _percent(value, digits, "", UNDEFINED)
    return f"+{text}" if text[:1].isdigit() and float(text) > 0 else text


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
    }
    escaped = "".join(special.get(character, character) for character in text)
    return f"${escaped}$" if escaped[:1] in {"+", "-"} and escaped != "--" else escaped


def _spaced(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in (note, "")][:-1]
