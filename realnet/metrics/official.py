"""Metrics of the official RealNet evaluation, quirks included, for comparison with its numbers.

They are never the headline. Differences from the exact metrics (source: official evaluation):

- an image is anomalous if its *resized* mask has a pixel left; its folder is ignored;
- an AUROC below 0.5 is replaced by 1 - AUROC;
- PRO uses 1000 thresholds that are linear in the score, from the largest down; a region's overlap
  counts hits in its holes too but divides by its area without them, so it may exceed 1; the false
  positive rates up to 0.3 are stretched to [0, 1] from the smallest to the largest one *reached*,
  without interpolation at 0.3. On saturated maps the last one reached may lie far below.
"""

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from realnet.metrics.arrays import MetricInputError, UndefinedMetricWarning
from realnet.metrics.image import image_auroc
from realnet.metrics.pixel import pixel_metrics

STEPS, LIMIT = 1000, 0.3
KEYS = ("image_auroc_official", "pixel_auroc_official", "pro_official")


def official_metrics(maps: Any, masks: Any, pool: int, pro: bool = True) -> dict[str, float]:
    """The three metrics of the official evaluation of one category.

    Parameters
    ----------
    maps : array-like of shape (N, H, W)
        Softmax anomaly maps in [0, 1]; converted to float32.
    masks : array-like of shape (N, H, W)
        Anomalous where > 0.
    pool : int
        Side of the average-pooling window of the image score (official 16).
    pro : bool
        Whether to compute PRO; the evaluations during training do not.

    Returns
    -------
    dict of str to float
        Fractions by the names of ``KEYS`` (PRO may exceed 1); NaN, with an
        :class:`UndefinedMetricWarning`, where undefined.

    Raises
    ------
    ValueError
        For shapes that do not match, a window that does not fit.
    """
    maps = np.ascontiguousarray(maps, dtype=np.float32)
    masks = np.asarray(masks) > 0
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise MetricInputError(
            f"official metrics: maps {maps.shape}, masks {masks.shape}; expected equal"
        )
    if not 1 <= pool <= min(maps.shape[1:]):
        raise MetricInputError(
            f"image score: pool {pool} does not fit maps of {maps.shape[1:]} pixels"
        )
    pooled = F.avg_pool2d(torch.from_numpy(maps)[:, None], pool, stride=1)
    scores = pooled.flatten(1).amax(1).numpy()
    result = {
        "image_auroc_official": _flip(image_auroc(scores, masks.any((1, 2)))),
        "pixel_auroc_official": _flip(pixel_metrics(maps, masks)["pixel_auroc"]),
    }
    return result | ({"pro_official": pro_official(maps, masks)} if pro else {})


def key_metric(measured: dict[str, float]) -> float:
    """Mean of image and pixel AUROC, which the official training maximises on the test set."""
    return (measured["image_auroc_official"] + measured["pixel_auroc_official"]) / 2


def pro_official(maps: np.ndarray, masks: np.ndarray) -> float:
    """The official PRO; thresholds are looked up by rank, so 1000 of them cost one sort.

    Parameters as for :func:`official_metrics`: ``maps`` float32, ``masks`` bool.
    """
    largest, smallest = maps.max(), maps.min()
    # Where a score equals a threshold, rounding decides the comparison. The official code requires
    # NumPy before 1.24, where a float32 scalar times a Python number is float64; it compares with
    # the maps in float32.
    step = np.float64(largest - smallest) / STEPS
    thresholds = (np.float64(largest) - np.arange(STEPS) * step).astype(np.float32)
    normal = np.sort(maps[~masks])
    overlaps = [_overlaps(m, t, thresholds) for m, t in zip(maps, masks, strict=True) if t.any()]
    if not overlaps or not len(normal):
        missing = "region" if len(normal) else "normal pixel"
        return _undefined(f"no {missing}")
    rates = _above(normal, thresholds) / len(normal)
    overlap = np.concatenate(overlaps).mean(0)
    kept = rates <= LIMIT
    rates, overlap = rates[kept], overlap[kept]
    if len(rates) < 2 or rates[0] == rates[-1]:
        return _undefined(f"one false positive rate up to {LIMIT} is reached")
    rates = (rates - rates[0]) / (rates[-1] - rates[0])
    return float(np.trapezoid(overlap, rates))


def _overlaps(values: np.ndarray, mask: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Hits in the filled region over the area of the region itself, float64 [regions, T]."""
    eight = np.ones((3, 3), bool)
    labels, _ = ndimage.label(mask, structure=eight)
    rows = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        region = labels[box] == index
        filled = ndimage.binary_fill_holes(region, structure=eight)
        rows.append(_above(np.sort(values[box][filled]), thresholds) / region.sum())
    return np.stack(rows)


def _above(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return len(ascending) - np.searchsorted(ascending, thresholds, side="right")


def _flip(auroc: float) -> float:
    return 1 - auroc if auroc < 0.5 else auroc


def _undefined(reason: str) -> float:
    warnings.warn(f"pro_official: undefined, {reason}", UndefinedMetricWarning, stacklevel=3)
    return float("nan")
