"""Metrics of whole images, and how a map becomes an image's score."""

from typing import Any

import numpy as np
from scipy.special import expit

from realnet.core.errors import UserError
from realnet.metrics.arrays import array, maps, undefined
from realnet.metrics.ranks import Ranks, Thresholds, rank


def image_auroc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve of image scores: P(anomalous > normal) + P(equal) / 2.

    ``scores`` float [N], ``labels`` [N] (> 0 is anomalous); NumPy or torch. Returns a fraction, or
    NaN with a warning when one class is missing.
    """
    ranks = _ranks(scores, labels, "image_auroc")
    return ranks.auroc() if ranks else float("nan")


def image_ap(scores: Any, labels: Any) -> float:
    """Average precision of image scores, sum of precision times recall step (no interpolation).

    Arguments, result and undefined cases as for :func:`image_auroc`.
    """
    ranks = _ranks(scores, labels, "image_ap")
    return ranks.ap() if ranks else float("nan")


def image_f1_max(scores: Any, labels: Any) -> float:
    """F1 of image scores at its best threshold, which is chosen on these very labels.

    Arguments, result and undefined cases as for :func:`image_auroc`.
    """
    ranks = _ranks(scores, labels, "image_f1_max")
    return ranks.f1_max() if ranks else float("nan")


def image_score(margins: Any, pool: int) -> np.ndarray:
    """One score per image: the maximum of its *probability* map after average pooling.

    Source: official evaluation, ``pool`` 16 at 256 px, stride 1; the paper's text is ``pool`` 1.

    ``margins`` [N, H, W] logit margins, NumPy or torch. Returns float64 [N] in [0, 1]. The
    probability is sigmoid(margin) in float64: it is 1, and images tie, only where margins exceed
    36. In float32 that happens from 17 on, so keep the scores in float64 while they are ranked.
    """
    margins = maps(margins)
    _check_pool(margins.shape, pool)
    scores = [_pooled_maximum(expit(values.astype(np.float64)), pool) for values in margins]
    return _without_nan(scores)


def pooled_maximum(values: Any, pool: int) -> np.ndarray:
    """Maximum of each map after ``pool`` x ``pool`` averaging, stride 1, windows inside the map.

    ``values`` [N, H, W], NumPy or torch; returns float64 [N]. Not invariant under monotone maps
    unless ``pool`` is 1.
    """
    values = maps(values)
    _check_pool(values.shape, pool)
    return _without_nan([_pooled_maximum(value.astype(np.float64), pool) for value in values])


def _check_pool(shape: tuple[int, ...], pool: int) -> None:
    if not 1 <= pool <= min(shape[1:]):
        raise UserError(f"image score: pool {pool} does not fit maps of {shape[1:]} pixels")


def _pooled_maximum(values: np.ndarray, pool: int) -> float:
    """Plain sums, first over rows, then over columns; running sums would let rounding drift."""
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
        raise UserError(
            f"image score: map {int(np.isnan(result).argmax())} contains NaN: the model diverged"
            " (train it with a lower learning rate), or the file is damaged"
        )
    return result


def _ranks(scores: Any, labels: Any, name: str) -> Ranks | None:
    """Of the anomalous images among the normal ones; None, with a warning, without both."""
    scores, labels = scores_and_labels(scores, labels)
    ranks = rank(Thresholds.of(scores[labels], "image scores"), scores[~labels], "image scores")
    if ranks.defects and ranks.normals:
        return ranks
    undefined(name, "normal images" if ranks.defects else "anomalous images")
    return None


def scores_and_labels(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Real [N], bool [N]. UserError: shapes, no image, NaN."""
    scores, labels = array(scores), array(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise UserError(
            f"image scores and labels: expected two lists of one length, found shapes"
            f" {scores.shape} and {labels.shape}"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise UserError("labels contain NaN")
    return scores, labels > 0
