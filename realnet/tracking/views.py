"""How the experiment's page in MLflow opens: saved views, as tags of the experiment.

By default the list of runs shows no metric, and the charts are one bar chart per metric. MLflow has
no public API for the columns and charts of a page: these tags are what its own "Share" button
writes.
"""

import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from realnet.tracking.contents import Content
from realnet.tracking.names import HEADLINE, QUALITY

RUNS, VARIANTS, CELLS = "realnet", "variants", "cells"  # names of the views
AXES = 5  # parameters in a parallel coordinates plot; more are unreadable
BARS = 30  # runs in a bar chart
TREE = "attributes.start_time"  # MLflow nests child runs only in this order

Chart = dict[str, Any]


def links(experiment: str) -> dict[str, str]:
    """Addresses of the views, relative to the server: the list of runs, and two pages of charts."""
    page = f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey="
    return {
        "runs": f"{page}{RUNS}",
        "variants": f"{page}{VARIANTS}&compareRunsMode=CHART",
        "cells": f"{page}{CELLS}&compareRunsMode=CHART",
    }


def views(variants: Sequence[Content], cells: Sequence[Content]) -> dict[str, str]:
    """Tag -> value of the views in :func:`links`."""
    names = {name for run in (*variants, *cells) for name in run.metrics}
    drawn = tuple(curve.prefix for cell in cells for curve in cell.curves)
    losses = [name for name in LOSSES if name.startswith(drawn)]
    quality = [name for name in QUALITY if name in names]
    settings = _chart(
        "PARALLEL",
        selectedParams=["variant", *differing(variants)],
        selectedMetrics=[name for name in HEADLINE if name in names],
        showAllRuns=True,
    )
    price = _chart(
        "SCATTER",
        xaxis={"key": "seconds/total", "type": "METRIC"},
        yaxis={"key": "image_auroc", "type": "METRIC"},
    )
    bars = [_chart("BAR", metricKey=name, runsCountToCompare=BARS) for name in quality]
    lines = [_line(name) for name in losses]
    differences = _chart(
        "DIFFERENCE",
        compareGroups=["Parameters", "Model metrics"],
        chartName="Differences",
        showChangeFromBaseline=True,
        showDifferencesOnly=True,
        baselineColumnUuid="",
    )
    of_variants = {
        "Parameters and metrics": [settings],
        "Comparison": [*bars, price],
        "Differences": [differences],
    }
    of_cells = {"Per step": lines, "Runs": [*bars, price]}
    states = {
        RUNS: _state(of_variants | {"Per step": lines}, names, "", TREE),
        VARIANTS: _state(of_variants, {*names, *losses}, "tags.level = 'variant'"),
        CELLS: _state(of_cells, names, "tags.level = 'cell'"),
    }
    return {f"mlflow.sharedViewState.{name}": _packed(state) for name, state in states.items()}


LOSSES = (
    *("realnet/loss", "realnet/loss_reconstruction", "realnet/loss_segmentation"),
    *("on_test/image_auroc", "on_test/pixel_auroc", "ddpm/loss"),
)


def differing(variants: Sequence[Content]) -> list[str]:
    """The parameters by which the variants differ; the most common and most varied ones first.

    A parameter that a variant lacks (it does not use the diffusion model) is not a difference.
    """
    values: dict[str, list[str]] = defaultdict(list)
    for run in variants:
        for name, value in run.params.items():
            values[name].append(value)
    varied = [name for name, found in values.items() if len(set(found)) > 1]
    return sorted(varied, key=lambda n: (-len(values[n]), -len(set(values[n])), n))[:AXES]


def _packed(state: dict[str, Any]) -> str:
    """A view as MLflow's page compresses it, since a tag holds at most 20000 characters."""
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()


def _chart(kind: str, **options: Any) -> Chart:
    return {"type": kind, "deleted": False, "isGenerated": False, **options}


def _line(metric: str) -> Chart:
    """A metric over the steps; losses on a logarithmic axis."""
    return _chart(
        "LINE",
        metricKey=metric,
        xAxisKey="step",
        scaleType="log" if "loss" in metric else "linear",
        lineSmoothness=0,
        useGlobalLineSmoothing=False,
        useGlobalXaxisKey=True,
    )


def _state(
    sections: dict[str, list[Chart]],
    metrics: Iterable[str],
    search: str,
    order: str = "metrics.`image_auroc`",
) -> dict[str, Any]:
    """One view. Metrics without a chart get a deleted one, else MLflow adds a chart of each."""
    charts: list[Chart] = []
    parts: list[dict[str, Any]] = []
    for title, members in sections.items():
        identity = f"section-{len(parts)}"
        parts.append(_section(identity, title, 1 if len(members) == 1 else 3))
        for chart in members:
            known = {"uuid": f"chart-{len(charts)}", "metricSectionId": identity}
            charts.append(chart | known)
    shown = {chart.get("metricKey") for chart in charts}
    for name in sorted(set(metrics) - shown):
        chart = {"type": "BAR", "metricKey": name, "deleted": True, "isGenerated": True}
        known = {"uuid": f"chart-{len(charts)}", "metricSectionId": parts[-1]["uuid"]}
        charts.append(chart | known)
    return {
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "searchFilter": search,
        "selectedColumns": COLUMNS,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        "compareRunCharts": charts,
        "compareRunSections": parts,
    }


COLUMNS = [
    *(f"metrics.`{name}`" for name in (*HEADLINE, "aupimo", "seconds/total")),
    *(f"params.`{name}`" for name in ("dataset", "category", "seed", "variant", "method")),
    "tags.`device`",
]


def _section(identity: str, title: str, columns: int) -> dict[str, Any]:
    return {
        "uuid": identity,
        "columns": columns,
        "name": title,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
