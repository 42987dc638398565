"""The metrics at a glance."""

import math
from typing import Any

from matplotlib.figure import Figure

from realnet.evaluation.figures import FAINT, INK
from realnet.reporting.collect import MEAN, METRICS, STRICT_BEST, Results, under
from realnet.reporting.formats import UNDEFINED
from realnet.reporting.published import number, title
from realnet.reporting.tables import TITLES

# Okabe-Ito: told apart by colour-blind readers; the reference variant comes first, in blue.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d31", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def summary(results: Results) -> Figure:
    """Dots: one panel per metric, one row per category and for the mean, one colour per variant.

    Bars show +- one standard deviation over seeds; a dotted line leads to the checkpoint that was
    best on the test set, where there is one (hollow, the same exact metric); a hollow diamond is
    the paper's mean, n/a a metric that is undefined (no masks). The axis starts below the smallest
    value, since all the interest is near 100: compare dots, not lengths.
    """
    variants = results.matrix.variants
    rows: list[tuple[str, str] | None] = []  # None: a gap between data sets
    for dataset in results.matrix.datasets:
        rows += [None] if rows else []
        rows += [(dataset, category) for category in results.rows(dataset)]
    step = max(0.38, 0.09 * len(variants) + 0.14)
    legend_lines = -(-(len(variants) + 2) // 6)
    height = 1.15 + 0.25 * legend_lines + step * len(rows)
    figure = Figure(figsize=(10.5, height), facecolor="white")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    spread = 0.7 if len(variants) > 1 else 0.0
    several = len(results.matrix.datasets) > 1
    for panel, metric in zip(panels, METRICS, strict=True):
        smallest = 1.0
        for y, row in enumerate(rows):
            if row is None:
                continue
            dataset, category = row
            if category == MEAN:
                panel.axhspan(y - 0.5, y + 0.5, color="#eef1f4", zorder=0, linewidth=0)
            else:
                panel.axhline(y + 0.5, color="#e6e6e6", linewidth=0.6, zorder=0)
            values = [results.stat(dataset, v, category, metric).value for v in variants]
            if any(value is not None and math.isnan(value) for value in values):
                panel.text(
                    *(0.02, y, UNDEFINED), transform=panel.get_yaxis_transform(),
                    ha="left", va="center", fontsize=8, color=FAINT,
                )  # fmt: skip
            for index, variant in enumerate(variants):
                offset = (index / max(len(variants) - 1, 1) - 0.5) * spread
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
                    markersize=8,
                    zorder=5,
                )
        _axis(panel, TITLES[metric], smallest)
    labels = ["" if row is None else row[1] for row in rows]
    panels[0].set_yticks(range(len(rows)), labels)
    panels[0].set_ylim(len(rows) - 0.4, -1.1 if several else -0.6)
    for tick, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row and row[1] == MEAN else "normal")
    for dataset in results.matrix.datasets if several else ():
        first = rows.index((dataset, results.rows(dataset)[0]))
        panels[0].text(
            *(0.0, first - 0.55, title(dataset)), transform=panels[0].get_yaxis_transform(),
            ha="left", va="bottom", fontsize=8, fontweight="bold", color=FAINT,
        )  # fmt: skip
    _legend(figure, results, height)
    figure.subplots_adjust(
        left=0.14,
        right=0.985,
        wspace=0.08,
        bottom=0.45 / height,
        top=1 - (0.68 + 0.25 * legend_lines) / height,
    )
    return figure


def _dot(
    panel: Any,
    results: Results,
    cell: tuple[str, str, str],
    metric: str,
    index: int,
    y: float,
) -> float:
    """A variant's value, and where the best checkpoint on the test set is; the least, at most 1."""
    stat = results.stat(*cell, metric)
    if stat.value is None or math.isnan(stat.value):
        return 1.0
    marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
    panel.errorbar(
        100 * stat.value,
        y,
        xerr=None if stat.std is None else 100 * stat.std,
        fmt=marker,
        color=colour,
        markersize=6.5 if index == 0 else 5.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        elinewidth=1.2,
        zorder=4 if index == 0 else 3,
    )
    least = stat.value - (stat.std or 0)
    best = results.stat(*cell, under(STRICT_BEST, metric)).value
    if best is None or math.isnan(best) or best == stat.value:
        return least
    ends = [100 * stat.value, 100 * best]
    panel.plot(ends, [y, y], color=colour, linestyle=":", linewidth=1.1, zorder=2)
    panel.plot(ends[1], y, marker, color=colour, markerfacecolor="white", markersize=4.5, zorder=2)
    return min(least, best)


def _axis(panel: Any, title: str, smallest: float) -> None:
    low = max(0.0, math.floor((100 * smallest - 1) / 5) * 5)
    panel.set_xlim(low, 100 + (100 - low) * 0.03)
    panel.set_title(title, fontsize=10, fontweight="bold", loc="left", color=INK)
    panel.xaxis.set_major_locator(_ticks(100 - low))
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelsize=8.5, colors=INK)
    panel.set_xlabel("%", fontsize=8, color=FAINT, labelpad=1)
    for name, spine in panel.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color("#bbbbbb")


def _ticks(span: float) -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(next(s for s in (1, 2, 5, 10, 20) if span / s <= 6))


def _legend(figure: Figure, results: Results, height: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], label=variant,
               color=COLOURS[i % len(COLOURS)], markersize=6.5, markeredgecolor="white")
        for i, variant in enumerate(results.matrix.variants)
    ]  # fmt: skip
    if any(results.is_whole(d) and number(d, MEAN, METRICS[0]) for d in results.matrix.datasets):
        handles.append(
            Line2D([], [], linestyle="", marker="d", label="paper (official protocol)", color=INK,
                   fillstyle="none", markersize=7)
        )  # fmt: skip
    if any(
        results.stat(d, v, c, under(STRICT_BEST, METRICS[0])).value is not None
        for d in results.matrix.datasets
        for v in results.matrix.variants
        for c in results.categories[d]
    ):
        handles.append(
            Line2D([], [], linestyle=":", marker="o", label="best on the test set", color=FAINT,
                   markerfacecolor="white", markersize=4.5)
        )  # fmt: skip
    seeds = len(results.matrix.seeds)
    names = ", ".join(map(title, results.matrix.datasets))
    error = "" if seeds == 1 else f" · mean ± std over {seeds} seeds"
    figure.text(
        *(0.015, 1 - 0.14 / height, f"{names} · last checkpoint{error}"),
        va="top", fontsize=12, fontweight="bold", color=INK,
    )  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.01, 1 - 0.36 / height), ncols=6,
        frameon=False, fontsize=9, handletextpad=0.2, columnspacing=1.4, borderpad=0.2,
    )  # fmt: skip
