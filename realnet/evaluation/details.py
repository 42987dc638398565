"""What an evaluation leaves beside its metrics: regions, curves, and statistics for intervals."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realnet.core.io import write_csv
from realnet.metrics import (
    BOOTSTRAPPED,
    Localisation,
    bootstrap,
    interval,
    per_image,
    pr_curve,
    pro_curve,
    roc_curve,
    save_curves,
    save_per_image,
)

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0


def write_regions(
    path: Path, found: Localisation | None, names: Sequence[str], kinds: Sequence[str]
) -> None:
    """One row per defect region: where it is, how large, and its own PRO at every limit."""
    limits = [f"pro@{limit:g}" for limit in found.limits] if found else []
    rows = []
    for k in range(found.regions.count if found else 0):
        image = int(found.regions.images[k])
        box = dict(zip(("left", "top", "width", "height"), found.regions.boxes[k], strict=True))
        scores = [None if math.isnan(v) else v for v in found.per_region[k].tolist()]
        rows.append(
            {"path": names[image], "defect": kinds[image], "area": int(found.regions.areas[k])}
            | {key: int(value) for key, value in box.items()}
            | dict(zip(limits, scores, strict=True))
        )
    fields = ["path", "defect", "area", "left", "top", "width", "height", *limits]
    write_csv(path, rows, fields)


def write_curves(
    path: Path,
    margins: np.ndarray,
    masks: np.ndarray | None,
    scores: np.ndarray,
    labels: np.ndarray,
) -> None:
    """``<curve>_x``, ``<curve>_y`` of image_roc, image_pr, roc, pr, pro; empty where undefined."""
    nothing = (np.empty(0), np.empty(0))
    curves = {"image_roc": roc_curve(scores, labels), "image_pr": pr_curve(scores, labels)}
    curves |= {
        "roc": nothing if masks is None else roc_curve(margins, masks),
        "pr": nothing if masks is None else pr_curve(margins, masks),
        "pro": nothing if masks is None else pro_curve(margins, masks),
    }
    save_curves(path, curves)


def write_intervals(
    path: Path,
    margins: np.ndarray,
    masks: np.ndarray | None,
    scores: np.ndarray,
    labels: np.ndarray,
    kinds: Sequence[str],
    pro_limit: float,
    name: str,
) -> dict[str, Any]:
    """``per_image.npz``, from which tables draw intervals of means; returns those of this cell.

    ``name``: of what the images are drawn for (the category), so that all variants draw the same.
    """
    stats = per_image(margins, masks, scores, labels, kinds, pro_limit)
    save_per_image(path, stats)
    intervals: dict[str, list[float] | None] = {}
    for metric in BOOTSTRAPPED:
        low, high = interval(bootstrap(stats, metric, RESAMPLES, SEED, name), LEVEL)
        intervals[metric] = None if math.isnan(low) else [low, high]
    return {
        "intervals": intervals,
        "bootstrap": {"count": RESAMPLES, "level": LEVEL, "seed": SEED},
    }
