"""SDAS: images sampled from the same noise at increasing strength s (paper, Fig. 3a)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.plots import style
from realnet.plots.chain import chains
from realnet.plots.made import Drawn, Entry, Skipped, arrays, counted, paged, part_of
from realnet.tables.published import title
from realnet.tables.runs import Results

MOST_COLUMNS, MOST_ROWS, SIDE, HEAD = 8, 10, 0.32, 0.2


@dataclass(frozen=True)
class Grid:
    """Samples of one category: ``images`` uint8 ``[rows, strengths, S, S, 3]``, a row per noise;
    real ``normal`` images uint8 ``[rows, S, S, 3]``; ``strengths`` ``[strengths]``, ascending."""

    images: np.ndarray
    normal: np.ndarray
    strengths: np.ndarray


@style.styled
def strength_grid(grids: Mapping[str, Grid], rows: int = 1) -> Figure:
    """Categories by strengths, with ``rows`` noises of each; all must have the same strengths.

    Of more than seven strengths, seven are shown, evenly spaced.
    """
    strengths = next(iter(grids.values())).strengths
    places = np.arange(len(strengths))
    if len(places) > MOST_COLUMNS - 1:
        places = np.linspace(0, len(places) - 1, MOST_COLUMNS - 1).round().astype(int)
    gap = 0.03
    tile = min((style.WIDTH - SIDE - 0.12) / (len(places) + 1) - gap, 1.0)
    block = rows * (tile + gap) + 0.05
    width = SIDE + 0.12 + (len(places) + 1) * (tile + gap)
    canvas = style.Canvas(HEAD + len(grids) * block, width)
    for column in range(len(places) + 1):
        left = SIDE + column * (tile + gap) + (0.08 if column else 0)
        words = "real, normal" if column == 0 else f"s = {strengths[places[column - 1]]:g}"
        canvas.text(left + tile / 2, 0.04, words, ha="center", fontsize=style.SMALL)
        for number, grid in enumerate(grids.values()):
            for row in range(min(rows, len(grid.images))):
                top = HEAD + number * block + row * (tile + gap)
                picture = grid.normal[row] if column == 0 else grid.images[row, places[column - 1]]
                canvas.picture(left, top, tile, tile, picture)
    for number, name in enumerate(grids):
        height = block - 0.08
        canvas.text(
            *(SIDE / 2, HEAD + number * block + height / 2, style.fitted(name, height)),
            rotation=90, ha="center", va="center", linespacing=1.0,
        )  # fmt: skip
    return canvas.figure


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """Pages of the grid of a dataset, from ``grid.npz`` of the first sampling of each category."""
    name, heading = f"strength_{dataset}", f"SDAS at increasing strength, {title(dataset)}"
    grids: dict[str, Grid] = {}
    sampled = False
    for run, stages in chains(found, results, dataset).items():
        if "sdas" in stages and run.category not in grids:
            sampled = True
            data = arrays(stages["sdas"] / "grid.npz", "images", "normal", "strengths")
            if data is not None:
                grids[run.category] = Grid(**data)
    if not grids:
        why = "no grid.npz beside the sampled images; run the stage sdas again"
        yield Skipped(name, heading, why if sampled else "no variant samples SDAS", dataset)
        return
    first = next(iter(grids.values())).strengths
    grids = {c: grids[c] for c in found.categories[dataset] if c in grids}
    grids = {c: g for c, g in grids.items() if np.array_equal(g.strengths, first)}
    rows = min(2 if len(grids) <= 4 else 1, *(len(g.images) for g in grids.values()))
    parts = style.pages(tuple(grids), MOST_ROWS // rows)
    for page, names in enumerate(parts):
        caption = (
            f"SDAS on {title(dataset)}: images sampled from the diffusion model of each category"
            f" with the same noise at increasing strength s (variance (1 + s) Σ; s = 0 is ordinary"
            f" sampling); {counted(rows, 'noise')} per category, one per row, not chosen by hand."
            " Left: a real normal training image, for comparison."
        )
        yield Drawn(
            *(paged(name, page), heading + part_of(page, len(parts)), caption),
            strength_grid({c: grids[c] for c in names}, rows), dataset, style.PICTURES,
        )  # fmt: skip
