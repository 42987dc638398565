"""Image scores: the normal test images against each defect type."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.core.io import read_csv
from realnet.plots import style
from realnet.plots.chain import reference
from realnet.plots.made import Drawn, Entry, Skipped, paged, part_of
from realnet.tables.published import title
from realnet.tables.runs import Results

ACROSS, ROW, UPPER, MOST_TYPES = 2, 0.155, 0.55, 13
NORMAL = "normal"


@style.styled
def score_panels(cells: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Category -> defect type, or "normal" -> scores. Each panel has histograms of the normal and
    of all defective images, and below them a row per type with a mark per image."""
    names = list(cells)
    across = min(ACROSS, len(names))
    labels = max(len(_label(k, len(v))) for types in cells.values() for k, v in types.items())
    side, gap = 0.061 * labels + 0.1, 0.15
    width = (style.WIDTH - across * side - (across - 1) * gap - 0.16) / across
    width = min(width, 4.0)
    heights = [UPPER + ROW * len(types) + 0.52 for types in cells.values()]
    rows = [max(heights[i : i + across]) for i in range(0, len(names), across)]
    canvas = style.Canvas(sum(rows) + 0.04)
    for place, name in enumerate(names):
        types = cells[name]
        left = side + place % across * (width + gap + side)
        top = sum(rows[: place // across]) + 0.24
        canvas.text(left, top - 0.18, name, fontweight="bold")
        values = np.concatenate(list(types.values()))
        low, high = _range(values)
        upper = canvas.axes(left, top, width, UPPER)
        bins = np.linspace(low, high, 25)
        groups = {
            style.NORMAL: types.get(NORMAL, np.empty(0)),
            style.DEFECT: np.concatenate([np.empty(0), *(v for k, v in types.items()
                                                         if k != NORMAL)]),
        }  # fmt: skip
        for colour, part in groups.items():
            if len(part):
                weights = np.full(len(part), 100 / len(part))
                upper.hist(np.clip(part, low, high), bins, weights=weights, color=colour, alpha=0.6)
        upper.set(xlim=(low, high), xticks=[], yticks=[])
        upper.spines["left"].set_visible(False)
        lower = canvas.axes(left, top + UPPER, width, ROW * len(types))
        for y, (defect, part) in enumerate(types.items()):
            colour = style.NORMAL if defect == NORMAL else style.DEFECT
            lower.axhline(y, color=style.GRID, lw=0.4, zorder=0)
            lower.plot(np.clip(part, low, high), np.full(len(part), y), "|", color=colour, ms=6.5,
                       mew=0.9, alpha=0.85)  # fmt: skip
        lower.set(xlim=(low, high), ylim=(len(types) - 0.4, -0.6))
        lower.set_yticks(range(len(types)), [_label(k, len(v)) for k, v in types.items()])
        lower.tick_params(axis="y", length=0)
        lower.locator_params(axis="x", nbins=6)
        lower.spines["left"].set_visible(False)
    return canvas.figure


def _label(name: str, count: int) -> str:
    words = style.fitted(name.replace("_", " "), 0.95, style.SMALL, 1)
    return f"{words} ({count})"


def _range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def make(found: Results, results: Path, dataset: str) -> Iterator[Entry]:
    """Pages, from ``images.csv`` of the reference variant's first seed."""
    name, heading = f"scores_{dataset}", f"Image scores by defect type, {title(dataset)}"
    variant, cells = found.matrix.variants[0], {}
    for category, folder in reference(found, dataset).items():
        if not (folder / "images.csv").is_file():
            continue
        types: dict[str, list[float]] = {NORMAL: []}
        for row in read_csv(folder / "images.csv"):
            defect = NORMAL if row["label"] == "0" else row["defect"] or "defective"
            types.setdefault(defect, []).append(float(row["score"]))
        shown = dict(sorted(types.items(), key=lambda pair: (pair[0] != NORMAL, pair[0])))
        if len(shown) > MOST_TYPES:
            rest = list(shown)[MOST_TYPES - 1 :]
            shown["others"] = [x for defect in rest for x in shown.pop(defect)]
        cells[category] = {defect: np.array(v) for defect, v in shown.items() if v}
    cells = {category: types for category, types in cells.items() if types}
    if not cells:
        yield Skipped(name, heading, f"no images.csv of variant {variant}", dataset)
        return
    parts: list[list[str]] = []
    members: list[str] = []
    height = 0.0
    for start in range(0, len(cells), ACROSS):
        beside = list(cells)[start : start + ACROSS]
        tall = max(UPPER + ROW * len(cells[c]) + 0.52 for c in beside)
        if members and height + tall > style.PAGE:
            parts.append(members)
            members, height = [], 0.0
        members, height = members + beside, height + tall
    parts.append(members)
    for page, names in enumerate(parts):
        caption = (
            f"Image scores of variant {variant} on {title(dataset)}, first seed. Histograms: normal"
            " (grey) and all defective test images (orange), each summing to 100 %. Marks: one"
            " test image each, by defect type; in brackets: the number of images."
        )
        yield Drawn(
            *(paged(name, page), heading + part_of(page, len(parts)), caption),
            score_panels({c: cells[c] for c in names}), dataset,
        )  # fmt: skip
