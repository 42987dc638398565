"""The summary figure: the main metrics of all categories and variants."""

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from realnet.plots import style
from realnet.plots.style import FAINT, GRID, INK, SHADE, WIDTH
from realnet.tables.formats import UNDEFINED
from realnet.tables.published import number, title
from realnet.tables.result_tables import TITLES
from realnet.tables.runs import MEAN, METRICS, STRICT_BEST, Results, under

CAPTION = (
    "Exact metrics of the last checkpoint, every category and their mean; one marker per variant,"
    " mean over seeds, bars ± one standard deviation over seeds where there are several. A dotted"
    " line leads to the checkpoint that was best on the test set, where one was kept; a hollow"
    " diamond is the paper's mean, under its own protocol. Axes do not start at 0. Of more than"
    " eight variants the first eight are shown; the tables list all."
)
MOST = 8  # variants; the markers of more would overlap


@style.styled
def summary(results: Results) -> Figure:
    """Dots: one panel per metric, one row per category and for the mean, one colour per variant.

    Bars show +- one standard deviation over seeds; a dotted line leads to the checkpoint that was
    best on the test set, where there is one (hollow, the same exact metric); a hollow diamond is
    the paper's mean, n/a a metric that is undefined (no masks). The axis starts below the smallest
    value, since the values are near 100: compare dots, not lengths.
    """
    variants = results.matrix.variants[:MOST]
    rows: list[tuple[str, str] | None] = []  # None: a gap between datasets
    for dataset in results.matrix.datasets:
        rows += [None] if rows else []
        rows += [(dataset, category) for category in results.rows(dataset)]
    # If all do not fit on a page, each category has one line with the reference variant only.
    tall = max(0.25, 0.06 * len(variants) + 0.1)
    crowded = tall * len(rows) > style.PAGE and len(variants) > 1
    units = [0.5 if row is None else 0.2 / tall if crowded and row[1] != MEAN else 1.0
             for row in rows]  # fmt: skip
    places = [sum(units[:k]) + units[k] / 2 for k in range(len(rows))]
    handles = _handles(results)
    columns = style.columns_for([str(handle.get_label()) for handle in handles])
    top = 0.5 + 0.17 * -(-len(handles) // columns)
    side, gap = style.margin([row[1] for row in rows if row]), 0.3
    width = (WIDTH - side - 0.1 - 2 * gap) / 3
    several = len(results.matrix.datasets) > 1
    low, high = sum(units) + 0.1, -0.2 / tall if several else -0.1
    height = tall * (low - high)
    canvas = style.Canvas(top + height + 0.36)
    panels = [canvas.axes(side + k * (width + gap), top, width, height) for k in range(3)]
    band = 0.7
    for panel, metric in zip(panels, METRICS, strict=True):
        smallest = 1.0
        for y, unit, row in zip(places, units, rows, strict=True):
            if row is None:
                continue
            dataset, category = row
            if category == MEAN:
                panel.axhspan(y - unit / 2, y + unit / 2, color=SHADE, zorder=0, linewidth=0)
            else:
                panel.axhline(y + unit / 2, color=GRID, linewidth=0.5, zorder=0)
            shown = variants[:1] if crowded and category != MEAN else variants
            values = [results.stat(dataset, v, category, metric).value for v in shown]
            if any(value is not None and math.isnan(value) for value in values):
                panel.text(
                    *(0.02, y, UNDEFINED), transform=panel.get_yaxis_transform(),
                    ha="left", va="center", fontsize=style.SMALL, color=FAINT,
                )  # fmt: skip
            for index, variant in enumerate(shown):
                offset = (index / (len(shown) - 1) - 0.5) * band if len(shown) > 1 else 0.0
                cell = (dataset, variant, category)
                smallest = min(smallest, _dot(panel, results, cell, metric, index, y + offset))
            compared = category == MEAN and results.is_whole(dataset)
            published = number(dataset, MEAN, metric) if compared else None
            if published is not None:
                smallest = min(smallest, published.value / 100)
                panel.plot(
                    *(published.value, y),
                    marker="d",
                    color=INK,
                    fillstyle="none",
                    markersize=6,
                    zorder=5,
                )
        _axis(panel, TITLES[metric], smallest)
    _rows(panels, results, rows, places, units)
    for panel in panels:
        panel.set_ylim(low, high)
    seeds = len(results.matrix.seeds)
    names = ", ".join(map(title, results.matrix.datasets))
    error = "" if seeds == 1 else f" · mean ± std over {seeds} seeds"
    if crowded:
        error += f" · categories: only {variants[0]}"
    canvas.text(0.05, 0.05, f"{names} · last checkpoint{error}", fontweight="bold",
                fontsize=style.TITLE)  # fmt: skip
    canvas.legend(handles, 0.25, ncols=columns)
    return canvas.figure


def _rows(
    panels: list[Any],
    results: Results,
    rows: list[tuple[str, str] | None],
    places: list[float],
    units: list[float],
) -> None:
    """Write the names of the categories, and of the datasets if there are several."""
    for panel in panels:
        panel.set_yticks([])
    panels[0].set_yticks(places, ["" if row is None else style.name(row[1]) for row in rows])
    for tick, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row and row[1] == MEAN else "normal")
    for dataset in results.matrix.datasets if len(results.matrix.datasets) > 1 else ():
        first = rows.index((dataset, results.rows(dataset)[0]))
        panels[0].text(
            *(0.0, places[first] - units[first] / 2, title(dataset)),
            transform=panels[0].get_yaxis_transform(), ha="left", va="bottom", color=FAINT,
            fontsize=style.SMALL, fontweight="bold",
        )  # fmt: skip


def _dot(
    panel: Any,
    results: Results,
    cell: tuple[str, str, str],
    metric: str,
    index: int,
    y: float,
) -> float:
    """Draw a variant's value and that of the checkpoint best on the test set; returns the least,
    at most 1."""
    stat = results.stat(*cell, metric)
    if stat.value is None or math.isnan(stat.value):
        return 1.0
    marker, colour = style.marker(index), style.colour(index)
    panel.errorbar(
        100 * stat.value,
        y,
        xerr=None if stat.std is None else 100 * stat.std,
        fmt=marker,
        color=colour,
        markersize=(5.5 if index == 0 else 4.5) * style.size(index),
        markeredgecolor="white",
        markeredgewidth=0.5,
        elinewidth=1.0,
        zorder=4 if index == 0 else 3,
    )
    least = stat.value - (stat.std or 0)
    best = results.stat(*cell, under(STRICT_BEST, metric)).value
    if best is None or math.isnan(best) or best == stat.value:
        return least
    ends = [100 * stat.value, 100 * best]
    panel.plot(ends, [y, y], color=colour, linestyle=":", linewidth=0.9, zorder=2)
    panel.plot(
        ends[1],
        y,
        marker,
        color=colour,
        markerfacecolor="white",
        markersize=3.8 * style.size(index),
        zorder=2,
    )
    return min(least, best)


def _axis(panel: Any, title: str, smallest: float) -> None:
    low = max(0.0, math.floor((100 * smallest - 1) / 5) * 5)
    panel.set_xlim(low, 100 + (100 - low) * 0.03)
    panel.set_title(title, fontweight="bold", loc="left", pad=4)
    panel.xaxis.set_major_locator(_ticks(100 - low))
    panel.grid(axis="x")
    panel.tick_params(length=0)
    panel.set_xlabel("%")
    panel.spines["left"].set_visible(False)


def _ticks(span: float) -> MultipleLocator:
    return MultipleLocator(next(s for s in (1, 2, 5, 10, 20) if span / s <= 5))


def _handles(results: Results) -> list[Line2D]:
    variants = results.matrix.variants[:MOST]
    handles = style.variant_handles(variants, markers=True)
    if any(results.is_whole(d) and number(d, MEAN, METRICS[0]) for d in results.matrix.datasets):
        handles.append(
            Line2D([], [], linestyle="", marker="d", label="paper (official protocol)", color=INK,
                   fillstyle="none", markersize=6)
        )  # fmt: skip
    if any(
        results.stat(d, v, c, under(STRICT_BEST, METRICS[0])).value is not None
        for d in results.matrix.datasets
        for v in variants
        for c in results.categories[d]
    ):
        handles.append(
            Line2D([], [], linestyle=":", marker="o", label="best on the test set", color=FAINT,
                   markerfacecolor="white", markersize=3.8)
        )  # fmt: skip
    return handles
