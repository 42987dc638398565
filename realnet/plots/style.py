"""One style for all figures: colours, fonts, sizes; and a canvas measured in inches.

Figures are drawn as large as they are printed (``WIDTH``, a page's text), so a font of 7 points is
7 points on paper. DejaVu Sans comes with matplotlib: the same letters on every machine.
"""

import textwrap
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from realnet.core.io import atomic

WIDTH, PAGE = 7.0, 9.4  # inches: of a figure, and the height that a page leaves to one
DPI, PICTURES = 200, 150  # of figures, and of those made of photographs
INK, FAINT, GRID, SHADE = "#222222", "#666666", "#dddddd", "#eef1f4"
# Okabe-Ito: told apart by colour-blind readers; the reference variant comes first, in blue.
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
styled = matplotlib.rc_context(STYLE)  # a decorator of what draws


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
        """Axes behind all others that count in inches, downwards: for many pictures, since an axes
        for each would take a tenth of a second."""
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
        absent: str = "not there",
        **how: Any,
    ) -> Any:
        """A picture in a hairline frame; grey with a word where there is none."""
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
        """The border of a mask bool ``[h, w]``, over a picture in the same place."""
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
    """Moved on where the colours start again, so that no two variants have both."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def size(index: int) -> float:
    """What a marker's size is multiplied by, so that all look equally large."""
    return {"*": 1.5, "P": 1.25, "X": 1.25, "D": 0.9}.get(marker(index), 1.0)


def dash(index: int) -> str:
    """Solid for the first eight, then others, as the colours start again."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def columns_for(names: Sequence[str], width: float = WIDTH - 0.1, extra: float = 0.5) -> int:
    """How many columns of a legend fit beside each other; matplotlib fills them one by one.

    extra: inches of an entry besides its words.
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
    """Legend entries; a variant has the colour of its place, whichever ``only`` are shown."""
    handles = []
    for i, name in enumerate(variants):
        if only is None or name in only:
            how = {"ls": dash(i), "lw": 1.6}
            if markers:
                how = {"marker": marker(i), "ls": "", "ms": 5 * size(i), "mec": "white", "mew": 0.5}
            handles.append(Line2D([], [], color=colour(i), label=name, **how))
    return handles


def fitted(words: str, inches: float, size: float = TEXT, lines: int = 2) -> str:
    """The words cut to a length in print: first broken at underscores, then shortened."""
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
    """As long as :func:`margin` has room for."""
    return words if len(words) <= 28 else words[:27] + "…"


def wrapped(words: str, inches: float, size: float = SMALL, lines: int = 2) -> str:
    """The words broken at spaces to a length in print, shortened where they are too many."""
    most = max(3, int(inches / (size * 0.0088)))
    rows = textwrap.wrap(words, most, break_long_words=False) or [""]
    if len(rows) > lines:
        rows = [*rows[: lines - 1], " ".join(rows[lines - 1 :])]
    return "\n".join(row if len(row) <= most else row[: most - 1].rstrip() + "…" for row in rows)


def bare(axes: Axes) -> None:
    """No ticks, a hairline frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color="#999999")


def pages(names: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """The names in groups of at most ``most``, as even as can be."""
    count = max(1, -(-len(names) // most))
    size = -(-len(names) // count)
    return [tuple(names[i : i + size]) for i in range(0, len(names), size)]


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
