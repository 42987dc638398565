"""The two pictures of a report: metrics at a glance, and what the heat maps look like."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from realnet.errors import UserError
from realnet.evaluation.figures import (
    FAINT,
    INK,
    bare,
    heat_scale,
    show_heat,
    show_image,
    show_mask,
)
from realnet.evaluation.metrics import image_separation
from realnet.reporting.collect import MEAN, METRICS, Results
from realnet.reporting.tables import TITLES

# Okabe-Ito: told apart by colour-blind readers; the reference variant comes first, in blue.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d31", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

ARRAYS = ("margins", "masks", "labels", "paths", "defects")
PICTURE = 256  # pixels, longest side of an input in the overview
TILE, GAP, CATEGORY_GAP = 1.45, 0.05, 0.2  # inches


def summary(results: Results, paper: dict[str, dict[str, Any]]) -> Figure:
    """Dots: one panel per metric, one row per category and for the mean, one colour per variant.

    Bars show +- one standard deviation over seeds; a hollow diamond is the paper's mean. The axis
    starts below the smallest value, since all the interest is near 100: compare dots, not lengths.
    """
    variants = results.matrix.variants
    rows: list[tuple[str, str] | None] = []  # None: a gap between data sets
    for dataset in results.matrix.datasets:
        rows += [None] if rows else []
        rows += [(dataset, category) for category in results.rows(dataset)]
    step = max(0.36, 0.13 * len(variants) + 0.1)
    legend_lines = -(-(len(variants) + 1) // 6)
    height = 1.25 + 0.25 * legend_lines + step * len(rows)
    figure = Figure(figsize=(10.5, height), facecolor="white")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    spread = 0.62 if len(variants) > 1 else 0.0
    for panel, metric in zip(panels, METRICS, strict=True):
        smallest = 1.0
        for y, row in enumerate(rows):
            if row is None:
                continue
            dataset, category = row
            if category == MEAN:
                panel.axhspan(y - 0.5, y + 0.5, color="#f1f3f5", zorder=0, linewidth=0)
            for index, variant in enumerate(variants):
                stat = results.stat(dataset, variant, category, metric)
                if stat.value is None or math.isnan(stat.value):
                    continue
                smallest = min(smallest, stat.value - (stat.std or 0))
                offset = (index / max(len(variants) - 1, 1) - 0.5) * spread
                panel.errorbar(
                    100 * stat.value,
                    y + offset,
                    xerr=None if stat.std is None else 100 * stat.std,
                    fmt=MARKERS[index % len(MARKERS)],
                    color=COLOURS[index % len(COLOURS)],
                    markersize=6.5 if index == 0 else 5.5,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                    elinewidth=1.2,
                    zorder=4 if index == 0 else 3,
                )
            published = paper.get(dataset, {}).get(metric) if category == MEAN else None
            if published is not None:
                smallest = min(smallest, published / 100)
                panel.plot(
                    *(published, y), marker="d", color=INK, fillstyle="none", markersize=8, zorder=5
                )
        _axis(panel, TITLES[metric], smallest)
    labels = ["" if row is None else row[1] for row in rows]
    panels[0].set_yticks(range(len(rows)), labels)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for tick, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row and row[1] == MEAN else "normal")
    several = len(results.matrix.datasets) > 1
    for dataset in results.matrix.datasets if several else ():
        first = rows.index((dataset, results.rows(dataset)[0]))
        panels[0].text(
            *(0.0, first - 0.55, dataset), transform=panels[0].get_yaxis_transform(),
            ha="left", va="bottom", fontsize=8, fontweight="bold", color=FAINT,
        )  # fmt: skip
    _legend(figure, results, paper, height)
    figure.subplots_adjust(
        left=0.14,
        right=0.985,
        wspace=0.08,
        bottom=0.45 / height,
        top=1 - (0.85 + 0.25 * legend_lines) / height,
    )
    return figure


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


def _legend(figure: Figure, results: Results, paper: dict, height: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], label=variant,
               color=COLOURS[i % len(COLOURS)], markersize=6.5, markeredgecolor="white")
        for i, variant in enumerate(results.matrix.variants)
    ]  # fmt: skip
    if any(dataset in paper for dataset in results.matrix.datasets):
        handles.append(
            Line2D([], [], linestyle="", marker="d", label="paper", color=INK,
                   fillstyle="none", markersize=7)
        )  # fmt: skip
    seeds = len(results.matrix.seeds)
    names = ", ".join(results.matrix.datasets)
    error = "" if seeds == 1 else f" · mean ± std over {seeds} seeds"
    figure.text(
        *(0.015, 1 - 0.14 / height, f"{names} · last checkpoint{error}"),
        va="top", fontsize=12, fontweight="bold", color=INK,
    )  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.01, 1 - 0.36 / height), ncols=6,
        frameon=False, fontsize=9, handletextpad=0.2, columnspacing=1.4, borderpad=0.2,
    )  # fmt: skip


# --- overview ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strip:
    """One column of the overview."""

    category: str
    defect: str
    image: np.ndarray | None  # uint8 [h, w, 3]; None where the file is not on this machine
    mask: np.ndarray  # bool [S, S]
    margin: np.ndarray  # float32 [S, S]
    scale: Any  # of the category


def overview(results: Results) -> tuple[Figure | None, list[str]]:
    """Input, ground truth and heat map of typical defective test images, category by category.

    Reference variant, first seed, from ``scores.npz`` beside the metrics files and the images that
    it names. Per category, of the defective images ordered by
    :func:`realnet.evaluation.metrics.image_separation`, those at 1/3 and 2/3 (one at 1/2 with more
    than four categories): neither the best nor the worst; the second of another defect type where
    there is one. One heat scale per category.

    Returns the figure (None where no category has scores) and the paths that were not found.
    """
    strips: list[list[Strip]] = []
    absent: list[str] = []
    several = sum(map(len, results.categories.values())) > 4
    for cell, path in results.files.items():
        first = (results.matrix.seeds[0], results.matrix.variants[0])
        if (cell.seed, cell.variant) != first or cell not in results.cells:
            continue
        scores = path.with_name("scores.npz")
        if not scores.is_file():
            absent.append(str(scores))
            continue
        chosen = _strips(scores, cell.category, (0.5,) if several else (1 / 3, 2 / 3))
        absent += [missing for _, missing in chosen if missing]
        if chosen:
            strips.append([strip for strip, _ in chosen])
    return (_draw(strips) if strips else None), absent


def _strips(path: Path, category: str, places: tuple[float, ...]) -> list[tuple[Strip, str]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {key: file[key] for key in ARRAYS}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a scores file of the evaluation ({error})") from None
    separation = image_separation(data["margins"], data["masks"])
    ranking = [i for i in np.argsort(separation, kind="stable").tolist() if separation[i] >= 0]
    seen: Counter[str] = Counter()
    result = []
    scale = heat_scale(data["margins"])
    for place in places[: len(ranking)]:
        target = place * (len(ranking) - 1)
        # Nearest to the place in the ranking, among the defect types shown least so far.
        defects = data["defects"]
        chosen = min(
            range(len(ranking)),
            key=lambda rank: (seen[str(defects[ranking[rank]])], abs(rank - target), rank),
        )
        index = ranking.pop(chosen)
        defect, file = str(defects[index]), str(data["paths"][index])
        seen[defect] += 1
        image = _picture(Path(file))
        strip = Strip(category, defect, image, data["masks"][index], data["margins"][index], scale)
        result.append((strip, "" if image is not None else file))
    return result


def _picture(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    from realnet.data.images import read_image

    image = Image.fromarray(read_image(path))
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _draw(categories: list[list[Strip]]) -> Figure:
    """Bands of categories, each three rows high."""
    per_band = max(1, 8 // max(len(strips) for strips in categories))
    bands = [categories[i : i + per_band] for i in range(0, len(categories), per_band)]

    def band_width(band: list[list[Strip]]) -> float:
        inside = sum(len(strips) * (TILE + GAP) - GAP for strips in band)
        return inside + (len(band) - 1) * CATEGORY_GAP

    side, head, foot = 0.3, 0.3, 0.26
    band_height = head + 3 * TILE + 2 * GAP + foot
    width = side + max(map(band_width, bands)) + 0.05
    height = len(bands) * band_height
    figure = Figure(figsize=(width, height), facecolor="white")
    for number, band in enumerate(bands):
        top = number * band_height + head
        for row, name in enumerate(("input", "ground truth", "heat map")):
            y = top + row * (TILE + GAP) + TILE / 2
            figure.text(
                *(side * 0.5 / width, 1 - y / height, name),
                rotation=90, ha="center", va="center", fontsize=9, color=FAINT,
            )  # fmt: skip
        left = side
        for strips in band:
            figure.text(
                *(left / width, 1 - (top - 0.08) / height, strips[0].category),
                ha="left", va="bottom", fontsize=11, fontweight="bold", color=INK,
            )  # fmt: skip
            for strip in strips:
                for row in range(3):
                    y = top + row * (TILE + GAP)
                    axes = figure.add_axes(
                        (left / width, 1 - (y + TILE) / height, TILE / width, TILE / height)
                    )
                    _tile(axes, row, strip)
                y = top + 3 * TILE + 2 * GAP + 0.04
                figure.text(
                    *((left + TILE / 2) / width, 1 - y / height, strip.defect.replace("_", " ")),
                    ha="center", va="top", fontsize=8.5, color=FAINT,
                )  # fmt: skip
                left += TILE + GAP
            left += CATEGORY_GAP - GAP
    return figure


def _tile(axes: Any, row: int, strip: Strip) -> None:
    if row == 1:
        show_mask(axes, strip.mask)
    elif row == 2:
        show_heat(axes, strip.margin, strip.scale)
    elif strip.image is not None:
        show_image(axes, strip.image)
    else:
        axes.set_facecolor("#eeeeee")
        axes.text(0.5, 0.5, "image not\non this machine", ha="center", va="center",
                  fontsize=7, color=FAINT, transform=axes.transAxes)  # fmt: skip
        bare(axes)
