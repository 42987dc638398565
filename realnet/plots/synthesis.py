"""Anomalies by source, side by side on the same normal images (paper, Fig. 3b)."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from realnet.plots import style
from realnet.plots.chain import chains
from realnet.plots.made import Drawn, Entry, Skipped, arrays, paged, part_of
from realnet.tables.published import title
from realnet.tables.runs import Results

ORDER = ("sdas", "dtd", "texture", "cutpaste", "nsa")
NAMES = {"sdas": "SDAS", "dtd": "DTD textures", "texture": "procedural texture",
         "cutpaste": "CutPaste", "nsa": "NSA"}  # fmt: skip
SIDE, HEAD, GAP = 0.32, 0.36, 0.03


class Anomaly(NamedTuple):
    """One anomaly on a normal image: uint8 ``[S, S, 3]``, bool ``[S, S]``, uint8 ``[S, S, 3]``."""

    normal: np.ndarray
    mask: np.ndarray
    anomalous: np.ndarray


Row = Mapping[str, Anomaly]  # source -> its anomaly on the row's normal image


@style.styled
def synthesis_methods(rows: list[tuple[str, Row]], sources: list[str]) -> Figure:
    """Rows: (category, anomalies by source), all on one normal image; columns: that image, then
    each source's mask and anomaly. Blank where a source has none."""
    across = 1 + 2 * len(sources)
    space = 0.08 * len(sources)
    tile = min((style.WIDTH - SIDE - space) / across - GAP, 0.95)
    canvas = style.Canvas(HEAD + len(rows) * (tile + GAP) + 0.02,
                          max(SIDE + space + across * (tile + GAP), 3.0))  # fmt: skip
    lefts = [SIDE]
    for k in range(len(sources)):
        start = SIDE + (tile + GAP) * (1 + 2 * k) + 0.08 * (k + 1)
        lefts += [start, start + tile + GAP]
        words = style.fitted(NAMES.get(sources[k], sources[k]), 2 * tile, style.TEXT, 1)
        canvas.text(start + tile + GAP / 2, 0.03, words, ha="center", fontweight="bold")
    for left, words in zip(lefts, ["normal", *["mask", "anomaly"] * len(sources)], strict=True):
        canvas.text(left + tile / 2, 0.2, words, ha="center", fontsize=style.SMALL,
                    color=style.FAINT)  # fmt: skip
    for number, (_, row) in enumerate(rows):
        top = HEAD + number * (tile + GAP)
        pictures: list[np.ndarray | None] = [next(iter(row.values())).normal]
        for source in sources:
            one = row.get(source)
            pictures += [None, None] if one is None else [one.mask, one.anomalous]
        for left, picture in zip(lefts, pictures, strict=True):
            how = {}
            if picture is not None and picture.ndim == 2:
                how = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
            canvas.picture(left, top, tile, tile, picture, "–", **how)
    start = 0
    for number in range(1, len(rows) + 1):
        if number == len(rows) or rows[number][0] != rows[start][0]:
            height = (number - start) * (tile + GAP) - GAP
            canvas.text(
                *(SIDE / 2, HEAD + start * (tile + GAP) + height / 2),
                style.fitted(rows[start][0], height), rotation=90, ha="center", va="center",
                linespacing=1.0,
            )  # fmt: skip
            start = number
    return canvas.figure


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """Pages, from ``anomalies.npz`` of the trainings of all variants, first seed."""
    name, heading = f"synthesis_{dataset}", f"Synthesised anomalies by source, {title(dataset)}"
    pool: dict[str, dict[str, dict[int, Anomaly]]] = {}  # category -> source -> item -> anomaly
    trained = False
    for run, stages in chains(found, results, dataset).items():
        if "realnet" not in stages or run.seed != found.matrix.seeds[0]:
            continue
        trained = True
        data = arrays(stages["realnet"] / "anomalies.npz")
        if data is None:
            continue
        for k, source in enumerate(data["sources"].tolist()):
            one = Anomaly(*(data[key][k] for key in ("normal", "masks", "anomalous")))
            mine = pool.setdefault(run.category, {}).setdefault(source, {})
            mine.setdefault(int(data["items"][k]), one)
    if not pool:
        why = "no anomalies.npz beside the trained models; run the stage realnet again"
        yield Skipped(name, heading, why if trained else "no variant is trained", dataset)
        return
    names = [c for c in found.categories[dataset] if c in pool]
    sources = {source for mine in pool.values() for source in mine}
    order = [*(s for s in ORDER if s in sources), *sorted(sources - set(ORDER))]
    each = 2 if len(names) <= 4 else 1
    tile = min((style.WIDTH - SIDE) / (1 + 2 * len(order)), 0.98)
    parts = style.pages(names, max(1, int((style.PAGE - HEAD) / tile / each)))
    for page, members in enumerate(parts):
        rows = [(c, row) for c in members for row in _rows(pool[c], each)]
        caption = (
            f"Training anomalies on {title(dataset)} by source: a normal training image, the mask"
            " and the anomalous image of each source. Not chosen by hand: the first samples whose"
            " mask is not empty; sources with Perlin noise masks use the same masks."
        )
        yield Drawn(
            *(paged(name, page), heading + part_of(page, len(parts)), caption),
            synthesis_methods(rows, order), dataset, style.PICTURES,
        )  # fmt: skip


def _rows(sources: dict[str, dict[int, Anomaly]], count: int) -> list[Row]:
    """The first items among those that most sources have."""
    times = Counter(item for mine in sources.values() for item in mine)
    items = sorted(times, key=lambda item: (-times[item], item))[:count]
    rows: list[Row] = []
    for item in sorted(items):
        row = {source: mine[item] for source, mine in sources.items() if item in mine}
        first = next(iter(row.values())).normal
        rows.append({s: one for s, one in row.items() if np.array_equal(one.normal, first)})
    return rows
