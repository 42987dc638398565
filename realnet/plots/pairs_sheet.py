"""The contact sheet of exported pairs: original, anomalous image and mask, side by side."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.plots.style import save_figure

ACROSS = 3  # triples in a row
HIGH, GAP, APART, CAPTION, TOP, EDGE = 1.0, 0.04, 0.2, 0.2, 0.6, 0.12  # inches
Triple = tuple[np.ndarray, np.ndarray, np.ndarray, str]  # I, A, M, caption


def pairs_sheet(path: Path, triples: Sequence[Triple], title: str, total: int) -> None:
    """Write the triples as a PNG; images uint8 ``[H, W, 3]``, masks bool ``[H, W]``."""
    across = min(ACROSS, len(triples))
    wide = HIGH * max(mask.shape[1] / mask.shape[0] for _, _, mask, _ in triples)
    block = 3 * wide + 2 * GAP
    width = 2 * EDGE + across * (block + APART) - APART
    height = TOP + -(-len(triples) // across) * (HIGH + CAPTION + GAP) + EDGE
    figure = Figure(figsize=(width, height), facecolor="white")
    shown = f"{len(triples)} of {total}" if len(triples) < total else f"{total}"
    words = (
        title,
        f"{shown} pairs: normal image, anomaly, mask; source, opacity, share of the image",
    )
    lines = [line for text in words for line in textwrap.wrap(text, int(width * 13))]
    figure.text(EDGE / width, 1 - 0.08 / height, "\n".join(lines), va="top", fontsize=9)
    for place, (before, image, mask, caption) in enumerate(triples):
        left = EDGE + place % across * (block + APART)
        top = TOP + place // across * (HIGH + CAPTION + GAP)
        for column, picture in enumerate((before, image, mask.astype(np.uint8) * 255)):
            x = left + column * (wide + GAP)
            box = (x / width, 1 - (top + HIGH) / height, wide / width, HIGH / height)
            axes = figure.add_axes(box)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
        where = (left / width, 1 - (top + HIGH + 0.02) / height)
        text = f"{place:03d}: {caption}"
        figure.text(*where, text, va="top", fontsize=7, color="0.25")
    save_figure(path, figure, dpi=130)
