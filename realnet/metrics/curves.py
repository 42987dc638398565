"""Curves to look at: every point lies exactly on the curve, and there are not too many of them.

No metric is computed from these; the areas come from ranks (:mod:`.pixel`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from realnet.core.io import atomic
from realnet.metrics.arrays import array, binary, maps, same_shape
from realnet.metrics.regions import label_regions

Curve = tuple[np.ndarray, np.ndarray]  # x, y: float64 [K], x ascending


def roc_curve(scores: Any, truth: Any, points: int = 1000) -> Curve:
    """False and true positive rate, from (0, 0) to (1, 1), linear between thresholds.

    ``scores``, ``truth`` (> 0 is anomalous) of one shape. Empty arrays where a class is missing.
    """
    defect, normal = _sorted(scores, truth)
    if not len(defect) or not len(normal):
        return np.empty(0), np.empty(0)
    thresholds = _thresholds(defect, normal, points)
    return _closed(_reach(normal, thresholds), _reach(defect, thresholds))


def pr_curve(scores: Any, truth: Any, points: int = 1000) -> Curve:
    """Recall and precision, a step function: draw it with ``drawstyle="steps-pre"``.

    Arguments and undefined cases as for :func:`roc_curve`. Begins at recall 0 with the precision
    of the highest threshold.
    """
    defect, normal = _sorted(scores, truth)
    if not len(defect) or not len(normal):
        return np.empty(0), np.empty(0)
    thresholds = _thresholds(defect, defect, points)
    found = len(defect) - np.searchsorted(defect, thresholds)
    false = len(normal) - np.searchsorted(normal, thresholds)
    precision = found / (found + false)
    return np.r_[0.0, found / len(defect)], np.r_[precision[0], precision]


def pro_curve(margins: Any, masks: Any, points: int = 1000) -> Curve:
    """False positive rate and mean overlap per region, from (0, 0) to (1, 1).

    ``margins``, ``masks`` [N, H, W] as for ``localise``; undefined as :func:`roc_curve`.
    """
    margins, masks = maps(margins), binary(masks)
    same_shape(margins, masks.shape)
    regions = label_regions(masks)
    scores = np.ascontiguousarray(margins).reshape(-1)[regions.pixels]
    normal = np.sort(margins[~masks])
    if not len(scores) or not len(normal):
        return np.empty(0), np.empty(0)
    order = np.argsort(scores)
    defect = scores[order]
    thresholds = _thresholds(defect, normal, points)
    weights = np.repeat(1 / regions.areas, regions.areas)[order]
    below = np.r_[0.0, np.cumsum(weights)]
    overlap = (below[-1] - below[np.searchsorted(defect, thresholds)]) / below[-1]
    return _closed(_reach(normal, thresholds), overlap)


def save_curves(path: Path, curves: Mapping[str, Curve]) -> None:
    """As .npz with ``<curve>_x`` and ``<curve>_y``; those that are undefined are empty."""
    flat = {
        f"{name}_{axis}": values
        for name, curve in curves.items()
        for axis, values in zip("xy", curve, strict=True)
    }
    with atomic(path) as temporary, temporary.open("wb") as target:
        np.savez_compressed(target, **flat)


def _sorted(scores: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = array(scores), array(truth) > 0
    same_shape(scores, truth.shape)
    return np.sort(scores[truth]), np.sort(scores[~truth])


def _thresholds(defect: np.ndarray, normal: np.ndarray, points: int) -> np.ndarray:
    """At most ``points`` of the scores, descending: evenly by rank in both classes, and closer
    together among the highest normal ones, where curves bend."""
    each = max(2, points // 3)
    rates = np.r_[np.linspace(0, 1, each), np.geomspace(1 / len(normal), 1, each)]
    places = np.rint((1 - rates) * (len(normal) - 1)).astype(np.int64)
    chosen = [normal[places], defect[np.rint(np.linspace(0, len(defect) - 1, each)).astype(int)]]
    return np.unique(np.concatenate(chosen))[::-1]


def _reach(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the scores that are >= each threshold."""
    return 1 - np.searchsorted(ascending, thresholds) / len(ascending)


def _closed(x: np.ndarray, y: np.ndarray) -> Curve:
    return np.r_[0.0, x, 1.0], np.r_[0.0, y, 1.0]
