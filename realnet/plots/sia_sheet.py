"""The contact sheet of an SIA dataset: a sample of its images, by strength."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from realnet.datasets.images import read_image
from realnet.plots.style import save_figure

SHOWN, ACROSS = 48, 8
TILE, GAP, CAPTION, TOP, EDGE = 1.15, 0.05, 0.2, 0.55, 0.12  # inches


def contact_sheet(out: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Write ``sheet.png`` from manifest rows (path, index, s): weakest first, strongest last.

    At most ``SHOWN`` images, evenly spaced in the order of s, so that all strengths occur.
    """
    ordered = sorted(rows, key=lambda row: (row["s"], row["index"]))
    count = min(SHOWN, len(ordered))
    places = [round(k * (len(ordered) - 1) / max(1, count - 1)) for k in range(count)]
    across = min(ACROSS, count)
    width = max(2 * EDGE + across * (TILE + GAP) - GAP, 3.2)
    height = TOP + -(-count // across) * (TILE + CAPTION + GAP) + EDGE
    figure = Figure(figsize=(width, height), facecolor="white")
    heads = (title, f"{count} of {len(rows)} images, by strength s; # image index")
    wrapped = [line for head in heads for line in textwrap.wrap(head, int(width * 13))]
    figure.text(EDGE / width, 1 - 0.08 / height, "\n".join(wrapped), va="top", fontsize=9)
    for place, row in enumerate(ordered[k] for k in places):
        left = EDGE + place % across * (TILE + GAP)
        top = TOP + place // across * (TILE + CAPTION + GAP)
        box = (left / width, 1 - (top + TILE) / height, TILE / width, TILE / height)
        axes = figure.add_axes(box)
        axes.imshow(read_image(out / row["path"]), interpolation="nearest")
        axes.set_axis_off()
        for x, text, side in ((left, f"s {row['s']:.3g}", "left"), (left + TILE, "#", "right")):
            words = text if side == "left" else f"{row['index']:05d}"
            style = {"va": "top", "ha": side, "fontsize": 7, "color": "0.25"}
            figure.text(x / width, 1 - (top + TILE + 0.02) / height, words, **style)
    save_figure(out / "sheet.png", figure, dpi=130)
