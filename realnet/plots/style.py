"""One style for all figures: colours, fonts, sizes; and a canvas measured in inches.

Figures have their printed size (``WIDTH``: the text width of a page), so a font of 7 points is 7
points on paper. DejaVu Sans comes with matplotlib: the same glyphs on every machine.
"""

import textwrap
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from realnet.core.io import atomic

T = TypeVar("T")

WIDTH, PAGE = 7.0, 9.4  # inches: width of a figure, and its largest height on a page
DPI, PICTURES = 200, 150  # of figures, and of figures made of photographs
INK, FAINT, GRID, SHADE = "#222222", "#666666", "#dddddd", "#eef1f4"
# Okabe-Ito palette, distinguishable for colour-blind readers; the reference variant is blue.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d31", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
NORMAL, DEFECT, PAPER = "#8a8a8a", "#d55e00", "#222222"
HEAT, SEQUENTIAL = "inferno", "cividis"
TITLE, TEXT, SMALL = 9, 8, 7  # points; nothing is smaller than SMALL

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": SMALL,
    "axes.labelcolor": FAINT,
    "axes.labelpad": 3,
    "axes.edgecolor": "#aaaaaa",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "legend.fontsize": TEXT,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "text.color": INK,
    "svg.hashsalt": "realnet",
    "svg.fonttype": "path",
    "path.simplify": True,
    "image.composite_image": False,
}
styled = matplotlib.rc_context(STYLE)  # a decorator of functions that draw


class Canvas:
    """A figure whose parts are placed in inches from its left and upper edges."""

    def __init__(self, height: float, width: float = WIDTH):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(
            (
                left / self.width,
                1 - (top + height) / self.height,
                width / self.width,
                height / self.height,
            )
        )

    def text(self, left: float, top: float, words: str, **style: Any) -> None:
        style = {"va": "top", "ha": "left", "color": INK, "fontsize": TEXT} | style
        self.figure.text(left / self.width, 1 - top / self.height, words, **style)

    @cached_property
    def sheet(self) -> Axes:
        """Axes in inches, downwards, behind all others: for many pictures, since separate axes
        would take 0.1 s each."""
        axes = self.figure.add_axes((0, 0, 1, 1), zorder=-1)
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        axes.set_axis_off()
        return axes

    def picture(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        picture: np.ndarray | None,
        absent: str = "missing",
        **how: Any,
    ) -> Any:
        """Draw a picture in a thin frame; grey with the text ``absent`` where it is None."""
        frame = {"linewidth": 0.4, "edgecolor": "#999999", "zorder": 1.5}
        face = {"facecolor": "#eeeeee"} if picture is None else {"fill": False}
        self.sheet.add_patch(Rectangle((left, top), width, height, **frame, **face))
        if picture is None:
            self.sheet.text(left + width / 2, top + height / 2, absent, ha="center", va="center",
                            fontsize=SMALL, color=FAINT)  # fmt: skip
            return None
        how = {"interpolation": "antialiased", "aspect": "auto"} | how
        extent = (left, left + width, top + height, top)
        return self.sheet.imshow(picture, extent=extent, **how)

    def outline(self, left: float, top: float, width: float, height: float, mask: np.ndarray):
        """Draw the outline of a mask bool ``[h, w]`` over a picture in the same place."""
        if mask.min() == mask.max():
            return
        x = left + (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1]
        y = top + (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0]
        for colour, line in (("white", 1.4), (COLOURS[0], 0.7)):
            self.sheet.contour(x, y, mask.astype(float), levels=[0.5], colors=[colour],
                               linewidths=line)  # fmt: skip

    def legend(self, handles: Sequence[Any], top: float, left: float = 0.05, **style: Any) -> None:
        place = (left / self.width, 1 - top / self.height)
        style = {
            "loc": "upper left",
            "borderaxespad": 0,
            "borderpad": 0,
            "handletextpad": 0.4,
            "columnspacing": 1.2,
            "handlelength": 1.6,
        } | style
        self.figure.legend(handles=list(handles), bbox_to_anchor=place, **style)


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Shifted where the colours repeat, so that no two variants share colour and marker."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def size(index: int) -> float:
    """Factor of a marker's size, so that all markers look equally large."""
    return {"*": 1.5, "P": 1.25, "X": 1.25, "D": 0.9}.get(marker(index), 1.0)


def dash(index: int) -> str:
    """Solid for the first eight, then other dashes, since the colours repeat."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def columns_for(names: Sequence[str], width: float = WIDTH - 0.1, extra: float = 0.5) -> int:
    """How many columns of a legend fit on a line; matplotlib fills them one by one.

    extra: inches of an entry besides its text.
    """
    for count in range(len(names), 1, -1):
        size, more = divmod(len(names), count)
        ends = np.cumsum([size + (k < more) for k in range(count)])
        parts = [names[end - size - (k < more) : end] for k, end in enumerate(ends)]
        if sum(max(0.066 * len(name) + extra for name in part) for part in parts) <= width:
            return count
    return 1


def variant_handles(
    variants: Sequence[str], markers: bool = False, only: Sequence[str] | None = None
) -> list[Line2D]:
    """Legend entries; the colour of a variant does not depend on ``only``, which are shown."""
    handles = []
    for i, name in enumerate(variants):
        if only is None or name in only:
            how = {"ls": dash(i), "lw": 1.6}
            if markers:
                how = {"marker": marker(i), "ls": "", "ms": 5 * size(i), "mec": "white", "mew": 0.5}
            handles.append(Line2D([], [], color=colour(i), label=name, **how))
    return handles


def fitted(words: str, inches: float, size: float = TEXT, lines: int = 2) -> str:
    """The text fitted to a printed length: broken at underscores, then shortened."""
    most = max(3, int(inches / (size * 0.0088)))
    if len(words) <= most:
        return words
    rows = [""]
    for part in words.replace("_", "_\0").split("\0"):
        if len(rows[-1]) + len(part) <= most or not rows[-1]:
            rows[-1] += part
        else:
            rows.append(part)
    if len(rows) > lines:
        rows = [*rows[: lines - 1], "".join(rows[lines - 1 :])]
    return "\n".join(row if len(row) <= most else row[: most - 1] + "…" for row in rows)


def margin(names: Sequence[str], least: float = 0.6, most: float = 1.9) -> float:
    """Inches that names need at the left of a panel, as tick labels."""
    return min(most, max(least, 0.0625 * max(map(len, names)) + 0.12))


def name(words: str) -> str:
    """A name shortened to the largest :func:`margin`."""
    return words if len(words) <= 28 else words[:27] + "…"


def wrapped(words: str, inches: float, size: float = SMALL, lines: int = 2) -> str:
    """The text broken at spaces to a printed length, and shortened where it is too long."""
    most = max(3, int(inches / (size * 0.0088)))
    rows = textwrap.wrap(words, most, break_long_words=False) or [""]
    if len(rows) > lines:
        rows = [*rows[: lines - 1], " ".join(rows[lines - 1 :])]
    return "\n".join(row if len(row) <= most else row[: most - 1].rstrip() + "…" for row in rows)


def bare(axes: Axes) -> None:
    """Remove the ticks and draw a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color="#999999")


def pages(items: Sequence[T], most: int) -> list[tuple[T, ...]]:
    """The items in groups of at most ``most``, as even as possible."""
    count = max(1, -(-len(items) // most))
    size = -(-len(items) // count)
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]


@styled
def save(figure: Figure, folder: Path, name: str, dpi: int = DPI) -> list[str]:
    """Write ``<name>.svg`` and ``.png``; equal figures give equal bytes. Returns the names."""
    with atomic(folder / f"{name}.svg") as temporary:
        figure.savefig(temporary, dpi=dpi, metadata={"Date": None, "Creator": None})
    with atomic(folder / f"{name}.png") as temporary:
        figure.savefig(temporary, dpi=dpi, metadata={"Software": None})
    return [f"{name}.svg", f"{name}.png"]


def save_figure(path: str | Path, figure: Figure, dpi: int = 110) -> None:
    """A figure as PNG, without dates or versions, so equal runs give equal bytes."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", metadata={"Software": None})
