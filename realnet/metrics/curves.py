"""ROC, precision-recall and PRO curves for plots: a subset of the exact points of each curve.

No metric is computed from these; the areas come from ranks (:mod:`.pixel`).
"""

from typing import Any

import numpy as np

from realnet.metrics.arrays import array, binary, maps, same_shape
from realnet.metrics.regions import label_regions

Curve = tuple[np.ndarray, np.ndarray]  # x, y: float64 [K], x ascending


def roc_curve(scores: Any, truth: Any, points: int = 1000) -> Curve:
    """ROC curve: linear between thresholds, from (0, 0) to (1, 1).

    Parameters
    ----------
    scores, truth : array-like of one shape
        Scores, and truth: anomalous where > 0.
    points : int
        About how many points of the curve to return.

    Returns
    -------
    tuple of ndarray
        False and true positive rates, float64; empty where a class is missing.

    Raises
    ------
    ValueError
        For shapes that do not match.

    Examples
    --------
    >>> [axis.tolist() for axis in roc_curve([1, 2, 3], [0, 0, 1])]
    [[0.0, 0.0, 0.5, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0, 1.0]]
    """
    defect, normal = _sorted(scores, truth)
    if not len(defect) or not len(normal):
        return np.empty(0), np.empty(0)
    thresholds = _thresholds(defect, normal, points)
    return _closed(_reach(normal, thresholds), _reach(defect, thresholds))


def pr_curve(scores: Any, truth: Any, points: int = 1000) -> Curve:
    """Precision-recall curve, a step function: plot it with ``drawstyle="steps-pre"``.

    Parameters and undefined cases as for :func:`roc_curve`. The first point has recall 0 and the
    precision of the highest threshold.

    Returns
    -------
    tuple of ndarray
        Recall and precision, float64.
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
    """PRO curve: mean overlap per region over the false positive rate, from (0, 0) to (1, 1).

    Parameters
    ----------
    margins, masks : array-like of shape (N, H, W)
        As for :func:`~realnet.metrics.localise`.
    points : int
        About how many points of the curve to return.

    Returns
    -------
    tuple of ndarray
        False positive rate and mean overlap, float64; undefined cases as for :func:`roc_curve`.
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


def _sorted(scores: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = array(scores), array(truth) > 0
    same_shape(scores, truth.shape)
    return np.sort(scores[truth]), np.sort(scores[~truth])


def _thresholds(defect: np.ndarray, normal: np.ndarray, points: int) -> np.ndarray:
    """At most ``points`` of the scores, descending: evenly spaced by rank in both classes, and
    denser among the highest normal scores, where curves bend."""
    each = max(2, points // 3)
    rates = np.r_[np.linspace(0, 1, each), np.geomspace(1 / len(normal), 1, each)]
    places = np.rint((1 - rates) * (len(normal) - 1)).astype(np.int64)
    chosen = [normal[places], defect[np.rint(np.linspace(0, len(defect) - 1, each)).astype(int)]]
    return np.unique(np.concatenate(chosen))[::-1]


def _reach(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the scores >= each threshold."""
    return 1 - np.searchsorted(ascending, thresholds) / len(ascending)


def _closed(x: np.ndarray, y: np.ndarray) -> Curve:
    return np.r_[0.0, x, 1.0], np.r_[0.0, y, 1.0]
