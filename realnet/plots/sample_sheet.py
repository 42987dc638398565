"""Rows of images with a name each: normal images above samples of a diffusion model."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from realnet.plots import style

TILE, GAP, SIDE, EDGE = 0.85, 0.04, 0.3, 0.06  # inches


@style.styled
def sample_sheet(rows: Mapping[str, np.ndarray], across: int) -> Figure:
    """``rows``: name -> uint8 ``[N, S, S, 3]``, of which the first ``across`` are shown."""
    canvas = style.Canvas(len(rows) * (TILE + GAP) + 2 * EDGE, SIDE + across * (TILE + GAP) + EDGE)
    for number, (name, images) in enumerate(rows.items()):
        top = EDGE + number * (TILE + GAP)
        canvas.text(
            *(SIDE / 2, top + TILE / 2, name),
            rotation=90, ha="center", va="center", fontsize=style.SMALL,
        )  # fmt: skip
        for column, picture in enumerate(images[:across]):
            canvas.picture(SIDE + column * (TILE + GAP), top, TILE, TILE, picture)
    return canvas.figure
