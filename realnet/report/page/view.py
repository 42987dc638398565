"""Tables as the page shows them: texts, sort keys, ranks, and the metrics behind a number."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from realnet.report.page.page_data import SHOWN
from realnet.tables.formats import (
    MISSING,
    UNCERTAIN,
    UNDEFINED,
    Column,
    Delta,
    Name,
    Table,
    p_value,
    ranks,
)
from realnet.tables.published import Number, source
from realnet.tables.runs import (
    MEAN,
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    PROTOCOLS,
    STRICT_LAST,
    Results,
    Stat,
    under,
)

PLACES = {1: "best", 2: "second"}
EVERY = "*"  # all datasets, in an address
FIGURE_SPACE = "\u2007"  # as wide as a digit
LONG = 40  # rows; a longer table is folded


class Field(NamedTuple):
    """One field of a row."""

    text: str
    small: str = ""  # standard deviation and interval
    ghost: str = ""  # invisible placeholder for an empty ``small``, so that numbers align
    sort: str = ""  # a number, or empty: sorted last
    style: str = ""  # classes
    of: str = ""  # indices into SHOWN of the metrics behind it, separated by spaces; or "paper"
    note: str = ""  # tooltip


class Row(NamedTuple):
    address: str  # JSON: dataset or EVERY, category or MEAN, variant
    mean: bool
    fields: list[Field]


class Heading(NamedTuple):
    text: str
    span: int
    numeric: bool
    label: str = ""  # as it reads without the heading above


@dataclass(frozen=True)
class View:
    name: str  # of its files
    title: str
    reference: str  # the variant that differences are to
    above: list[Heading]  # headings over several columns; empty where there are none
    columns: list[Heading]
    groups: list[list[Row]]
    notes: list[str]
    folded: bool


def view(name: str, table: Table, found: Results) -> View:
    """``name``: of its files under ``tables/``; for a dataset's own table, the dataset."""
    keep = [k for k, column in enumerate(table.columns) if _is_kept(name, table, k, column, found)]
    columns = [table.columns[k] for k in keep]
    places = iter(ranks(table))
    groups = []
    for rows in table.groups:
        shown = []
        for row in rows:
            place, texts = next(places), _texts(table.columns, row)
            fields = [
                _field(
                    table.columns[k],
                    row[k],
                    table.digits,
                    PLACES.get(place[k], ""),
                    _of(table.columns[k].key, texts.get("metric", ""), found),
                )
                for k in keep
            ]
            shown.append(Row(_address(name, texts, found), MEAN in texts.values(), fields))
        groups.append(shown)
    return View(
        name,
        table.title,
        found.matrix.variants[0],
        _above(columns),
        [_heading(column) for column in columns],
        _aligned(groups),
        list(table.notes),
        sum(map(len, groups)) > LONG,
    )


def _heading(column: Column) -> Heading:
    label = f"{column.group}, {column.title}" if column.group else column.title
    return Heading(column.title, 1, column.kind != "text", label)


def _is_kept(name: str, table: Table, k: int, column: Column, found: Results) -> bool:
    """Drops columns that are empty everywhere, and the dataset's if there is only one."""
    if column.key == "dataset" and name != "main" and len(found.categories) == 1:
        return False
    rows = [row for group in table.groups for row in group]
    return not rows or any(row[k] is not None for row in rows)


def _above(columns: Sequence[Column]) -> list[Heading]:
    if not any(column.group for column in columns):
        return []
    spans = [(group, list(of)) for group, of in groupby(columns, lambda c: c.group)]
    return [Heading(group, len(of), of[0].kind != "text") for group, of in spans]


def _texts(columns: Sequence[Column], row: Sequence[Any]) -> dict[str, str]:
    return {
        column.key: value.key if isinstance(value, Name) else str(value)
        for column, value in zip(columns, row, strict=True)
        if column.kind == "text" and value is not None
    }


def _address(name: str, texts: Mapping[str, str], found: Results) -> str:
    """Address of a row; columns that the table lacks follow from the table's name."""
    dataset = texts.get("dataset", name if name in found.categories else EVERY)
    variant = texts.get("variant", found.matrix.variants[0])
    return json.dumps([EVERY if dataset == MEAN else dataset, texts.get("category", MEAN), variant])


def _of(key: str, metric: str, found: Results) -> str:
    """Indices into SHOWN of the metrics behind a column; empty: unknown."""
    if key == "paper" or key.startswith("paper_"):
        return "paper"
    official = OFFICIAL_BEST if _chosen(found) else OFFICIAL_LAST
    addresses: list[str] = []
    if key in PROTOCOLS:
        addresses = [metric if key == STRICT_LAST else under(key, metric)]
    elif key == "best_minus_last":
        addresses = [under("strict_best", metric), metric]
    elif key == "official_minus_paper":
        addresses = [under(official, metric)]
    elif key in METRICS:
        addresses = [key]
    elif key.startswith("official_"):
        addresses = [under(official, key.removeprefix("official_"))]
    elif key.startswith("delta_"):
        addresses = [key.removeprefix("delta_")]
    return " ".join(str(SHOWN.index(a)) for a in addresses if a in SHOWN)


def _chosen(found: Results) -> bool:
    """Whether a checkpoint was chosen on the test set."""
    protocols = (run.get("protocols") or {} for run in found.runs.values())
    return any(given.get(OFFICIAL_BEST) is not None for given in protocols)


# --- fields --------------------------------------------------------------------------------------


def _field(column: Column, value: Any, digits: int, rank: str, of: str) -> Field:
    if column.kind == "text":
        text = value.title if isinstance(value, Name) else str(value or "")
        return Field(text, sort=text)
    if value is None:
        return Field("", style="n")
    if isinstance(value, Number):
        text = f"{value.value}{'' if value.certain else UNCERTAIN}"
        note = f"{source(value.source)}; {value.certainty}"
        return Field(text, sort=str(value.value), style="n paper", of="paper", note=note)
    if column.kind == "p":
        text = UNDEFINED if math.isnan(value) else p_value(value)
        return Field(text, sort=f"{value:.6g}", style="n p")
    if isinstance(value, Stat | Delta):
        return _measured(value, digits, rank, of)
    return Field(str(value), sort=str(value), style="n")


def _measured(value: Stat | Delta, digits: int, rank: str, of: str) -> Field:
    if value.value is None or math.isnan(value.value):
        text = MISSING if value.value is None else UNDEFINED
        return Field(text, style="n dim", of=of)
    signed = isinstance(value, Delta)
    small = []
    if isinstance(value, Stat) and value.std is not None:
        small.append(f"± {percent(value.std, digits)}")
    if value.interval:
        low, high = (percent(bound, digits) for bound in value.interval)
        small.append(f"[{low}, {high}]")
    return Field(
        percent(value.value, digits, signed),
        " ".join(small),
        sort=f"{100 * value.value:.6g}",
        style=" ".join(filter(None, ("n", "delta" if signed else "", rank))),
        of=of,
    )


def _aligned(groups: list[list[Row]]) -> list[list[Row]]:
    """Pads the text after each number to the widest of its column."""
    rows = [row for group in groups for row in group]
    widest = [
        max((f.small for f in column), key=len)
        for column in zip(*(r.fields for r in rows), strict=True)
    ]

    def padded(field: Field, model: str) -> Field:
        if not field.small:
            return field._replace(ghost=model)
        return field._replace(small=field.small + FIGURE_SPACE * (len(model) - len(field.small)))

    return [
        [
            row._replace(fields=[padded(*pair) for pair in zip(row.fields, widest, strict=True)])
            for row in group
        ]
        for group in groups
    ]


def percent(value: float, digits: int, signed: bool = False) -> str:
    text = f"{100 * value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    text = f"+{text}" if signed and float(text) > 0 else text
    return text.replace("-", "−")
