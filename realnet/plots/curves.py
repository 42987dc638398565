"""ROC, precision-recall and PRO curves per category, of all variants."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.plots import style
from realnet.plots.made import Drawn, Entry, Skipped, arrays, counted, paged, part_of
from realnet.tables.published import title
from realnet.tables.runs import Results, complete

PER_PAGE, LIMIT = 6, 0.3
PANELS = (
    ("image_roc", "image ROC", "false positive rate", "true positive rate"),
    ("roc", "pixel ROC", "false positive rate", "true positive rate"),
    ("pr", "pixel precision-recall", "recall", "precision"),
    ("pro", "PRO", "false positive rate", "per-region overlap"),
)
# Denser at small rates, where the curves bend most.
PLACES = np.unique(np.concatenate([[0.0], np.geomspace(1e-4, 1, 120), np.linspace(0, 1, 121)]))
Curve = tuple[np.ndarray, np.ndarray]


def mean_curve(curves: Sequence[Curve], rate: bool) -> Curve | None:
    """The mean of the curves over seeds at equal x; a single curve unchanged; None if all empty.

    rate: the curves start at (0, 0), as those over a false positive rate do.
    """
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return None
    if rate:
        curves = [(np.r_[0.0, x], np.r_[0.0, y]) for x, y in curves]
    if len(curves) == 1:
        return curves[0]
    sorted_ = [(x[o], y[o]) for x, y in curves for o in [np.argsort(x, kind="stable")]]
    return PLACES, np.mean([np.interp(PLACES, x, y) for x, y in sorted_], axis=0)


@style.styled
def curve_grid(
    cells: Mapping[str, Mapping[str, Mapping[str, Sequence[Curve]]]],
    variants: Sequence[str],
    values: Mapping[tuple[str, str], float] | None = None,
    limit: float = LIMIT,
) -> Figure:
    """Category -> variant -> curve (as in PANELS) -> one per seed.

    values: (category, curve) -> area of the first variant, printed in its panel; limit: the false
    positive rate up to which the area of PRO counts.
    """
    side, gap, head = 0.66, 0.42, 0.3
    columns = style.columns_for(variants)
    lines = -(-len(variants) // columns)
    head += 0.17 * lines
    width = (style.WIDTH - side - 0.08 - 3 * gap) / 4
    height, step = 1.08, 1.08 + 0.2
    canvas = style.Canvas(head + len(cells) * step + 0.2)
    canvas.legend(style.variant_handles(variants), 0.05, ncols=columns)
    for row, (category, found) in enumerate(cells.items()):
        top = head + row * step
        canvas.text(*(0.12, top + height / 2, style.fitted(category, height)), rotation=90,
                    ha="center", va="center", fontweight="bold", linespacing=1.0)  # fmt: skip
        for column, (key, name, x_name, y_name) in enumerate(PANELS):
            axes = canvas.axes(side + column * (width + gap), top, width, height)
            if key == "pro":
                axes.axvspan(0, limit, color=style.SHADE, lw=0)
            drawn = 0
            for index in reversed(range(len(variants))):
                seeds = found.get(variants[index], {}).get(key, ())
                curve = mean_curve(seeds, rate=key != "pr")
                if curve is not None:
                    drawn += 1
                    axes.plot(
                        *curve,
                        color=style.colour(index),
                        ls=style.dash(index),
                        lw=1.3 if index == 0 else 0.9,
                        zorder=3 if index == 0 else 2,
                    )
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_ylabel(y_name)
            axes.grid()
            if row == 0:
                axes.set_title(name, fontweight="bold", pad=5)
            if row == len(cells) - 1:
                axes.set_xlabel(x_name)
            else:
                axes.set_xticklabels([])
            value = (values or {}).get((category, key))
            corner = {"transform": axes.transAxes, "fontsize": style.SMALL}
            if not drawn:
                axes.text(0.5, 0.5, "undefined", ha="center", va="center", color=style.FAINT,
                          **corner)  # fmt: skip
            elif value is not None:
                # In a corner that neither good ROC curves nor bad precision-recall curves cross.
                left, up = key == "pr" and value > 0.5, key == "pr" and value <= 0.5
                axes.text(
                    0.04 if left else 0.96,
                    0.94 if up else 0.06,
                    f"{100 * value:.1f}",
                    ha="left" if left else "right",
                    va="top" if up else "bottom",
                    color=style.colour(0),
                    **corner,
                )
    return canvas.figure


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """Pages, from ``curves.npz`` of every evaluation."""
    name, heading = f"curves_{dataset}", f"ROC, precision-recall and PRO curves, {title(dataset)}"
    variants = found.matrix.variants[:8]
    cells: dict[str, dict[str, dict[str, list[Curve]]]] = {}
    for run in found.runs:
        if run.dataset != dataset or run.variant not in variants:
            continue
        data = arrays(found.files[run].with_name("curves.npz"))
        if data is None:
            continue
        mine = cells.setdefault(run.category, {}).setdefault(run.variant, {})
        for key, *_ in PANELS:
            mine.setdefault(key, []).append((data[f"{key}_x"], data[f"{key}_y"]))
    if not cells:
        yield Skipped(name, heading, "no curves.npz; run the stage evaluate again", dataset)
        return
    keys = dict(image_roc="image_auroc", roc="pixel_auroc", pr="pixel_ap", pro="pro")
    stats = {}
    for category in cells:
        for key, metric in keys.items():
            value = _mean(found, dataset, category, metric)
            if value is not None:
                stats[category, key] = value
    order = [c for c in found.categories[dataset] if c in cells]
    parts = style.pages(order, PER_PAGE)
    seeds = len(found.matrix.seeds)
    limit = _limit(found, dataset)
    for page, names in enumerate(parts):
        caption = (
            f"Curves of the test images of {title(dataset)}"
            f"{'' if seeds == 1 else f', each the mean over up to {seeds} seeds at equal x'},"
            f" last checkpoint, {counted(len(variants), 'variant')}. Numbers: area of"
            f" {variants[0]} in percent (precision-recall: the average precision; PRO: up to the"
            f" false positive rate {limit:g}, shaded, and divided by it)."
        )
        if len(found.matrix.variants) > len(variants):
            caption += f" The other {len(found.matrix.variants) - len(variants)} are not shown."
        yield Drawn(
            *(paged(name, page), heading + part_of(page, len(parts)), caption),
            curve_grid({c: cells[c] for c in names}, variants, stats, limit), dataset,
        )  # fmt: skip


def _mean(found: Results, dataset: str, category: str, metric: str) -> float | None:
    """The metric of the reference, mean over seeds; None where it is missing or undefined."""
    values = [
        measured.get(metric)
        for run, measured in found.runs.items()
        if (run.dataset, run.category, run.variant) == (dataset, category, found.matrix.variants[0])
    ]
    known = complete(values)
    return float(np.mean(known)) if known else None


def _limit(found: Results, dataset: str) -> float:
    """The PRO limit of the evaluations."""
    from realnet.core.io import read_json

    for run in found.runs:
        record = found.files[run].with_name("stage.json")
        if run.dataset == dataset and record.is_file():
            params = read_json(record).get("params", {}).get("evaluate", {})
            return float(params.get("pro_limit", LIMIT))
    return LIMIT
