"""Tables as CSV (for machines), Markdown (aligned) and LaTeX (booktabs), from one description."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from realnet.reporting.collect import MEAN, METRICS, Results, Stat

TITLES = {"image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC", "pro": "PRO"}
MISSING, UNDEFINED = "–", "n/a"


@dataclass(frozen=True)
class Column:
    """``text`` holds a string, ``percent`` a Stat, ``delta`` a fraction or None, ``published`` a
    percentage as its source prints it, or None.
    """

    key: str  # CSV header
    title: str  # header for people
    kind: Literal["text", "percent", "delta", "published"]


@dataclass(frozen=True)
class Table:
    """Rows in groups: a rule is drawn between groups; rows whose category is the mean stand out."""

    title: str
    columns: Sequence[Column]
    groups: Sequence[Sequence[Sequence[Any]]]
    notes: Sequence[str]
    digits: int


# --- the tables ----------------------------------------------------------------------------------


def main_table(results: Results, paper: dict[str, dict[str, Any]]) -> Table:
    """The reference variant, category by category, beside the paper's numbers."""
    variant = results.matrix.variants[0]
    columns = [
        Column("dataset", "Data set", "text"),
        Column("category", "Category", "text"),
        *(Column(m, TITLES[m], "percent") for m in METRICS),
        *(Column(f"paper_{m}", f"Paper: {TITLES[m]}", "published") for m in METRICS),
        *(Column(f"delta_{m}", f"Δ {TITLES[m]}", "delta") for m in METRICS),
    ]
    groups = []
    for dataset in results.matrix.datasets:
        rows = []
        for category in results.rows(dataset):
            stats = [results.stat(dataset, variant, category, m) for m in METRICS]
            published = [_published(paper, dataset, category, m) for m in METRICS]
            deltas = [
                _difference(s.value, None if p is None else p / 100)
                for s, p in zip(stats, published, strict=True)
            ]
            rows.append([dataset, category, *stats, *published, *deltas])
        groups.append(rows)
    notes = [f"Variant {variant}, last checkpoint, percent. {_seeds(results)}"]
    shown = [d for d in results.matrix.datasets if d in paper]
    if shown:
        notes.append(
            "Paper: mean over categories of the checkpoint that was best on the test set; its PRO"
            " is not AU-PRO (thresholds linear in the score). Δ: ours minus paper, points."
        )
        notes += [f"{paper[d]['title']}: {paper[d]['source']}." for d in shown]
    return Table(f"RealNet ({variant})", columns, groups, notes, results.matrix.digits)


def per_category_table(results: Results) -> Table:
    """Every variant, category by category."""
    columns = [
        Column("dataset", "Data set", "text"),
        Column("variant", "Variant", "text"),
        Column("category", "Category", "text"),
        *(Column(m, TITLES[m], "percent") for m in METRICS),
    ]
    groups = [
        [
            [dataset, variant, category]
            + [results.stat(dataset, variant, category, m) for m in METRICS]
            for category in results.rows(dataset)
        ]
        for dataset in results.matrix.datasets
        for variant in results.matrix.variants
    ]
    notes = [f"Last checkpoint, percent. {_seeds(results)}"]
    return Table("Variants by category", columns, groups, notes, results.matrix.digits)


def ablation_table(results: Results) -> Table:
    """One row per variant: mean over categories, and the difference to the reference variant."""
    reference = results.matrix.variants[0]
    columns = [
        Column("dataset", "Data set", "text"),
        Column("variant", "Variant", "text"),
        *(Column(m, TITLES[m], "percent") for m in METRICS),
        *(Column(f"delta_{m}", f"Δ {TITLES[m]}", "delta") for m in METRICS),
    ]
    groups = []
    for dataset in results.matrix.datasets:
        base = [results.stat(dataset, reference, MEAN, m) for m in METRICS]
        rows = []
        for variant in results.matrix.variants:
            stats = [results.stat(dataset, variant, MEAN, m) for m in METRICS]
            deltas = [
                None if variant == reference else _difference(s.value, b.value)
                for s, b in zip(stats, base, strict=True)
            ]
            rows.append([dataset, variant, *stats, *deltas])
        groups.append(rows)
    notes = [
        f"Mean over categories, last checkpoint, percent. {_seeds(results)}"
        f" Δ: difference to {reference} before rounding, points."
    ]
    return Table("Variants", columns, groups, notes, results.matrix.digits)


def cells_csv(results: Results) -> str:
    """Every evaluation: the fractions of its metrics file, unrounded; empty where undefined."""
    extra = sorted(
        {
            key
            for cell in results.cells.values()
            for key, value in cell.items()
            if isinstance(value, float) and key not in METRICS and 0 <= value <= 1
        }
    )
    fields = ["dataset", "variant", "category", "seed", *METRICS, *extra]
    rows = [
        [c.dataset, c.variant, c.category, c.seed]
        + ["" if values.get(k) is None else values[k] for k in (*METRICS, *extra)]
        for c, values in results.cells.items()
    ]
    return _csv([fields, *rows])


def _published(paper: dict, dataset: str, category: str, metric: str) -> float | None:
    entry = paper.get(dataset, {})
    if category != MEAN:
        entry = entry.get("categories", {}).get(category, {})
    return entry.get(metric)


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _seeds(results: Results) -> str:
    seeds = results.matrix.seeds
    if len(seeds) == 1:
        return f"One seed ({seeds[0]})."
    return f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})."


# --- formats -------------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """Percent, rounded; each percent column has its ``_std``, empty where there is one seed."""
    header: list[str] = []
    for column in table.columns:
        header.append(column.key)
        if column.kind == "percent":
            header.append(f"{column.key}_std")
    rows = []
    for row in (row for group in table.groups for row in group):
        fields: list[str] = []
        for column, value in zip(table.columns, row, strict=True):
            if column.kind == "text":
                fields.append(value)
            elif column.kind == "percent":
                fields += [_percent(value.value, table.digits, "", "")]
                fields += [_percent(value.std, table.digits, "", "")]
            else:
                fields.append(_text(column, value, table.digits).removeprefix("+"))
        rows.append(fields)
    return _csv([header, *rows])


def to_markdown(table: Table) -> str:
    """A pipe table, padded so that it also reads well as plain text."""
    table = _shown(table)
    body = [
        [_text(c, v, table.digits) for c, v in zip(table.columns, row, strict=True)]
        for group in table.groups
        for row in group
    ]
    body = [[field and f"**{field}**" for field in row] if MEAN in row else row for row in body]
    header = [column.title for column in table.columns]
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
    lines += [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule"]
    lines += [" & ".join(_escape(column.title) for column in table.columns) + " \\\\"]
    for group in table.groups:
        lines.append("\\midrule")
        for row in group:
            fields = [
                _escape(_text(c, v, table.digits)) for c, v in zip(table.columns, row, strict=True)
            ]
            if MEAN in row:
                fields = [f"\\textbf{{{field}}}" if field else "" for field in fields]
            lines.append(" & ".join(fields) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _shown(table: Table) -> Table:
    """Without the columns that are empty everywhere, as the paper's are on other data sets."""
    rows = [row for group in table.groups for row in group]
    keep = [i for i in range(len(table.columns)) if any(row[i] is not None for row in rows)]
    return Table(
        table.title,
        [table.columns[i] for i in keep],
        [[[row[i] for i in keep] for row in group] for group in table.groups],
        table.notes,
        table.digits,
    )


def _text(column: Column, value: Any, digits: int) -> str:
    if column.kind == "text":
        return value
    if column.kind == "percent":
        assert isinstance(value, Stat)
        text = _percent(value.value, digits, MISSING, UNDEFINED)
        return text if value.std is None else f"{text} ± {_percent(value.std, digits, '', '')}"
    if column.kind == "published":
        return "" if value is None else str(value)
    text = _percent(value, digits, "", UNDEFINED)
    return f"+{text}" if column.kind == "delta" and value is not None and value > 0 else text


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
        **{"±": r"$\pm$", "Δ": r"$\Delta$", "–": "--"},
    }
    escaped = "".join(special.get(character, character) for character in text)
    return f"${escaped}$" if escaped[:1] in {"+", "-"} and escaped != "--" else escaped


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows(rows)
    return target.getvalue()


def _spaced(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in (note, "")][:-1]
