"""Cost of each variant by stage, against its metrics."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from realnet.core.io import read_json
from realnet.plots import style
from realnet.plots.chain import STAGES, chains
from realnet.plots.made import Drawn, Entry, Skipped, counted
from realnet.tables.published import title
from realnet.tables.resamples import with_interval
from realnet.tables.result_tables import TITLES
from realnet.tables.runs import MEAN, METRICS, Results

STAGE_COLOURS = dict(zip(STAGES, ("#555555", "#0072b2", "#8c6d31", "#56b4e9", "#009e73", "#e69f00",
                                  "#cc79a7", "#d55e00"), strict=True))  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """The cost of one variant: seconds per evaluation by stage, peak memory (MiB), and metric ->
    (percent, low, high); low and high are None without interval."""

    seconds: Mapping[str, float]
    memory: float | None
    metrics: Mapping[str, tuple[float, float | None, float | None]]
    cells: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@style.styled
def cost_figure(costs: Mapping[str, Cost], variants: list[str]) -> Figure:
    """Above: metrics against seconds per evaluation; below: those seconds by stage, and memory."""
    shown = [v for v in variants if v in costs]
    columns = style.columns_for(shown, extra=0.4)
    head = 0.3 + 0.17 * -(-len(shown) // columns)
    gap, left, height = 0.42, 0.42, 1.55
    width = (style.WIDTH - left - 0.08 - 2 * gap) / 3
    side = style.margin(shown, 0.4)
    below = head + height + 0.62
    tall = 0.19 * len(shown) + 0.08
    canvas = style.Canvas(below + 0.2 + tall + 0.36)
    most = max(cost.total for cost in costs.values())
    scale, unit = next((s, u) for s, u, top in
                       ((3600, "hours", 3 * 3600), (60, "minutes", 180), (1, "seconds", 0))
                       if most >= top)  # fmt: skip
    canvas.legend(style.variant_handles(variants, markers=True, only=shown), 0.05, ncols=columns)
    apart = _apart({v: costs[v].total for v in shown}, most * 0.022)
    for k, metric in enumerate(METRICS):
        axes = canvas.axes(left + k * (width + gap), head, width, height)
        for variant, x in apart.items():
            if metric not in costs[variant].metrics:
                continue
            index = variants.index(variant)
            value, low, high = costs[variant].metrics[metric]
            bars = None
            if low is not None and high is not None:
                bars = [[max(0, value - low)], [max(0, high - value)]]
            axes.errorbar(x / scale, value, yerr=bars, fmt=style.marker(index), mec="white",
                          ms=5.5 * style.size(index),
                          color=style.colour(index), mew=0.5, elinewidth=0.9,
                          zorder=4 if index == 0 else 3)  # fmt: skip
        if not axes.has_data():
            axes.text(0.5, 0.5, "undefined", ha="center", va="center", color=style.FAINT,
                      fontsize=style.SMALL, transform=axes.transAxes)  # fmt: skip
        axes.set_xlim(0, 1.05 * max(most, *apart.values()) / scale)
        axes.set_title(f"{TITLES[metric]}, %", loc="left", fontweight="bold", pad=5)
        axes.set_xlabel(f"{unit} per evaluation")
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.grid()

    memory = any(cost.memory is not None for cost in costs.values())
    wide = style.WIDTH - side - 0.1 - (1.75 if memory else 0)
    stages = [s for s in STAGES if any(cost.seconds.get(s, 0) > 0 for cost in costs.values())]
    patches = [Patch(color=STAGE_COLOURS[s], label=s) for s in stages]
    canvas.legend(patches, below - 0.12, left=side, ncols=len(patches), handlelength=0.8,
                  fontsize=style.SMALL, columnspacing=0.9)  # fmt: skip
    axes = canvas.axes(side, below + 0.12, wide, tall)
    for y, variant in enumerate(shown):
        start = 0.0
        for stage in stages:
            seconds = costs[variant].seconds.get(stage, 0) / scale
            axes.barh(y, seconds, 0.66, left=start, color=STAGE_COLOURS[stage], lw=0)
            start += seconds
    axes.set(ylim=(len(shown) - 0.45, -0.55), xlabel=f"{unit} per evaluation, by stage")
    axes.set_xlim(0, 1.04 * most / scale)
    axes.set_yticks(range(len(shown)), [style.name(v) for v in shown])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    if memory:
        axes = canvas.axes(style.WIDTH - 1.6, below + 0.12, 1.5, tall)
        values = [(costs[v].memory or 0) / 1024 for v in shown]
        axes.barh(range(len(shown)), values, 0.66, color="#9a9a9a", lw=0)
        axes.set(ylim=(len(shown) - 0.45, -0.55), yticks=[], xlabel="peak memory, GiB")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.grid(axis="x")
    return canvas.figure


def _apart(totals: Mapping[str, float], least: float) -> dict[str, float]:
    """The totals, moved to the right where markers would overlap, at least ``least`` apart."""
    moved: dict[str, float] = {}
    last = -least
    for variant in sorted(totals, key=totals.__getitem__):
        last = max(totals[variant], last + least)
        moved[variant] = last
    return moved


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """One figure, from ``stage.json`` of the chains of all evaluations."""
    name, heading = f"cost_{dataset}", f"Cost against quality, {title(dataset)}"
    folders: dict[str, list[dict[str, Path]]] = {}
    for run, stages in chains(found, results, dataset).items():
        if "evaluate" in stages:
            folders.setdefault(run.variant, []).append(stages)
    costs = {}
    for variant in found.matrix.variants:
        if variant in folders:
            costs[variant] = _cost(found, dataset, variant, folders[variant])
    if not costs or not any(cost.total for cost in costs.values()):
        yield Skipped(name, heading, "no stage.json beside the evaluations", dataset)
        return
    devices = sorted({
        str(read_json(place / "stage.json").get("device", "?"))
        for chained in folders.values() for stages in chained for place in stages.values()
    })  # fmt: skip
    count = counted(len(found.categories[dataset]), "category", "categories")
    interval = (
        f" Whiskers: {100 * found.matrix.level:g} % interval over the choice of test images."
        if any(low is not None for cost in costs.values() for _, low, _ in cost.metrics.values())
        else ""
    )
    caption = (
        f"Wall-clock seconds per evaluation on {title(dataset)} ({count},"
        f" {counted(len(found.matrix.seeds), 'seed')}; device {', '.join(devices)}) against the"
        " metrics, mean over seeds and categories."
        f"{interval} The seconds include every stage that a variant's evaluations depend on,"
        " divided by the number of evaluations. A stage that several evaluations of a variant"
        " share (the backbone; a diffusion model of the whole dataset) is counted once; one that"
        " variants share is counted in full for each of them. Above, markers of equal cost are"
        " drawn slightly apart. Memory: the largest resident memory of any stage."
    )
    yield Drawn(name, heading, caption, cost_figure(costs, list(found.matrix.variants)), dataset)


def _cost(found: Results, dataset: str, variant: str, chained: list[dict[str, Path]]) -> Cost:
    seconds: dict[str, float] = {}
    memory = []
    for stage, place in {pair for stages in chained for pair in stages.items()}:
        record = read_json(place / "stage.json")
        seconds[stage] = seconds.get(stage, 0.0) + float(record.get("wall_s") or 0.0)
        if record.get("peak_memory_mb"):
            memory.append(record["peak_memory_mb"])
    metrics = {}
    for metric in METRICS:
        stat = with_interval(found, dataset, variant, MEAN, metric)
        if stat.value is not None and not math.isnan(stat.value):
            low, high = stat.interval or (None, None)
            metrics[metric] = (
                100 * stat.value,
                None if low is None else 100 * low,
                None if high is None else 100 * high,
            )
    return Cost(
        {stage: seconds[stage] / len(chained) for stage in STAGES if stage in seconds},
        max(memory, default=None),
        metrics,
        len(chained),
    )
