"""AFS of one category: the ranking of each layer's channels, and their responses to an anomaly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from realnet.plots import style

HEADING = "Score of the channels by rank (×10⁻³, lower is better); selected channels in blue"


@dataclass(frozen=True)
class Ranked:
    """One layer: the score of every channel (lower is better) and the selected channels."""

    scores: np.ndarray  # float [c]
    kept: frozenset[int]


@dataclass(frozen=True)
class Responses:
    """Responses of a layer's channels to one anomaly: its mask and two normalised changes D^."""

    mask: np.ndarray  # bool [S, S]
    best: np.ndarray  # of the channel with the smallest score, float [h, w]
    worst: np.ndarray


@style.styled
def selected_channels(
    title: str, layers: Sequence[Ranked], shown: Mapping[int, Responses]
) -> Figure:
    """The selection of one category. A column per layer: scores by rank, below them the responses
    of its best and worst channel to one anomaly (``shown``: layer -> responses; else blank)."""
    left, gap, top, high = 0.48, 0.22, 0.62, 1.3
    width = min((style.WIDTH - left - 0.1 - (len(layers) - 1) * gap) / len(layers), 2.2)
    side = min(width, 1.4)
    first = top + high + 0.62
    canvas = style.Canvas(first + 3 * (side + 0.2) + 0.02)
    canvas.text(0.04, 0.05, f"{title}: channels that AFS selects", fontweight="bold",
                fontsize=style.TITLE)  # fmt: skip
    canvas.text(0.04, 0.25, HEADING)
    for k, ranked in enumerate(layers):
        x = left + k * (width + gap)
        draw_ranks(canvas.axes(x, top, width, high), k, [ranked])
        pictures = shown.get(k)
        for row, name in enumerate(("mask", "best", "worst")):
            y = first + row * (side + 0.2)
            picture = None if pictures is None else getattr(pictures, name)
            words = "mask of an anomaly" if name == "mask" else f"D̂ of the {name} channel"
            how = {} if picture is None else {"cmap": "gray", "vmin": 0, "interpolation": "nearest"}
            canvas.text(x, y - 0.15, style.fitted(words, width, style.SMALL, 1),
                        fontsize=style.SMALL, color=style.FAINT)  # fmt: skip
            canvas.picture(x, y, side, side, picture, "–", **how)
    return canvas.figure


def draw_ranks(axes: Axes, layer: int, categories: Sequence[Ranked]) -> None:
    """Scores of a layer's channels by rank, a line per category; selected channels in colour."""
    several = len(categories) > 1
    for ranked in categories:
        order = np.argsort(ranked.scores, kind="stable")
        scores = ranked.scores[order] * 1000
        inside = np.isin(order, list(ranked.kept))
        faint = {"alpha": 0.55 if several else 1.0, "zorder": 2}
        axes.plot(np.arange(len(scores)) + 1, scores, color="#b5b5b5", lw=0.7, zorder=1)
        kept = np.where(inside, scores, np.nan)
        axes.plot(np.arange(len(scores)) + 1, kept, color=style.COLOURS[0], lw=1.3, **faint)
    many, total = len(categories[0].kept), len(categories[0].scores)
    axes.axvline(many + 0.5, color=style.INK, lw=0.7, ls="--")
    axes.set_xlim(0, total + 1)
    axes.set_title(f"layer {layer + 1}: {many} of {total}", loc="left", pad=4)
    axes.set_xlabel("rank")
    axes.set_xticks([1, total])
    axes.locator_params(axis="y", nbins=4)
    axes.tick_params(axis="y", pad=1)
    axes.grid(axis="y")
