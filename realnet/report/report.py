"""`realnet report`: tables, figures and the page, from result files alone."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realnet.core.io import write_json, write_text
from realnet.plots.ablation import groups_of
from realnet.plots.gallery import make_figures, write_figures
from realnet.plots.made import Drawn, Skipped
from realnet.plots.overview import CAPTION as OVERVIEW
from realnet.plots.overview import overview
from realnet.plots.style import PICTURES
from realnet.plots.summary import CAPTION as SUMMARY
from realnet.plots.summary import summary
from realnet.provenance.failures import write_missing
from realnet.report.page import prepare, render
from realnet.tables import formats, result_tables
from realnet.tables.runs import METRICS, Results, collect, matrix_of
from realnet.tables.verdicts import verdicts
from realnet.tables.verdicts_table import verdict_files


def report(
    results: Path, params: str, metrics: Sequence[Path] = (), allow_missing: bool = False
) -> None:
    """Write ``metrics.json``, ``tables/``, ``figures/`` and ``report.html`` under ``results``.

    ``params``: a parameter file or JSON of experiment, variants, report and, for the figure of
    ablations, groups; ``metrics``: the evaluation's metrics files, or empty to search ``results``.
    See the package's docstring. UserError for a missing or malformed file, before anything is
    written.
    """
    found = collect(results, matrix_of(params), metrics, allow_missing)
    made = result_tables.all_tables(found)
    all_verdicts = verdicts(found)
    judged = verdict_files(all_verdicts, found.matrix.digits)
    page = prepare(results, found, made, all_verdicts, params)
    figures, absent = all_figures(found, results, params)

    write_json(results / "metrics.json", summary_metrics(found))
    for name, table in made.items():
        write_text(results / "tables" / f"{name}.csv", formats.to_csv(table))
        write_text(results / "tables" / f"{name}.md", formats.to_markdown(table))
        write_text(results / "tables" / f"{name}.tex", formats.to_latex(table))
    for suffix, text in judged.items():
        write_text(results / "tables" / f"verdicts{suffix}", text)
    write_text(results / "tables" / "cells.csv", result_tables.cells_csv(found))
    write_missing(results, found)

    index = write_figures(figures, results / "figures")
    write_text(results / "report.html", render(page, results))
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        drawn = any(figure["name"] == "overview" for figure in index["figures"])
        what = "overview.png is incomplete" if drawn else "no overview.png"
        print(f"realnet report: {what}: {absent[0]}{more} not found", file=sys.stderr)


def all_figures(
    found: Results, results: Path, params: str
) -> tuple[list[Drawn | Skipped], list[str]]:
    """Every figure, or why it is skipped; and the missing files of the overview."""
    picture, absent = overview(found)
    figures: list[Drawn | Skipped] = []
    figures.append(Drawn("summary", "Metrics at a glance", SUMMARY, summary(found)))
    heading = "Test images, ground truth and heat maps"
    if picture is not None:
        figures.append(Drawn("overview", heading, OVERVIEW, picture, dpi=PICTURES))
    else:
        reason = "no scores.npz of the reference variant beside the metrics files"
        figures.append(Skipped("overview", heading, reason))
    figures += make_figures(found, results, groups_of(params))
    return figures, absent


def summary_metrics(found: Results) -> dict[str, Any]:
    """{dataset: {variant: {category or "mean": {metric: fraction or None}}}}, means over seeds."""

    def value(*key: str) -> float | None:
        stat = found.stat(*key)
        return None if stat.value is None or math.isnan(stat.value) else stat.value

    return {
        dataset: {
            variant: {
                category: {m: value(dataset, variant, category, m) for m in METRICS}
                for category in found.rows(dataset)
            }
            for variant in found.matrix.variants
        }
        for dataset in found.matrix.datasets
    }
