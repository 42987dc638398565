"""Training losses: of one run, beside its results, and of all variants and seeds in the report."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from realnet.core.io import read_csv
from realnet.plots import style
from realnet.plots.chain import chains
from realnet.plots.made import Drawn, Entry, Skipped, paged, part_of
from realnet.tables.published import title
from realnet.tables.runs import Results

PER_PAGE, POINTS = 6, 120
PANELS = (
    ("ddpm", "loss", "diffusion model"),
    ("realnet", "loss_segmentation", "segmentation"),
    ("realnet", "loss_reconstruction", "reconstruction"),
)


class Loss(NamedTuple):
    """A shortened history: steps, moving mean, and minimum and maximum of the raw values in each
    interval of steps; float ``[points]``."""

    steps: np.ndarray
    smooth: np.ndarray
    low: np.ndarray
    high: np.ndarray


def shortened(steps: np.ndarray, values: np.ndarray) -> Loss:
    """At most ``POINTS`` intervals of equal length; the mean over 1/30 of the steps around each."""
    keep = np.isfinite(values)
    steps, values = steps[keep], values[keep]
    edges = np.unique(np.linspace(0, len(values), min(POINTS, len(values)) + 1).astype(int))
    half = max(1, len(values) // 60)
    sums = np.r_[0.0, np.cumsum(values)]
    middle = (edges[:-1] + edges[1:]) // 2
    left, right = np.maximum(middle - half, 0), np.minimum(middle + half, len(values))
    return Loss(
        steps[np.minimum(middle, len(steps) - 1)],
        (sums[right] - sums[left]) / (right - left),
        np.minimum.reduceat(values, edges[:-1]),
        np.maximum.reduceat(values, edges[:-1]),
    )


def draw_loss(axes: Axes, loss: Loss, index: int = 0) -> None:
    """The loss of one run, in the colour of its variant; the range of the raw values only for the
    first three variants, since more bands hide each other."""
    colour = style.colour(index)
    if index < 3:
        axes.fill_between(loss.steps, loss.low, loss.high, color=colour, lw=0, alpha=0.12)
    axes.plot(loss.steps, loss.smooth, color=colour, ls=style.dash(index), lw=0.9,
              zorder=4 if index == 0 else 3)  # fmt: skip


def _scale(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="y")


# --- one run -------------------------------------------------------------------------------------


@style.styled
def training_curves(
    title: str, losses: Mapping[str, Loss], accuracy: Mapping[int, float] | None = None
) -> Figure:
    """Panels side by side: each named loss, and the training accuracy at each timestep."""
    side, gap, top, height = 0.5, 0.5, 0.55, 1.9
    count = len(losses) + (accuracy is not None)
    width = (style.WIDTH - side - 0.1 - (count - 1) * gap) / count
    canvas = style.Canvas(top + height + 0.4)
    canvas.text(0.05, 0.05, title, fontsize=style.TITLE, fontweight="bold")
    panels = [canvas.axes(side + k * (width + gap), top, width, height) for k in range(count)]
    for axes, (name, loss) in zip(panels, losses.items(), strict=False):
        draw_loss(axes, loss)
        _scale(axes)
        axes.set_title(name, pad=5)
        axes.set_xlabel("step")
    if accuracy is not None:
        axes = panels[-1]
        axes.plot(list(accuracy), list(accuracy.values()), color=style.COLOURS[0], marker="o", ms=4)
        axes.set(xlabel="timestep (noise)", ylim=(0, 1.05))
        axes.set_title("training accuracy", pad=5)
        axes.grid(axis="y")
    return canvas.figure


def write_training_curves(
    path: Path,
    title: str,
    history: Sequence[Mapping[str, float]],
    columns: Mapping[str, str],
    accuracy: Mapping[int, float] | None = None,
) -> None:
    """Write :func:`training_curves` of a stage; ``columns``: column of the history -> its name."""
    steps = np.array([row["step"] for row in history])
    losses = {
        name: shortened(steps, np.array([row[column] for row in history]))
        for column, name in columns.items()
    }
    style.save_figure(path, training_curves(title, losses, accuracy))


# --- the report ----------------------------------------------------------------------------------


@style.styled
def loss_grid(
    cells: Mapping[str, Mapping[str, Mapping[str, Sequence[Loss]]]], variants: Sequence[str]
) -> Figure:
    """Category -> variant -> panel (its name in PANELS) -> losses, one per seed."""
    used = [v for v in variants if any(v in per for per in cells.values())]
    columns = style.columns_for(used)
    head = 0.3 + 0.17 * -(-len(used) // columns)
    side, gap, height = 0.72, 0.42, 1.05
    step = height + 0.32
    panels = [p for p in PANELS if any(
        found.get(p[2]) for per in cells.values() for found in per.values())]  # fmt: skip
    width = (style.WIDTH - side - 0.1 - (len(panels) - 1) * gap) / len(panels)
    canvas = style.Canvas(head + len(cells) * step + 0.08)
    canvas.legend(style.variant_handles(variants, only=used), 0.05, ncols=columns)
    for row, (category, per) in enumerate(cells.items()):
        top = head + row * step
        canvas.text(*(0.12, top + height / 2, style.fitted(category, height)), rotation=90,
                    ha="center", va="center", fontweight="bold", linespacing=1.0)  # fmt: skip
        for column, (_, _, name) in enumerate(panels):
            axes = canvas.axes(side + column * (width + gap), top, width, height)
            drawn = False
            for index in reversed(range(len(variants))):
                for loss in per.get(variants[index], {}).get(name, ()):
                    drawn = True
                    draw_loss(axes, loss, index)
            if row == 0:
                axes.set_title(name, fontweight="bold", pad=5)
            if not drawn:
                axes.text(0.5, 0.5, "no data", ha="center", va="center", color=style.FAINT,
                          fontsize=style.SMALL, transform=axes.transAxes)  # fmt: skip
                axes.set(xticks=[], yticks=[])
                continue
            _scale(axes)
            if row == len(cells) - 1:
                axes.set_xlabel("step")
    return canvas.figure


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """Pages, from ``history.csv`` of the stages `ddpm` and `realnet`."""
    name, heading = f"losses_{dataset}", f"Training losses, {title(dataset)}"
    variants = found.matrix.variants[:8]
    cells: dict[str, dict[str, dict[str, list[Loss]]]] = {}
    seen: set[tuple[str, Path, str]] = set()
    for run, stages in chains(found, results, dataset).items():
        if run.variant not in variants:
            continue
        for stage, key, panel in PANELS:
            path = stages.get(stage, Path()) / "history.csv"
            # A training that variants share is drawn once, for the first of them.
            if stage not in stages or not path.is_file() or (run.category, path, key) in seen:
                continue
            seen.add((run.category, path, key))
            rows = [row for row in read_csv(path) if row.get(key)]
            if len(rows) > 1:
                history = [np.array([float(r[c]) for r in rows]) for c in ("step", key)]
                per = cells.setdefault(run.category, {}).setdefault(run.variant, {})
                per.setdefault(panel, []).append(shortened(*history))
    if not cells:
        yield Skipped(name, heading, "no history.csv of a training", dataset)
        return
    order = [c for c in found.categories[dataset] if c in cells]
    parts = style.pages(order, PER_PAGE)
    for page, names in enumerate(parts):
        caption = (
            f"Training losses on {title(dataset)}, every variant"
            f"{'' if len(found.matrix.seeds) == 1 else ' and seed'} that was trained; a training"
            " that variants share is drawn for the first of them. Lines: mean over 1/30 of the"
            " steps; bands (first three variants): range of the raw losses. The logarithmic"
            " vertical axes differ between panels."
        )
        yield Drawn(
            *(paged(name, page), heading + part_of(page, len(parts)), caption),
            loss_grid({c: cells[c] for c in names}, variants), dataset,
        )  # fmt: skip
