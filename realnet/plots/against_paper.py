"""The metrics of the reference variant with intervals, compared with the paper's numbers."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from realnet.plots import style
from realnet.plots.made import Drawn, Entry, Skipped, counted
from realnet.tables.published import number, title
from realnet.tables.resamples import with_interval
from realnet.tables.result_tables import TITLES
from realnet.tables.runs import (
    MEAN,
    METRICS,
    OFFICIAL_BEST,
    OFFICIAL_LAST,
    Results,
    under,
)

STEP = 0.215


class Value(NamedTuple):
    """Percent; None where a number is not available."""

    ours: float | None
    low: float | None
    high: float | None
    official: float | None  # under the paper's protocol
    paper: float | None


@style.styled
def bars(rows: Mapping[str, Mapping[str, Value]]) -> Figure:
    """Category, or "mean" -> metric -> value. Bars are intervals, dots the metrics."""
    names = list(rows)
    side = style.margin(names)
    gap, top = 0.3, 0.46
    width = (style.WIDTH - side - 0.1 - 2 * gap) / 3
    height = STEP * len(names) + 0.1
    canvas = style.Canvas(top + height + 0.36)
    handles = [
        Line2D([], [], color=style.COLOURS[0], lw=4, alpha=0.35, label="interval over test images"),
        Line2D([], [], color=style.COLOURS[0], marker="o", ls="", ms=4.5, label="exact metric"),
    ]
    values = [v for row in rows.values() for v in row.values()]
    if any(v.official is not None for v in values):
        handles.append(Line2D([], [], color=style.COLOURS[4], marker="|", ls="", ms=8, mew=1.6,
                              label="ours, paper's protocol"))  # fmt: skip
    if any(v.paper is not None for v in values):
        handles.append(Line2D([], [], color=style.PAPER, marker="D", ls="", ms=4.5, mfc="white",
                              label="paper"))  # fmt: skip
    canvas.legend(handles, 0.06, ncols=len(handles))
    for k, metric in enumerate(METRICS):
        axes = canvas.axes(side + k * (width + gap), top, width, height)
        least = 100.0
        for y, name in enumerate(names):
            value = rows[name][metric]
            if name == MEAN:
                axes.axhspan(y - 0.5, y + 0.5, color=style.SHADE, lw=0, zorder=0)
            numbers = [x for x in value if x is not None and not math.isnan(x)]
            least = min([least, *numbers])
            if not numbers:
                axes.text(0.02, y, "n/a", va="center", fontsize=style.SMALL, color=style.FAINT,
                          transform=axes.get_yaxis_transform())  # fmt: skip
            if value.low is not None and value.high is not None:
                axes.barh(y, value.high - value.low, 0.5, left=value.low, color=style.COLOURS[0],
                          alpha=0.35, lw=0, zorder=2)  # fmt: skip
            if value.official is not None:
                axes.plot(value.official, y, "|", color=style.COLOURS[4], ms=8, mew=1.6, zorder=3)
            if value.ours is not None:
                axes.plot(value.ours, y, "o", color=style.COLOURS[0], ms=4.5, mec="white",
                          mew=0.4, zorder=4)  # fmt: skip
            if value.paper is not None:
                axes.plot(value.paper, y, "D", color=style.PAPER, ms=4.5, mfc="white", zorder=5)
        low = max(0.0, math.floor((least - 0.5) / 2) * 2)
        span = 100 - low
        axes.set_xlim(low, 100 + 0.03 * span)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(
            MultipleLocator(next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if span / s <= 5))
        )
        axes.set_yticks(range(len(names)), [style.name(n) for n in names] if k == 0 else [])
        axes.tick_params(axis="y", length=0)
        for label, name in zip(axes.get_yticklabels(), names if k == 0 else [], strict=False):
            label.set_fontweight("bold" if name == MEAN else "normal")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_title(TITLES[metric], loc="left", fontweight="bold", pad=4)
        axes.set_xlabel("%")
    return canvas.figure


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """One figure for the reference variant."""
    name, heading = f"intervals_{dataset}", f"Metrics with intervals, {title(dataset)}"
    variant = found.matrix.variants[0]
    names = [c for c in found.categories[dataset] if found.by_seed(dataset, variant, c, "pro")]
    if not names:
        yield Skipped(name, heading, f"variant {variant} is not evaluated", dataset)
        return
    if len(names) > 1 and len(names) == len(found.categories[dataset]):
        names.append(MEAN)
    rows = {c: {m: _value(found, dataset, variant, c, m) for m in METRICS} for c in names}
    seeds = len(found.matrix.seeds)
    whiskers = any(v.low is not None for row in rows.values() for v in row.values())
    paper = any(v.paper is not None for row in rows.values() for v in row.values())
    official = any(v.official is not None for row in rows.values() for v in row.values())
    caption = (
        f"Variant {variant} on {title(dataset)}, last checkpoint, exact metrics"
        f"{'' if seeds == 1 else f', mean over {seeds} seeds'}."
    )
    if whiskers:
        caption += (
            f" Bars: {100 * found.matrix.level:g} % interval over the choice of test images"
            f" ({found.matrix.bootstrap} stratified bootstrap resamples; the variation between"
            " trainings is not included)."
        )
    if official:
        caption += (
            " Vertical marks: the paper's protocol (official metrics of the checkpoint that was"
            " best on the test set, where it was kept)."
        )
    if paper:
        caption += " Diamonds: the paper's number."
    count = counted(len(names) - (MEAN in names), "category", "categories")
    caption += f" {count}. Axes do not start at 0."
    yield Drawn(name, heading, caption, bars(rows), dataset)


def _value(found: Results, dataset: str, variant: str, category: str, metric: str) -> Value:
    def percent(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else 100 * value

    stat = with_interval(found, dataset, variant, category, metric)
    low, high = stat.interval or (None, None)
    official = None
    for protocol in (OFFICIAL_BEST, OFFICIAL_LAST):
        if official is None:
            official = percent(
                found.stat(dataset, variant, category, under(protocol, metric)).value
            )
    published = number(dataset, category, metric)
    if category == MEAN and not found.is_whole(dataset):
        published = None
    return Value(
        percent(stat.value), percent(low), percent(high), official,
        None if published is None else published.value,
    )  # fmt: skip
