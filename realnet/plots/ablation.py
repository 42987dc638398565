"""Forest plot: every variant's paired difference to the reference of its group."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from realnet.config.params import as_json, load
from realnet.plots import style
from realnet.plots.made import Drawn, Entry, Skipped, counted
from realnet.tables.differences import paired_differences
from realnet.tables.published import title
from realnet.tables.result_tables import TITLES
from realnet.tables.runs import METRICS, Results

STEP = 0.2
Groups = Mapping[str, tuple[str, Sequence[str]]]  # name -> title, variants (reference first)


def groups_of(params: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """``groups`` of a parameter file or of JSON of sections; empty where the section is missing."""
    values = as_json(params)
    if values is not None:
        groups = values.get("groups") or {}
        return {k: (g["title"], tuple(g["variants"])) for k, g in groups.items()}
    return {name: (g.title, tuple(g.variants)) for name, g in load(params).groups.items()}


class Row(NamedTuple):
    """Variant minus reference in percentage points, its interval, and the corrected p-value."""

    difference: float
    low: float | None
    high: float | None
    p: float | None


class Block(NamedTuple):
    """A group: its heading, and variant -> metric -> row."""

    heading: str
    rows: Mapping[str, Mapping[str, Row]]


@style.styled
def forest(blocks: Sequence[Block], level: float) -> Figure:
    """One panel per metric; filled dots: the corrected p-value is below 1 - level."""
    lines: list[tuple[Block, str | None]] = []
    for block in blocks:
        lines += [(block, None), *((block, variant) for variant in block.rows)]
    names = [variant for _, variant in lines if variant]
    side = style.margin(names)
    gap, top = 0.3, 0.46
    width = (style.WIDTH - side - 0.12 - 2 * gap) / 3
    height = STEP * len(lines) + 0.06
    canvas = style.Canvas(top + height + 0.36)
    dot = {"color": style.COLOURS[0], "marker": "o", "ls": "", "ms": 5}
    canvas.legend(
        [
            Line2D([], [], **dot, label=f"corrected p < {1 - level:.2g}"),
            Line2D([], [], **dot, mfc="white", label="not significant, or no p"),
            Line2D([], [], color=style.COLOURS[0], lw=1.2, label=f"{100 * level:g} % interval"),
        ],
        0.06, ncols=3,
    )  # fmt: skip
    for k, metric in enumerate(METRICS):
        axes = canvas.axes(side + k * (width + gap), top, width, height)
        axes.axvline(0, color=style.INK, lw=0.7, zorder=1)
        for y, (block, variant) in enumerate(lines):
            if variant is None:
                continue
            row = block.rows[variant].get(metric)
            if row is None:
                axes.text(0.02, y, "–", va="center", color=style.FAINT, fontsize=style.SMALL,
                          transform=axes.get_yaxis_transform())  # fmt: skip
                continue
            if row.low is not None:
                axes.plot([row.low, row.high], [y, y], color=style.COLOURS[0], lw=1.2, zorder=2)
            clear = row.p is not None and row.p < 1 - level
            axes.plot(row.difference, y, "o", color=style.COLOURS[0], ms=4.8, zorder=3,
                      mfc=style.COLOURS[0] if clear else "white")  # fmt: skip
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.set_title(TITLES[metric], loc="left", fontweight="bold", pad=4)
        axes.set_xlabel("difference, percentage points")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_yticks(
            range(len(lines)), [style.name(v or "") for _, v in lines] if k == 0 else []
        )
        axes.tick_params(axis="y", length=0)
        if k > 0:
            axes.set_yticks([])
    for y, (block, variant) in enumerate(lines):
        if variant is None:
            _head(canvas, top + 0.03 + STEP * y, block.heading)
    return canvas.figure


def _head(canvas: style.Canvas, top: float, words: str) -> None:
    """Draw a heading as a band across all panels, above their lines."""
    band = canvas.axes(0.02, top, style.WIDTH - 0.04, STEP - 0.02)
    band.set(facecolor=style.SHADE, xticks=[], yticks=[], zorder=5)
    for spine in band.spines.values():
        spine.set_visible(False)
    band.text(0.005, 0.5, words, va="center", fontweight="bold", fontsize=style.SMALL,
              transform=band.transAxes)  # fmt: skip


def blocks_of(found: Results, dataset: str, groups: Groups) -> list[Block]:
    """Groups with their reference and another variant among the results; then other variants."""
    here = found.matrix.variants
    blocks: list[Block] = []
    wanted = {
        name: (heading, [v for v in variants if v in here])
        for name, (heading, variants) in groups.items()
        if variants and variants[0] in here
    }
    rest = [v for v in here[1:] if not any(v in variants[1:] for _, variants in wanted.values())]
    wanted[""] = ("Other variants" if wanted else "Variants", [here[0], *rest])
    for heading, variants in wanted.values():
        rows: dict[str, dict[str, Row]] = {}
        for metric in METRICS if len(variants) > 1 else ():
            for one in paired_differences(found, variants, metric, dataset):
                if one.difference is not None and not math.isnan(one.difference):
                    low, high = one.low, one.high
                    rows.setdefault(one.variant, {})[metric] = Row(
                        100 * one.difference,
                        None if low is None else 100 * low,
                        None if high is None else 100 * high,
                        one.p_holm,
                    )
        if rows:
            ordered = {v: rows[v] for v in variants if v in rows}
            blocks.append(Block(f"{heading} – against {variants[0]}", ordered))
    return blocks


def make(found: Results, results: Path, dataset: str, groups: Groups) -> Iterator[Entry]:
    """One figure per dataset."""
    name, heading = f"differences_{dataset}", f"Ablations, {title(dataset)}"
    if len(found.matrix.variants) < 2:
        yield Skipped(name, heading, "there is only one variant", dataset)
        return
    blocks = blocks_of(found, dataset, groups)
    if not blocks:
        why = "no variant is evaluated on all categories together with its reference"
        yield Skipped(name, heading, why, dataset)
        return
    count = counted(len(found.categories[dataset]), "category", "categories")
    whiskers = any(
        row.low is not None for b in blocks for rows in b.rows.values() for row in rows.values()
    )
    caption = (
        f"Variants on {title(dataset)}: difference to the reference of their group, in percentage"
        f" points; mean over {count} and {counted(len(found.matrix.seeds), 'seed')}, same test"
        " images and seeds."
    )
    if whiskers:
        caption += (
            f" Whiskers: {100 * found.matrix.level:g} % interval over the choice of test images,"
            f" {found.matrix.bootstrap} paired bootstrap resamples, not corrected; filled dots: the"
            " p-value, corrected by Holm within the group, is below"
            f" {1 - found.matrix.level:.2g}."
        )
    yield Drawn(name, heading, caption, forest(blocks, found.matrix.level), dataset)
