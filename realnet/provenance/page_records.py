"""The records behind each evaluation, as data for the page: each record and each section once."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.provenance.lineage import moved
from realnet.report.collect import (
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    STRICT_BEST,
    Cell,
    Results,
    number,
    under,
)

# What the page can show of each evaluation, by its address (`Results.stat`).
SHOWN = (
    *METRICS,
    *(under(p, m) for p in (STRICT_BEST, OFFICIAL_LAST, OFFICIAL_BEST) for m in METRICS),
)
# Of a record, what the page has a place for; the rest is shown as it is.
KNOWN = {
    *("stage", "dataset", "category", "seed", "variant", "params", "inputs", "device", "wall_s"),
    *("peak_memory_mb", "finished", "git_commit", "python", "versions", "outputs", "code"),
}


@dataclass
class Trace:
    """Records in the order in which they were found, and for each evaluation those behind it."""

    folders: list[Path] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    chains: dict[Path, list[int]] = field(default_factory=dict)  # causes first

    def by_stage(self) -> dict[str, list[dict[str, Any]]]:
        """Stage -> its records; stages in the order in which they run."""
        order: dict[str, None] = {}
        for chain in sorted(self.chains.values(), key=len, reverse=True):
            order |= dict.fromkeys(self.records[k]["stage"] for k in chain)
        return {s: [r for r in self.records if r["stage"] == s] for s in order}


def trace(results: Path, evaluations: Iterable[Path]) -> Trace:
    """Follow the records from each folder of an evaluation to everything it was made from.

    A folder without ``stage.json`` ends its branch: what it had has been removed. UserError: a file
    of that name that is no record.
    """
    found = Trace()
    numbers: dict[Path, int | None] = {}
    places: dict[str, Path | None] = {}
    causes: dict[int, list[Path]] = {}

    def visit(folder: Path) -> int | None:
        if folder in numbers:
            return numbers[folder]
        numbers[folder] = None
        path = folder / "stage.json"
        if path.is_file():
            record = plain(read_json(path))
            try:
                sources = [source["path"] for source in record["inputs"].values()]
                record = {"stage": str(record["stage"]), "params": {}} | record
            except (KeyError, TypeError, AttributeError):
                raise UserError(f"{path}: not the record of a stage; make it again") from None
            numbers[folder] = len(found.records)
            found.folders.append(folder)
            found.records.append(record)
            for source in sources:
                if source not in places:
                    places[source] = moved(results, source)
            causes[numbers[folder]] = [p for s in sources if (p := places[s]) is not None]
        return numbers[folder]

    def chain(folder: Path, done: dict[int, None]) -> None:
        at = visit(folder)
        if at is None or at in done:
            return
        for cause in causes[at]:
            if cause != folder:
                chain(cause, done)
        done[at] = None

    for folder in evaluations:
        done: dict[int, None] = {}
        chain(folder, done)
        found.chains[folder] = list(done)
    return found


def as_data(found: Results, traced: Trace, results: Path, missing: Mapping[Cell, int]) -> dict:
    """What the page's script reads, as plain values for JSON; NaN and infinities become null.

    ``missing``: cell -> number of the entry that says why it is not there.
    """
    pool = _Pool()
    cells = []
    variants = list(dict.fromkeys(cell.variant for cell in found.files))
    datasets = list(found.categories)
    for cell, path in found.files.items():
        entry: dict[str, Any] = {
            "at": [
                datasets.index(cell.dataset),
                found.categories[cell.dataset].index(cell.category),
                cell.seed,
                variants.index(cell.variant),
            ]
        }
        if cell in found.cells:
            values = found.cells[cell]
            entry["values"] = [_short(_value(values, m)) for m in SHOWN]
            entry["intervals"] = [_bounds(values, m) for m in METRICS]
            entry["chain"] = traced.chains.get(path.parent, [])
        else:
            entry["gap"] = missing.get(cell)
        cells.append(entry)
    return {
        "datasets": [[d, list(found.categories[d])] for d in datasets],
        "variants": variants,
        "reference": variants.index(found.matrix.variants[0]),
        "digits": found.matrix.digits,
        "shown": list(SHOWN),
        "cells": cells,
        "stages": [
            _stage(record, folder, results, pool.number)
            for record, folder in zip(traced.records, traced.folders, strict=True)
        ],
        "pool": pool.values,
    }


class _Pool:
    """Values that many records share, each once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.places: dict[str, int] = {}

    def number(self, value: Any) -> int:
        key = json.dumps(value)
        if key not in self.places:
            self.places[key] = len(self.values)
            self.values.append(value)
        return self.places[key]


def _stage(record: dict[str, Any], folder: Path, results: Path, pooled: Any) -> dict[str, Any]:
    """One record: what differs from record to record here, the rest as numbers into the pool."""
    inputs = record["inputs"].items()
    return {
        "stage": pooled(record["stage"]),
        "folder": relative(folder, results),
        "params": {key: pooled(value) for key, value in record["params"].items()},
        "inputs": [[n, pooled(str(s["path"])), pooled(s.get("sha256"))] for n, s in inputs],
        "wall_s": record.get("wall_s"),
        "memory": record.get("peak_memory_mb"),
        "finished": record.get("finished"),
        "facts": pooled({k: record.get(k) for k in ("git_commit", "device", "python", "versions")}),
        "more": {k: v for k, v in record.items() if k not in KNOWN},
    }


def relative(path: Path, results: Path) -> str:
    """As the page names files: seen from the folder that it lies in."""
    return path.relative_to(results).as_posix() if path.is_relative_to(results) else str(path)


def plain(value: Any) -> Any:
    """For JSON, which has neither NaN nor infinities: null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _value(values: Mapping[str, Any], metric: str) -> float | None:
    try:
        return number(dict(values), metric)
    except (KeyError, TypeError, ValueError):
        return None


def _short(value: float | None) -> float | str | None:
    """Five digits are more than the page shows. None: not measured; "": undefined."""
    if value is None:
        return None
    return round(value, 5) if math.isfinite(value) else ""


def _bounds(values: Mapping[str, Any], metric: str) -> list[float] | None:
    given = (values.get("intervals") or {}).get(metric)
    return given and plain([round(float(x), 5) for x in given])
