"""Test images above their heat maps, with outlines, for the report and the stage `evaluate`.

Also the choice of the images that the stage `evaluate` shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from realnet.plots import style

SIDE, GAP, TOP, WORDS = 0.3, 0.03, 0.02, 0.4  # inches
HEADING = 0.5  # inches: height of title, note and colour bar
TILE, LARGE_TILE = 0.95, 1.5  # inches, at most
FOUND = "#ff3d9a"  # the contour of the prediction


class Tile(NamedTuple):
    """A test image: uint8 ``[h, w, 3]``, or None where its file is not available; mask bool
    ``[S, S]`` or None; margin float ``[S, S]``; caption ``<bold>: <text>`` or ``<text>``; colour
    scale; margin at which the prediction is outlined, or None."""

    image: np.ndarray | None
    mask: np.ndarray | None
    margin: np.ndarray
    words: str
    scale: Normalize
    threshold: float | None = None


class Heading(NamedTuple):
    """Title and note above the panels; ``scale`` and ``unit`` of the colour bar."""

    title: str
    note: str
    scale: Normalize
    unit: str


@style.styled
def heat_map_panels(
    rows: Mapping[str, Sequence[Tile]], heading: Heading | None = None, most: float = TILE
) -> Figure:
    """Row name -> its tiles: each image above its heat map, with the outline of the mask.

    ``most``: largest side of an image, inches.
    """
    longest = max(len(tiles) for tiles in rows.values())
    tile = min((style.WIDTH - SIDE - 0.05) / longest - GAP, most)
    block = WORDS + 2 * (tile + GAP) + 0.06
    start = TOP + (HEADING if heading else 0)
    canvas = style.Canvas(start + len(rows) * block)
    if heading:
        _heading(canvas, heading)
    for row, (name, tiles) in enumerate(rows.items()):
        top = start + row * block
        height = 2 * (tile + GAP)
        canvas.text(*(SIDE / 2, top + WORDS + height / 2, style.fitted(name, height)), rotation=90,
                    ha="center", va="center", fontweight="bold", linespacing=1.0)  # fmt: skip
        for column, one in enumerate(tiles):
            left = SIDE + column * (tile + GAP)
            _captions(canvas, one.words, left, top + WORDS, tile)
            upper = (left, top + WORDS, tile, tile)
            lower = (left, top + WORDS + tile + GAP, tile, tile)
            canvas.picture(*upper, one.image, "no image")
            canvas.picture(*lower, one.margin, cmap=style.HEAT, norm=one.scale)
            if one.mask is not None:
                if one.image is not None:
                    canvas.outline(*upper, one.mask)
                canvas.outline(*lower, one.mask)
            if one.threshold is not None and one.image is not None:
                _prediction(canvas, upper, one.margin, one.threshold)
    return canvas.figure


def _captions(canvas: style.Canvas, words: str, left: float, bottom: float, tile: float) -> None:
    """Write the bold part of a caption above the rest."""
    bold, _, text = words.rpartition(": ")
    text = style.wrapped(text.replace("_", " "), tile + 0.04)
    canvas.text(left + tile / 2, bottom - 0.03, text, va="bottom", ha="center",
                fontsize=style.SMALL, linespacing=0.95, color=style.FAINT)  # fmt: skip
    above = bottom - 0.04 - 0.107 * (text.count("\n") + 1)
    canvas.text(left + tile / 2, above, bold, va="bottom", ha="center",
                fontsize=style.SMALL, fontweight="bold")  # fmt: skip


def _prediction(
    canvas: style.Canvas,
    place: tuple[float, float, float, float],
    margin: np.ndarray,
    threshold: float,
) -> None:
    """Draw the contour margin = ``threshold`` over an image in the same place."""
    if not margin.min() <= threshold < margin.max():  # else matplotlib warns of an empty contour
        return
    left, top, width, height = place
    x = left + (np.arange(margin.shape[1]) + 0.5) * width / margin.shape[1]
    y = top + (np.arange(margin.shape[0]) + 0.5) * height / margin.shape[0]
    for colour, line in (("white", 1.8), (FOUND, 1.1)):
        canvas.sheet.contour(x, y, margin, levels=[threshold], colors=[colour], linewidths=line)


def _heading(canvas: style.Canvas, heading: Heading) -> None:
    canvas.text(SIDE, 0.06, heading.title, fontsize=style.TITLE, fontweight="bold")
    canvas.text(SIDE, 0.26, heading.note, fontsize=style.SMALL, color=style.FAINT)
    cax = canvas.axes(canvas.width - 1.4, 0.2, 1.3, 0.09)
    bar = canvas.figure.colorbar(
        ScalarMappable(heading.scale, style.HEAT), cax=cax, orientation="horizontal", extend="both"
    )
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=style.SMALL, width=0.4, length=2, colors=style.FAINT)
    canvas.text(canvas.width - 0.75, 0.03, heading.unit, fontsize=style.SMALL, ha="center",
                color=style.FAINT)  # fmt: skip


def heat_scale(margins: np.ndarray) -> Normalize:
    """One colour scale for many maps: from the median (background) to the 99.8th percentile.

    Percentiles instead of extremes, so that a single pixel does not darken all maps. Margins
    instead of probabilities, which saturate.
    """
    finite = margins[np.isfinite(margins)]
    if not finite.size:
        return Normalize(0.0, 1.0)
    low, high = np.percentile(finite, (50, 99.8)).tolist()
    return Normalize(low, max(high, low + 1e-3))


# --- the figure of one evaluation ----------------------------------------------------------------


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
    pixel_labelled: np.ndarray | None = None  # bool [N], whether it has a ground truth; None: all

    def __post_init__(self) -> None:
        count, size = len(self.images), self.images.shape[1:3]
        parts = (self.masks, self.separation, self.scores, self.labels, self.names)
        given = (self.margins, *parts, self.pixel_labelled)
        lengths = {len(part) for part in given if part is not None}
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
    hand. Without masks there is no outline of ground truth, and defective images are ordered by
    image score: "worst" are the images that would be missed. Images without pixel ground truth
    beside others that have one are a group of their own, by image score, highest first.

    All heat maps share one scale, :func:`heat_scale`. The second contour is margin = ``threshold``
    (0: probability 1/2, the model's own decision boundary, not tuned on the test set; None: no
    contour). ``unit``: unit of the margins.

    Returns a figure outside pyplot's state; save it with :func:`realnet.plots.style.save_figure`.
    """
    separation = shown.separation
    rank = shown.scores if shown.masks is None or separation is None else separation
    scale = heat_scale(shown.margins)
    labelled = np.ones(len(shown.images), bool)
    if shown.masks is not None and shown.pixel_labelled is not None:
        labelled = shown.pixel_labelled

    def tile(index: int) -> Tile:
        numbers = f"score {shown.scores[index]:.3g}"
        if separation is not None and np.isfinite(separation[index]):
            numbers += f", sep. {separation[index]:.3f}"
        return Tile(
            image=shown.images[index],
            mask=None if shown.masks is None or not labelled[index] else shown.masks[index],
            margin=shown.margins[index],
            words=f"{numbers}: {shown.names[index]}",
            scale=scale,
            threshold=threshold,
        )

    groups = _choose(rank, shown.scores, np.asarray(shown.labels) > 0, n, labelled)
    rows = {name: [tile(index) for index in indices] for name, indices in groups.items()}
    outlines = ["no masks" if shown.masks is None else "blue: ground truth"]
    outlines += [] if threshold is None else [f"pink: margin > {threshold:g}"]
    by = "image score" if rank is shown.scores else "separation (sep.)"
    note = f"{', '.join(outlines)}; defective images ordered by {by}"
    return heat_map_panels(rows, Heading(title, note, scale, unit), LARGE_TILE)


def _choose(
    rank: np.ndarray,
    scores: np.ndarray,
    defective: np.ndarray,
    n: int,
    labelled: np.ndarray | None = None,
) -> dict[str, list[int]]:
    """Image indices of each non-empty group; ties keep the order of the files.

    ``rank`` orders the defective images that are ``labelled`` (None: all), ``scores`` the others.
    """
    # A defect that vanished at this resolution has no separation: it ranks last.
    rank = np.where(np.isfinite(rank), rank, -1.0)
    ranked = defective if labelled is None else defective & labelled
    best_first = [i for i in np.argsort(-rank, kind="stable").tolist() if ranked[i]]
    total = len(best_first)
    best = best_first[: min(n, -(-total // 3))]
    worst = best_first[len(best) :][::-1][:n]
    between = best_first[len(best) : total - len(worst)]
    start = max(0, (len(between) - n) // 2)
    by_score = np.argsort(-scores, kind="stable").tolist()
    alarms = [i for i in by_score if not defective[i]][:n]
    bare = [i for i in by_score if defective[i] and not ranked[i]][:n]
    groups = {
        "Best": best,
        "Median": between[start : start + n],
        "Worst": worst,
        "No mask": bare,
        "Nearest false alarms": alarms,
    }
    return {name: indices for name, indices in groups.items() if indices}
