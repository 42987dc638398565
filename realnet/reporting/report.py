"""`realnet report`: everything that a reader sees, from result files alone."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realnet.errors import UserError
from realnet.io import save_figure, write_json, write_text
from realnet.reporting import collect, formats, tables
from realnet.reporting.overview import overview
from realnet.reporting.summary import summary
from realnet.reporting.verdicts import verdicts
from realnet.reporting.verdicts_table import verdict_files


def report(
    results: Path, params: str, metrics: Sequence[Path] = (), allow_missing: bool = False
) -> None:
    """Write ``metrics.json``, ``tables/`` and ``figures/`` under ``results``.

    ``params``: a parameter file or JSON of experiment, variants and report; ``metrics``: the
    evaluation's metrics files, or empty to look for them under ``results``. See the package's
    docstring. UserError for a missing or malformed file, before anything is written.
    """
    found = collect.collect(results, collect.matrix_of(params), metrics, allow_missing)
    made = all_tables(found)
    judged = verdict_files(verdicts(found), found.matrix.digits)
    picture, absent = overview(found)

    write_json(results / "metrics.json", summary_metrics(found))
    for name, table in made.items():
        write_text(results / "tables" / f"{name}.csv", formats.to_csv(table))
        write_text(results / "tables" / f"{name}.md", formats.to_markdown(table))
        write_text(results / "tables" / f"{name}.tex", formats.to_latex(table))
    for suffix, text in judged.items():
        write_text(results / "tables" / f"verdicts{suffix}", text)
    write_text(results / "tables" / "cells.csv", tables.cells_csv(found))

    save_figure(results / "figures" / "summary.png", summary(found))
    if picture is not None:
        save_figure(results / "figures" / "overview.png", picture, dpi=120)
    else:  # one from an earlier state of the files would show something else
        (results / "figures" / "overview.png").unlink(missing_ok=True)
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        what = "overview.png is incomplete" if picture is not None else "no overview.png"
        print(f"realnet report: {what}: {absent[0]}{more} not found", file=sys.stderr)


def all_tables(found: collect.Results) -> dict[str, formats.Table]:
    """Name -> table. UserError: a data set that has the name of another table."""
    made = {
        "main": tables.main_table(found),
        "protocols": tables.protocols_table(found),
        "per_category": tables.per_category_table(found),
        "ablation": tables.ablation_table(found),
    }
    for dataset in found.matrix.datasets:
        if dataset in (*made, "verdicts", "cells") or dataset.startswith("ablation_"):
            raise UserError(f"data set {dataset}: a table has that name; rename the data set")
    return made | {d: tables.dataset_table(found, d) for d in found.matrix.datasets}


def summary_metrics(found: collect.Results) -> dict[str, Any]:
    """{data set: {variant: {category or "mean": {metric: fraction or None}}}}, means over seeds."""

    def value(*key: str) -> float | None:
        stat = found.stat(*key)
        return None if stat.value is None or math.isnan(stat.value) else stat.value

    return {
        dataset: {
            variant: {
                category: {m: value(dataset, variant, category, m) for m in collect.METRICS}
                for category in found.rows(dataset)
            }
            for variant in found.matrix.variants
        }
        for dataset in found.matrix.datasets
    }
