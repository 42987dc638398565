"""Exact detection and localisation metrics, in rank form.

Contract, for every function here:

- A score is better the larger it is on anomalies. Only the order of the scores counts, so every
  strictly monotone map of them (logits, probabilities) gives the same metrics, as long as it
  makes no new ties: pass float32 logit margins rather than float32 probabilities, which saturate.
- Masks are anomalous where > 0, at the resolution at which they are given. Regions are
  8-connected, labelled once per image.
- Equal scores are one threshold (ties are merged) and curves are trapezoidal between thresholds;
  AU-PRO interpolates at its limit on the false positive rate.
- Counts are int64 and sums float64. The order of images changes at most the last bits of PRO.
- A metric that its data do not define (one class only, no region) is NaN, with an
  :class:`UndefinedMetricWarning`; it is never 0 and never flipped to 1 - AUC.

Every metric below is a sum over the *defect* pixels. With n normal pixels, a defect pixel of score
s sees the false positive rates f0 = #{normal > s} / n just before and f1 = #{normal >= s} / n just
after its threshold. It adds to the area under a curve of the true positive rate, up to a limit L,
its weight times the area under its own step, which rises linearly from f0 to f1:

    h(s) = L - (f0 + f1) / 2                if f1 <= L
           (L - f0)^2 / (2 (f1 - f0))       if f0 < L < f1
           0                                if L <= f0

Equal weights and L = 1 give the AUROC; weights 1 / (regions * area of its region) give AU-PRO.
So no curve is built: the normal scores are sorted (values only) and the defect scores looked up,
O(N log N) time and O(N) memory, with N the number of pixels.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.special import expit

from realnet.errors import UserError


class UndefinedMetricWarning(UserWarning):
    """A metric is NaN because the data do not define it."""


# --- images --------------------------------------------------------------------------------------


def image_auroc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve of image scores: P(anomalous > normal) + P(equal) / 2.

    ``scores`` float [N], ``labels`` [N] (> 0 is anomalous); NumPy or torch. Returns a fraction, or
    NaN with a warning when one class is missing.
    """
    ranks = _image_ranks(scores, labels)
    return _auroc(ranks) if _both_classes(ranks, "image_auroc", "images") else float("nan")


def image_ap(scores: Any, labels: Any) -> float:
    """Average precision of image scores, sum of precision times recall step (no interpolation).

    Arguments, result and undefined cases as for :func:`image_auroc`.
    """
    ranks = _image_ranks(scores, labels)
    return _ap(ranks) if _both_classes(ranks, "image_ap", "images") else float("nan")


def image_score(margins: Any, pool: int) -> np.ndarray:
    """One score per image: the maximum of its *probability* map after average pooling.

    Source: official evaluation, ``pool`` 16 at 256 px, stride 1; the paper's text is ``pool`` 1.

    ``margins`` [N, H, W] logit margins, NumPy or torch. Returns float64 [N] in [0, 1]. The
    probability is sigmoid(margin) in float64: it is 1, and images tie, only where margins exceed
    36. In float32 that happens from 17 on, so keep the scores in float64 while they are ranked.
    """
    return pooled_maximum(expit(_maps(margins).astype(np.float64)), pool)


def pooled_maximum(maps: Any, pool: int) -> np.ndarray:
    """Maximum of each map after ``pool`` x ``pool`` averaging, stride 1, windows inside the map.

    ``maps`` [N, H, W], NumPy or torch; returns float64 [N]. Not invariant under monotone maps
    unless ``pool`` is 1.
    """
    maps = _maps(maps)
    if not 1 <= pool <= min(maps.shape[1:]):
        raise UserError(f"image score: pool {pool} does not fit maps of {maps.shape[1:]} pixels")
    scores = np.empty(len(maps))
    for index, values in enumerate(maps):
        # Plain sums, first over rows, then over columns; running sums would let rounding drift.
        down = _window_sum(values.astype(np.float64), pool)
        across = _window_sum(down.T, pool)
        scores[index] = across.max() / pool**2
    if np.isnan(scores).any():
        raise UserError(f"image score: map {int(np.isnan(scores).argmax())} contains NaN")
    return scores


# --- pixels --------------------------------------------------------------------------------------


def pixel_metrics(margins: Any, masks: Any, pro_limit: float = 0.3) -> dict[str, float | int]:
    """Localisation metrics over all pixels of all images, pooled.

    ``margins`` [N, H, W] float32 (any real dtype; infinities are scores, NaN is an error);
    ``masks`` [N, H, W], > 0 is anomalous; NumPy or torch. ``pro_limit`` in (0, 1].

    Returns fractions, NaN with a warning where undefined:
    ``pixel_auroc``; ``pixel_ap`` (average precision); ``pixel_f1_max`` (at its best threshold,
    chosen on these very masks); ``pro``: the area under the curve of the mean overlap per region
    against the false positive rate, up to ``pro_limit``, divided by ``pro_limit``;
    and the counts ``regions``, ``defect_pixels``, ``normal_pixels``.
    """
    if not 0 < pro_limit <= 1:
        raise UserError(f"pro_limit is {pro_limit}, expected a false positive rate in (0, 1]")
    margins, masks = _maps_and_masks(margins, masks)
    ranks = _rank(margins[masks], margins[~masks], "scores")
    weights, regions = _region_weights(masks)
    result: dict[str, float | int] = dict.fromkeys(
        ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"), float("nan")
    )
    if _both_classes(ranks, "pixel_auroc, pixel_ap, pixel_f1_max and pro", "pixels"):
        result |= {
            "pixel_auroc": _auroc(ranks),
            "pixel_ap": _ap(ranks),
            "pixel_f1_max": _f1_max(ranks),
            # fsum: a BLAS dot product depends on where the arrays lie in memory, in its last digit.
            # A perfect result may exceed 1 by the rounding of the weights' sum.
            "pro": min(1.0, math.fsum(weights[ranks.order] * _areas(ranks, pro_limit)) / pro_limit),
        }
    return result | {
        "regions": regions,
        "defect_pixels": ranks.defects,
        "normal_pixels": ranks.normals,
    }


def image_separation(margins: Any, masks: Any) -> np.ndarray:
    """How well each image's defect stands out: its own share of the pixel AUROC, float64 [N].

    The AUROC of the image's defect pixels against the normal pixels of *all* images; the pixel
    AUROC is the mean of it over images, weighted by defect pixels. NaN for images without defect.
    """
    margins, masks = _maps_and_masks(margins, masks)
    ranks = _rank(margins[masks], margins[~masks], "scores")
    share = np.empty(ranks.defects)
    share[ranks.order] = _areas(ranks, 1.0)
    counts = masks.sum(axis=(1, 2))
    image = np.repeat(np.arange(len(masks)), counts)
    total = np.bincount(image, weights=share, minlength=len(masks))
    return np.divide(total, counts, out=np.full(len(masks), np.nan), where=counts > 0)


# --- ranks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ranks:
    """Where the P defect scores, sorted ascending, stand among the n normal and P defect scores."""

    order: np.ndarray  # int64 [P]: sorted position -> position in the input
    above: np.ndarray  # int64 [P]: normal scores > s
    reaching: np.ndarray  # int64 [P]: normal scores >= s
    found: np.ndarray  # int64 [P]: defect scores >= s
    normals: int

    @property
    def defects(self) -> int:
        return len(self.order)


def _rank(defect: np.ndarray, normal: np.ndarray, name: str) -> _Ranks:
    order = np.argsort(defect, kind="stable")
    defect = defect[order]
    normal = np.sort(normal)
    # NaN sorts last, so looking at the ends is enough.
    if any(len(v) and v.dtype.kind == "f" and np.isnan(v[-1]) for v in (defect, normal)):
        raise UserError(f"{name} contain NaN: the model diverged, or the file is damaged")
    n = len(normal)
    return _Ranks(
        order=order,
        above=n - np.searchsorted(normal, defect, side="right"),
        reaching=n - np.searchsorted(normal, defect, side="left"),
        found=len(defect) - np.searchsorted(defect, defect, side="left"),
        normals=n,
    )


def _both_classes(ranks: _Ranks, names: str, what: str) -> bool:
    if ranks.defects and ranks.normals:
        return True
    missing = "normal" if ranks.defects else "anomalous"
    warnings.warn(f"{names}: undefined, no {missing} {what}", UndefinedMetricWarning, stacklevel=3)
    return False


def _auroc(ranks: _Ranks) -> float:
    # Twice the number of wrongly ordered pairs is an integer: exact up to one division.
    wrong = int(ranks.above.sum()) + int(ranks.reaching.sum())
    return 1 - wrong / (2 * ranks.defects * ranks.normals)


def _ap(ranks: _Ranks) -> float:
    return float(np.mean(ranks.found / (ranks.found + ranks.reaching)))


def _f1_max(ranks: _Ranks) -> float:
    # Only a defect score can be the best threshold: others add false positives alone.
    return float(np.max(2 * ranks.found / (ranks.defects + ranks.found + ranks.reaching)))


def _areas(ranks: _Ranks, limit: float) -> np.ndarray:
    """h(s) of the module's docstring for the sorted defect scores, float64 [P]."""
    before = ranks.above / max(ranks.normals, 1)
    after = ranks.reaching / max(ranks.normals, 1)
    areas = np.maximum(limit - (before + after) / 2, 0)
    cut = (before < limit) & (limit < after)
    areas[cut] = (limit - before[cut]) ** 2 / (2 * (after[cut] - before[cut]))
    areas[before >= limit] = 0
    return areas


def _region_weights(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """1 / (regions * area of its region) per defect pixel in reading order, and the regions."""
    weights = []
    regions = 0
    for mask in masks:
        if not mask.any():
            continue
        count, labels, stats, _ = cv2.connectedComponentsWithStats(
            mask.view(np.uint8), connectivity=8
        )
        regions += count - 1
        weights.append(1 / stats[labels[mask], cv2.CC_STAT_AREA])
    if not regions:
        return np.empty(0), 0
    return np.concatenate(weights) / regions, regions


# --- input ---------------------------------------------------------------------------------------


def _array(values: Any) -> np.ndarray:
    """NumPy array of a NumPy-like or torch (any device) input, in a dtype that sorts exactly."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UserError(f"scores and masks must be real numbers, found dtype {array.dtype}")
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array.astype(np.uint8) if array.dtype == bool else array


def _maps(values: Any, name: str = "scores") -> np.ndarray:
    array = _array(values)
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{name}: expected images x height x width, found shape {array.shape}")
    return array


def _maps_and_masks(margins: Any, masks: Any) -> tuple[np.ndarray, np.ndarray]:
    margins, masks = _maps(margins), _maps(masks, "masks")
    if margins.shape != masks.shape:
        raise UserError(
            f"scores have shape {margins.shape}, masks {masks.shape}: resize one to the other first"
        )
    if masks.dtype.kind == "f" and np.isnan(masks).any():
        raise UserError("masks contain NaN")
    return margins, np.ascontiguousarray(masks > 0)


def _image_ranks(scores: Any, labels: Any) -> _Ranks:
    scores, labels = _array(scores), _array(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise UserError(
            f"image scores and labels: expected two lists of one length, found shapes"
            f" {scores.shape} and {labels.shape}"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise UserError("labels contain NaN")
    return _rank(scores[labels > 0], scores[labels <= 0], "image scores")


def _window_sum(values: np.ndarray, size: int) -> np.ndarray:
    """Sums of ``size`` consecutive rows, float64 [H, W] -> [H - size + 1, W]."""
    rows = len(values) - size + 1
    total = values[:rows].copy()
    for offset in range(1, size):
        total += values[offset : offset + rows]
    return total
