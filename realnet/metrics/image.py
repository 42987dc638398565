"""Image-level metrics, and the image score of an anomaly map."""

from typing import Any

import numpy as np
from scipy.special import expit

from realnet.metrics.arrays import MetricInputError, array, maps, undefined
from realnet.metrics.ranks import Ranks, Thresholds, rank


def image_auroc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve of image scores: P(anomalous > normal) + P(equal) / 2.

    Parameters
    ----------
    scores : array-like of shape (N,)
        Image scores, larger is more anomalous.
    labels : array-like of shape (N,)
        Anomalous where > 0.

    Returns
    -------
    float
        A fraction; NaN, with an :class:`UndefinedMetricWarning`, if one class is missing.

    Raises
    ------
    ValueError
        For different lengths, no image, NaN.

    Examples
    --------
    >>> image_auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    ranks = _ranks(scores, labels, "image_auroc")
    return ranks.auroc() if ranks else float("nan")


def image_ap(scores: Any, labels: Any) -> float:
    """Average precision of image scores: the sum of precision times recall step.

    Parameters, result and errors as for :func:`image_auroc`; no interpolation.

    Examples
    --------
    >>> round(image_ap([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
    0.8333
    """
    ranks = _ranks(scores, labels, "image_ap")
    return ranks.ap() if ranks else float("nan")


def image_f1_max(scores: Any, labels: Any) -> float:
    """Largest F1 over all thresholds of the image scores, chosen on the same labels.

    Parameters, result and errors as for :func:`image_auroc`.

    Examples
    --------
    >>> image_f1_max([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.8
    """
    ranks = _ranks(scores, labels, "image_f1_max")
    return ranks.f1_max() if ranks else float("nan")


def image_score(margins: Any, pool: int) -> np.ndarray:
    """Maximum of each image's *probability* map after average pooling with stride 1.

    The probability is sigmoid(margin) in float64: it saturates at 1, so that images tie, only for
    margins above 36. In float32 that happens from 17 on; keep the scores in float64 for ranking.

    Parameters
    ----------
    margins : array-like of shape (N, H, W)
        Logit margins.
    pool : int
        Side of the pooling window, 1 to min(H, W).

    Returns
    -------
    ndarray of shape (N,), float64
        Scores in [0, 1].

    Raises
    ------
    ValueError
        For another shape, a window that does not fit, NaN.

    References
    ----------
    Official evaluation: ``pool`` 16 at 256 px. The text of the paper corresponds to ``pool`` 1.

    Examples
    --------
    >>> image_score([[[0.0, 0.0], [0.0, 0.0]]], pool=2).tolist()
    [0.5]
    """
    margins = maps(margins)
    _check_pool(margins.shape, pool)
    scores = [_pooled_maximum(expit(values.astype(np.float64)), pool) for values in margins]
    return _without_nan(scores)


def pooled_maximum(values: Any, pool: int) -> np.ndarray:
    """Maximum of each map after ``pool`` x ``pool`` averaging, stride 1, no padding.

    Not invariant under monotone transformations of the map unless ``pool`` is 1.

    Parameters
    ----------
    values : array-like of shape (N, H, W)
    pool : int
        Side of the pooling window, 1 to min(H, W).

    Returns
    -------
    ndarray of shape (N,), float64

    Raises
    ------
    ValueError
        For another shape, a window that does not fit, NaN.

    Examples
    --------
    >>> pooled_maximum([[[0, 1, 1], [0, 1, 1]]], pool=2).tolist()
    [1.0]
    """
    values = maps(values)
    _check_pool(values.shape, pool)
    return _without_nan([_pooled_maximum(value.astype(np.float64), pool) for value in values])


def _check_pool(shape: tuple[int, ...], pool: int) -> None:
    if not 1 <= pool <= min(shape[1:]):
        raise MetricInputError(f"image score: pool {pool} does not fit maps of {shape[1:]} pixels")


def _pooled_maximum(values: np.ndarray, pool: int) -> float:
    """Direct sums over rows, then over columns: running sums would accumulate rounding errors."""
    across = _window_sum(_window_sum(values, pool).T, pool)
    return across.max() / pool**2


def _window_sum(values: np.ndarray, size: int) -> np.ndarray:
    """Sums of ``size`` consecutive rows, float64 [H, W] -> [H - size + 1, W]."""
    rows = len(values) - size + 1
    result = values[:rows].copy()
    for offset in range(1, size):
        result += values[offset : offset + rows]
    return result


def _without_nan(scores: list[float]) -> np.ndarray:
    result = np.array(scores, np.float64)
    if np.isnan(result).any():
        raise MetricInputError(
            f"image score: map {int(np.isnan(result).argmax())} contains NaN: the model diverged"
            " (train it with a lower learning rate), or the file is corrupt"
        )
    return result


def _ranks(scores: Any, labels: Any, name: str) -> Ranks | None:
    """Ranks of the anomalous among the normal images; None, with a warning, for one class."""
    scores, labels = scores_and_labels(scores, labels)
    ranks = rank(Thresholds.of(scores[labels], "image scores"), scores[~labels], "image scores")
    if ranks.defects and ranks.normals:
        return ranks
    undefined(name, "normal images" if ranks.defects else "anomalous images")
    return None


def scores_and_labels(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Validated scores, real (N,), and labels, bool (N,). Raises ValueError: shapes, empty, NaN."""
    scores, labels = array(scores), array(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise MetricInputError(
            f"image scores and labels: expected two lists of one length, found shapes"
            f" {scores.shape} and {labels.shape}"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise MetricInputError("labels contain NaN")
    return scores, labels > 0
