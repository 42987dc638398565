"""AFS: ranking and selection of channels, and the agreement between categories."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.plots import style
from realnet.plots.chain import chain, reference
from realnet.plots.channel_ranks import HEADING, Ranked, draw_ranks
from realnet.plots.made import Drawn, Entry, Skipped, counted
from realnet.tables.published import title
from realnet.tables.runs import Results

NAMED = 15  # categories whose names fit beside the matrix


def jaccard(sets: Sequence[frozenset[int]]) -> np.ndarray:
    """|A and B| / |A or B| of every pair, ``[n, n]``; 1 where both are empty."""
    return np.array([[len(a & b) / max(1, len(a | b)) if a | b else 1.0 for b in sets]
                     for a in sets])  # fmt: skip


def chance(channels: int, kept: int) -> float:
    """Jaccard of two random choices of ``kept`` of ``channels``, with the expected intersection."""
    both = kept * kept / channels
    return both / (2 * kept - both) if kept else 1.0


@style.styled
def channel_ranking(layers: Mapping[str, Sequence[Ranked]]) -> Figure:
    """Category -> its layers. Above: scores by rank, a line per category, selected channels in
    colour; below, with several categories: the overlap of their selected channels."""
    names, count = list(layers), len(next(iter(layers.values())))
    left, gap = 0.48, 0.22
    several = len(names) > 1
    named = several and len(names) <= NAMED
    side = max((0.058 * len(name) for name in names), default=0.0) + 0.12 if named else left
    side = max(side, left)
    width = (style.WIDTH - side - 0.45 - (count - 1) * gap) / count
    width = min(width, 2.2)
    canvas = style.Canvas(0.42 + 1.3 + 0.4 + (0.36 + width + 0.12 if several else 0))
    lowest = 0.42
    for k in range(count):
        axes = canvas.axes(side + k * (width + gap), lowest, width, 1.3)
        draw_ranks(axes, k, [layers[name][k] for name in names])
    canvas.text(0.04, 0.05, HEADING, fontweight="bold")
    if not several:
        return canvas.figure
    top = lowest + 1.3 + 0.4
    canvas.text(0.04, top, "Overlap of the selected channels between categories (Jaccard)",
                fontweight="bold")  # fmt: skip
    for k in range(count):
        axes = canvas.axes(side + k * (width + gap), top + 0.36, width, width)
        found = jaccard([layers[name][k].kept for name in names])
        picture = axes.imshow(found, cmap=style.SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
        style.bare(axes)
        off = found[~np.eye(len(names), dtype=bool)].mean()
        many, total = len(layers[names[0]][k].kept), len(layers[names[0]][k].scores)
        axes.set_title(f"{off:.2f}; random {chance(total, many):.2f}",
                       loc="left", pad=3, fontsize=style.SMALL)  # fmt: skip
        if k == 0 and named:
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(length=0)
        if len(names) <= 4:
            for i in range(len(names)):
                for j in range(len(names)):
                    axes.text(j, i, f"{found[i, j]:.2f}", ha="center", va="center",
                              fontsize=style.SMALL,
                              color="white" if found[i, j] < 0.6 else style.INK)  # fmt: skip
    right = side + count * (width + gap) - gap + 0.08
    bar = canvas.figure.colorbar(picture, cax=canvas.axes(right, top + 0.36, 0.09, width))
    bar.outline.set_linewidth(0.4)
    bar.set_ticks([0, 0.5, 1])
    return canvas.figure


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """One figure, from ``afs.json`` of the reference variant's first seed."""
    name, heading = f"channels_{dataset}", f"Channels that AFS selects, {title(dataset)}"
    variant = found.matrix.variants[0]
    layers: dict[str, list[Ranked]] = {}
    why = f"variant {variant} has no stage afs"
    for category, folder in reference(found, dataset).items():
        stages = chain(results, folder)
        if "afs" not in stages or not (stages["afs"] / "afs.json").is_file():
            continue
        stored = read_json(stages["afs"] / "afs.json")
        if stored.get("selection") in ("pca", "all"):
            why = f"variant {variant} uses {stored['selection']}, which does not rank channels"
            continue
        try:
            layers[category] = [
                Ranked(np.array(layer["scores"], float), frozenset(layer["indices"]))
                for layer in stored["layers"]
            ]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{stages['afs'] / 'afs.json'}: written by another version ({error}); run the stage"
                " afs again"
            ) from None
    shapes = [tuple(len(r.scores) for r in ranked) for ranked in layers.values()]
    if not layers or len(set(shapes)) > 1:
        yield Skipped(
            name, heading, why if not layers else "the backbones of the categories differ", dataset
        )
        return
    caption = (
        f"AFS on {title(dataset)}, variant {variant},"
        f" {counted(len(layers), 'category', 'categories')}. Above: score of every channel of each"
        " backbone layer (mean squared difference between the normalised feature change and the"
        " anomaly mask), sorted; one line per category; the m selected channels are blue, left of"
        " the dashed line."
    )
    if len(layers) > 1:
        caption += (
            " Below: Jaccard overlap of the selected channels for each pair of categories; above"
            " each matrix its mean over pairs and the expected overlap of random selections."
        )
    yield Drawn(name, heading, caption, channel_ranking(layers), dataset)
