"""Curves of `realnet metrics`: a figure, and the points in an .npz."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from realnet.core.errors import UserError
from realnet.evaluation.details import curves_of
from realnet.evaluation.stored import save_curves
from realnet.metrics import PerImage
from realnet.plots import style
from realnet.plots.style import save_figure

Curve = tuple[np.ndarray, np.ndarray]
IMAGE, PIXEL, REGION = style.COLOURS[0], style.COLOURS[4], style.COLOURS[2]


def curve_files(given: Path) -> tuple[Path, Path]:
    """Paths of the figure and the points: OUT.png and OUT.npz, or curves.* in a folder."""
    if given.suffix == ".png" and not given.is_dir():
        return given, given.with_suffix(".npz")
    if given.suffix and not given.is_dir():
        raise UserError(f"{given}: --curves writes OUT.png and OUT.npz, or both into a folder")
    return given / "curves.png", given / "curves.npz"


def write_curves(figure: Path, points: Path, stats: PerImage, result: dict[str, Any]) -> None:
    """Plot and save the curves: ``<curve>_x``, ``<curve>_y`` of image_roc, image_pr, roc, pr, pro;
    empty where undefined."""
    found = curves_of(stats)
    save_curves(points, found)
    save_figure(figure, draw(found, result))


@style.styled
def draw(found: Mapping[str, Curve], result: Mapping[str, Any]) -> Figure:
    """Four panels: ROC of images, of pixels, precision and recall of both, and PRO up to its
    limit."""
    side, gap, top = 0.42, 0.42, 0.25
    width = (style.WIDTH - side - 0.08 - 3 * gap) / 4
    canvas = style.Canvas(top + width + 0.4)
    panels = [canvas.axes(side + k * (width + gap), top, width, width) for k in range(4)]
    for axes, key, name, colour in (
        (panels[0], "image_roc", "image", IMAGE),
        (panels[1], "roc", "pixel", PIXEL),
    ):
        _frame(axes, f"ROC, {name}s", "false positive rate", "true positive rate")
        axes.plot([0, 1], [0, 1], color=style.NORMAL, lw=0.8, ls=":")
        _curve(axes, found[key], colour, _text("AUROC", result[f"{name}_auroc"]))
    _frame(panels[2], "precision-recall", "recall", "precision")
    for key, name, colour in (("image_pr", "image", IMAGE), ("pr", "pixel", PIXEL)):
        text = _text(f"{name}s, AP", result[f"{name}_ap"])
        _curve(panels[2], found[key], colour, text, drawstyle="steps-pre")
    limit = result["pro_limit"]
    _frame(panels[3], "PRO", "false positive rate", "per-region overlap")
    rate, overlap = found["pro"]
    if len(rate):
        inside = np.r_[rate[rate < limit], limit]
        level = np.r_[overlap[rate < limit], np.interp(limit, rate, overlap)]
        panels[3].fill_between(inside, level, color=REGION, alpha=0.22, lw=0)
        panels[3].axvline(limit, color=REGION, lw=0.8, ls="--")
    _curve(panels[3], found["pro"], REGION, _text(f"PRO up to {limit:g}", result["pro"]))
    for axes in panels:
        where = "best" if axes is panels[2] else "lower right"
        axes.legend(loc=where, fontsize=style.SMALL, handlelength=1.2, handletextpad=0.4)
    return canvas.figure


def _frame(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.set_title(title, fontweight="bold", pad=5)
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])


def _curve(axes: Axes, curve: Curve, colour: str, label: str, **how: Any) -> None:
    axes.plot(*curve, color=colour, lw=1.3, label=label, **how)


def _text(name: str, value: float | None) -> str:
    return f"{name} {'undefined' if value is None else f'{value:.4f}'}"
