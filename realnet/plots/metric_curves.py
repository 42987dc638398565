"""Curves of `realnet metrics`: a figure, and the points in an .npz."""

from pathlib import Path
from typing import Any

import numpy as np

from realnet.core.errors import UserError
from realnet.evaluation.details import curves_of
from realnet.evaluation.stored import save_curves
from realnet.metrics import PerImage
from realnet.plots.style import save_figure

IMAGE, PIXEL, REGION, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8a8a"  # Okabe and Ito


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


def draw(found: dict[str, tuple[np.ndarray, np.ndarray]], result: dict[str, Any]) -> Any:
    """Four panels: ROC of images, of pixels, precision and recall of both, and PRO up to its
    limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, key, name, colour in (
        (axes[0], "image_roc", "image", IMAGE), (axes[1], "roc", "pixel", PIXEL)
    ):  # fmt: skip
        _frame(axis, f"ROC, {name}s", "false positive rate", "true positive rate")
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        _curve(axis, found[key], colour, _text("AUROC", result[f"{name}_auroc"]))
    _frame(axes[2], "Precision and recall", "recall", "precision")
    for key, name, colour in (("image_pr", "image", IMAGE), ("pr", "pixel", PIXEL)):
        text = _text(f"{name}s, AP", result[f"{name}_ap"])
        _curve(axes[2], found[key], colour, text, drawstyle="steps-pre")
    limit = result["pro_limit"]
    _frame(axes[3], "Overlap per region", "false positive rate", "mean overlap")
    rate, overlap = found["pro"]
    if len(rate):
        inside = np.r_[rate[rate < limit], limit]
        level = np.r_[overlap[rate < limit], np.interp(limit, rate, overlap)]
        axes[3].fill_between(inside, level, color=REGION, alpha=0.22, linewidth=0)
        axes[3].axvline(limit, color=REGION, linewidth=0.8, linestyle="--")
    _curve(axes[3], found["pro"], REGION, _text(f"PRO up to {limit:g}", result["pro"]))
    for axis in axes:
        axis.legend(loc="best" if axis is axes[2] else "lower right", fontsize=8, frameon=False)
    return figure


def _frame(axis: Any, title: str, x: str, y: str) -> None:
    axis.set(title=title, xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axis.title.set_fontsize(10)
    axis.set_box_aspect(1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _curve(axis: Any, curve: tuple, colour: str, label: str, **style: Any) -> None:
    axis.plot(*curve, color=colour, linewidth=1.6, label=label, **style)


def _text(name: str, value: float | None) -> str:
    return f"{name} {'undefined' if value is None else f'{value:.4f}'}"
