"""The records behind each run, as JSON for the page; records and sections are stored once."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realnet.provenance.lineage import Trace, plain, relative
from realnet.tables.runs import (
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    STRICT_BEST,
    Results,
    Run,
    number,
    under,
)

# Metrics of each run that the page can show, by their key (`Results.stat`).
SHOWN = (
    *METRICS,
    *(under(p, m) for p in (STRICT_BEST, OFFICIAL_LAST, OFFICIAL_BEST) for m in METRICS),
)
# Fields of a record that the page formats; it prints others as they are.
KNOWN = {
    *("stage", "dataset", "category", "seed", "variant", "params", "inputs", "device", "wall_s"),
    *("peak_memory_mb", "finished", "git_commit", "python", "versions", "outputs", "code"),
}


def as_data(found: Results, traced: Trace, results: Path, missing: Mapping[Run, int]) -> dict:
    """Data for the page's script, as plain values for JSON; NaN and infinities become null.

    ``missing``: run -> index of the entry that explains why it is missing.
    """
    pool = _Pool()
    runs = []
    variants = list(dict.fromkeys(run.variant for run in found.files))
    datasets = list(found.categories)
    for run, path in found.files.items():
        entry: dict[str, Any] = {
            "at": [
                datasets.index(run.dataset),
                found.categories[run.dataset].index(run.category),
                run.seed,
                variants.index(run.variant),
            ]
        }
        if run in found.runs:
            values = found.runs[run]
            entry["values"] = [_short(_value(values, m)) for m in SHOWN]
            entry["intervals"] = [_bounds(values, m) for m in METRICS]
            entry["chain"] = traced.chains.get(path.parent, [])
        else:
            entry["gap"] = missing.get(run)
        runs.append(entry)
    return {
        "datasets": [[d, list(found.categories[d])] for d in datasets],
        "variants": variants,
        "reference": variants.index(found.matrix.variants[0]),
        "digits": found.matrix.digits,
        "shown": list(SHOWN),
        "cells": runs,
        "stages": [
            _stage(record, folder, results, pool.number)
            for record, folder in zip(traced.records, traced.folders, strict=True)
        ],
        "pool": pool.values,
    }


class _Pool:
    """Values shared by many records, stored once."""

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
    """One record; values that records share are indices into the pool."""
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


def _value(values: Mapping[str, Any], metric: str) -> float | None:
    try:
        return number(dict(values), metric)
    except (KeyError, TypeError, ValueError):
        return None


def _short(value: float | None) -> float | str | None:
    """Rounded to five digits. None: not measured; "": undefined."""
    if value is None:
        return None
    return round(value, 5) if math.isfinite(value) else ""


def _bounds(values: Mapping[str, Any], metric: str) -> list[float] | None:
    given = (values.get("intervals") or {}).get(metric)
    return given and plain([round(float(x), 5) for x in given])
