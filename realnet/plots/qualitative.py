"""Pictures of what a model finds: test images with ground truth, heat map and contours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

HEAT = "inferno"
TRUTH, FOUND = "#00e5ff", "#ff3d9a"  # contours: ground truth, prediction
INK, FAINT = "#222222", "#777777"
COLUMNS = ("image", "ground truth", "heat map", "contours")

# Layout of the qualitative figure, inches.
TILE, GAP, ROW_TEXT, BLOCK_HEAD, BLOCK_GAP, TOP, BAR = 1.3, 0.05, 0.2, 0.62, 0.4, 0.62, 0.75


@dataclass(frozen=True)
class ScoredImages:
    """N test images and what a model gives for them."""

    images: np.ndarray  # uint8 [N, S, S, 3]
    masks: np.ndarray | None  # bool [N, S, S]; None: the dataset has none
    margins: np.ndarray  # float32 [N, S, S]
    scores: np.ndarray  # float [N], of the images
    labels: np.ndarray  # [N], anomalous where > 0
    names: Sequence[str]  # N short captions, e.g. ``scratch/003``
    separation: np.ndarray | None = None  # float64 [N], see Localisation.separation

    def __post_init__(self) -> None:
        count, size = len(self.images), self.images.shape[1:3]
        parts = (self.masks, self.separation, self.scores, self.labels, self.names)
        lengths = {len(part) for part in (self.margins, *parts) if part is not None}
        if not count or lengths != {count} or size != self.margins.shape[1:]:
            raise ValueError(
                f"{count} images of {size} pixels do not match {sorted(lengths)} maps of"
                f" {self.margins.shape[1:]} pixels, masks, scores, labels and names"
            )


def qualitative(
    shown: ScoredImages,
    n: int,
    threshold: float | None = 0.0,
    unit: str = "logit margin",
    title: str = "Test images",
) -> Figure:
    """Best, median and worst defective test images, and the normal ones closest to a false alarm.

    Defective images are ordered by their separation (their contribution to the pixel AUROC), so
    "worst" is where localisation fails; normal images by image score, highest first. No image is
    shown twice, and fewer than ``n`` in a group where there are not enough. No image is chosen by
    hand. Without masks there is no column of ground truth, and defective images are ordered by
    image score: "worst" are the images that would be missed.

    All heat maps share one scale, :func:`heat_scale`; the contours are the ground truth and margin
    = ``threshold`` (0: probability 1/2, the model's own decision boundary, not tuned on the test
    set; None: ground truth alone). ``unit``: of the margins.

    Returns a figure outside pyplot's state; save it with ``realnet.core.io.save_figure``.
    """
    margins, masks, names, scores = shown.margins, shown.masks, shown.names, shown.scores
    images, image_scores = shown.images, shown.scores
    truth = np.zeros(margins.shape, bool) if masks is None else masks
    separation = np.full(len(images), np.nan) if shown.separation is None else shown.separation
    ranking = ("separation", separation) if masks is not None else ("image score", scores)
    groups = _choose(*ranking, scores, shown.labels > 0, n)
    scale = heat_scale(margins)
    columns = [name for name in COLUMNS if masks is not None or name != "ground truth"]

    across = min(2, len(groups))
    rows = max(len(chosen) for _, _, chosen in groups)
    block_width = len(columns) * (TILE + GAP) - GAP
    block_height = BLOCK_HEAD + rows * (TILE + ROW_TEXT)
    down = -(-len(groups) // across)
    width = across * block_width + (across - 1) * BLOCK_GAP + BAR + 0.2
    height = TOP + down * block_height + (down - 1) * 0.15 + 0.1
    figure = Figure(figsize=(width, height), facecolor="white")

    def axes(left: float, top: float, w: float = TILE, h: float = TILE) -> Axes:
        return figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))

    def text(left: float, top: float, content: str, **style) -> None:
        figure.text(left / width, 1 - top / height, content, **{"va": "top", "color": INK, **style})

    text(0.1, 0.1, title, fontsize=13, fontweight="bold")
    text(0.1, 0.36, "contours: ", fontsize=8, color=FAINT)
    predicted = {"fontsize": 8, "color": FOUND, "fontweight": "bold"}
    line = "" if threshold is None else f"margin > {threshold:g}"
    if masks is not None:
        text(0.66, 0.36, "ground truth", fontsize=8, color="#0097a7", fontweight="bold")
        text(1.62, 0.36, line, **predicted)
    else:
        text(0.66, 0.36, line, **predicted)
        text(1.62, 0.36, "no masks, so no ground truth", fontsize=8, color=FAINT)
    for block, (heading, note, chosen) in enumerate(groups):
        left = 0.1 + (block % across) * (block_width + BLOCK_GAP)
        top = TOP + (block // across) * (block_height + 0.15)
        text(left, top + 0.06, heading, fontsize=10, fontweight="bold")
        text(left + block_width, top + 0.08, note, fontsize=7.5, color=FAINT, ha="right")
        for column, name in enumerate(columns):
            centre = left + column * (TILE + GAP) + TILE / 2
            text(centre, top + 0.42, name, fontsize=8, color=FAINT, ha="center")
        for row, index in enumerate(chosen):
            y = top + BLOCK_HEAD + row * (TILE + ROW_TEXT)
            for column, name in enumerate(columns):
                tile = axes(left + column * (TILE + GAP), y)
                if name == "ground truth":
                    show_mask(tile, truth[index])
                elif name == "heat map":
                    show_heat(tile, margins[index], scale)
                else:
                    show_image(tile, images[index])
                if name == "contours":
                    contours(tile, truth[index], margins[index], threshold)
            caption = f"{names[index]}    score {image_scores[index]:.3g}"
            if np.isfinite(separation[index]):
                caption += f"    separation {separation[index]:.3f}"
            text(left, y + TILE + 0.03, caption, fontsize=7, color=FAINT)
    bar = axes(width - BAR, TOP + BLOCK_HEAD, 0.13, min(3.0, rows * (TILE + ROW_TEXT) - ROW_TEXT))
    colour_bar(figure, bar, scale, unit)
    return figure


def _choose(
    by: str, rank: np.ndarray, scores: np.ndarray, defective: np.ndarray, n: int
) -> list[tuple[str, str, list[int]]]:
    """(heading, note, image indices) of each non-empty group; ties keep the order of the files.

    ``rank`` orders the defective images, ``by`` names it in the notes.
    """
    # A defect that vanished at this resolution has no separation: it belongs to the worst.
    rank = np.where(np.isfinite(rank), rank, -1.0)
    best_first = [i for i in np.argsort(-rank, kind="stable").tolist() if defective[i]]
    total = len(best_first)
    best = best_first[: min(n, -(-total // 3))]
    worst = best_first[len(best) :][::-1][:n]
    between = best_first[len(best) : total - len(worst)]
    start = max(0, (len(between) - n) // 2)
    alarms = [i for i in np.argsort(-scores, kind="stable").tolist() if not defective[i]][:n]
    groups = [
        ("Best", f"highest {by} of {total} defective", best),
        ("Median", "middle of the ranking", between[start : start + n]),
        ("Worst", f"lowest {by}, worst first", worst),
        ("Closest to a false alarm", "normal images, highest scores", alarms),
    ]
    return [group for group in groups if group[2]]


# --- parts, shared with the report's overview ----------------------------------------------------


def heat_scale(margins: np.ndarray) -> Normalize:
    """One colour scale for many maps: from the median (background) to the 99.8th percentile.

    Percentiles rather than extremes, so that one hot pixel does not darken all maps. Margins
    rather than probabilities, since these saturate and hide how sure the model is.
    """
    finite = margins[np.isfinite(margins)]
    if not finite.size:
        return Normalize(0.0, 1.0)
    low, high = np.percentile(finite, (50, 99.8)).tolist()
    return Normalize(low, max(high, low + 1e-3))


def bare(axes: Axes) -> None:
    """No ticks, a hairline frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="#999999")


def show_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="bicubic", aspect="auto")
    bare(axes)


def show_mask(axes: Axes, mask: np.ndarray) -> None:
    axes.imshow(mask, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    bare(axes)


def show_heat(axes: Axes, margin: np.ndarray, scale: Normalize) -> None:
    axes.imshow(margin, cmap=HEAT, norm=scale, interpolation="bicubic", aspect="auto")
    bare(axes)


def contours(axes: Axes, mask: np.ndarray, margin: np.ndarray, threshold: float | None) -> None:
    """Outline of the ground truth and of margin > ``threshold``, over an image already shown."""
    drawn = [(mask.astype(float), 0.5, TRUTH)]
    drawn += [] if threshold is None else [(margin, threshold, FOUND)]
    for values, level, colour in drawn:
        if values.min() <= level < values.max():  # else matplotlib warns of an empty contour
            axes.contour(values, levels=[level], colors=[colour], linewidths=1.0)
    bare(axes)


def colour_bar(figure: Figure, axes: Axes, scale: Normalize, unit: str = "logit margin") -> None:
    bar = figure.colorbar(ScalarMappable(scale, HEAT), cax=axes, extend="both")
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=7, width=0.4, length=2, colors=FAINT)
    bar.set_label(unit, fontsize=8, color=FAINT)
