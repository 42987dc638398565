"""Slow implementations of the metrics from their definitions; they share no code with the package.

Pairs of each defect pixel and all normal ones are counted and summed as fractions, so small cases
are exact. Curves are built point by point from all pixels, sorted in float64.
"""

from fractions import Fraction

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3), bool)


def components(mask: np.ndarray) -> list[np.ndarray]:
    """8-connected regions of one mask, bool [H, W] each: every pixel takes the minimum label of its
    neighbours until nothing changes."""
    outside = mask.size
    numbers = np.where(mask, np.arange(mask.size).reshape(mask.shape), outside)
    while True:
        padded = np.pad(numbers, 1, constant_values=outside)
        height, width = mask.shape
        least = numbers
        for down in range(3):
            for right in range(3):
                least = np.minimum(least, padded[down : down + height, right : right + width])
        least = np.where(mask, least, outside)
        if np.array_equal(least, numbers):
            return [numbers == number for number in np.unique(numbers[mask])]
        numbers = least


def all_components(masks: np.ndarray) -> list[tuple[int, np.ndarray]]:
    return [(i, region) for i, mask in enumerate(masks) for region in components(mask)]


# --- pairs ---------------------------------------------------------------------------------------


def step_area(above: int, reaching: int, normals: int, limit: Fraction) -> Fraction:
    """Area under the curve of one defect pixel up to ``limit``: 0, then a ramp, then 1."""
    start, end = Fraction(above, normals), Fraction(reaching, normals)
    if end <= limit:
        return limit - (start + end) / 2
    if start >= limit:
        return Fraction(0)
    return (limit - start) ** 2 / (2 * (end - start))


def pair_pro(margins: np.ndarray, masks: np.ndarray, limit: float) -> list[Fraction]:
    """Exact AU-PRO of each region, ordered by image and first pixel of the region."""
    normal = margins[~masks]
    exact = Fraction(limit)
    areas = []
    for index, region in all_components(masks):
        total = Fraction(0)
        for score in margins[index][region]:
            above, reaching = int((normal > score).sum()), int((normal >= score).sum())
            total += step_area(above, reaching, len(normal), exact)
        areas.append(total / int(region.sum()) / exact)
    return areas


def pair_auroc(scores: np.ndarray, truth: np.ndarray) -> Fraction:
    wins = Fraction(0)
    normal = scores[~truth]
    for score in scores[truth]:
        wins += int((score > normal).sum()) + Fraction(int((score == normal).sum()), 2)
    return wins / (int(truth.sum()) * len(normal))


# --- curves --------------------------------------------------------------------------------------


def pro_curve(margins: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False positive rate and mean overlap at every distinct score, float64, from (0, 0)."""
    weights = np.zeros(masks.shape)
    regions = 0
    for mask, weight in zip(masks, weights, strict=True):
        labels, count = ndimage.label(mask, structure=EIGHT)
        areas = np.bincount(labels.ravel(), minlength=count + 1)
        weight[mask] = 1 / areas[labels[mask]]
        regions += count
    order = np.argsort(-margins.ravel(), kind="stable")
    ranked = margins.ravel()[order]
    rates = np.cumsum(~masks.ravel()[order]) / (~masks).sum()
    overlap = np.cumsum(weights.ravel()[order]) / regions
    last = np.r_[ranked[1:] != ranked[:-1], True]
    return np.r_[0, rates[last]], np.r_[0, overlap[last]]


def area_below(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Area by trapezoids up to ``limit``, where the curve is interpolated, divided by ``limit``."""
    end = int(np.searchsorted(x, limit, side="right"))
    xs, ys = x[:end], y[:end]
    if end < len(x):
        share = (limit - x[end - 1]) / (x[end] - x[end - 1])
        xs, ys = np.r_[xs, limit], np.r_[ys, y[end - 1] + share * (y[end] - y[end - 1])]
    return float(np.sum(np.diff(xs) * (ys[1:] + ys[:-1]) / 2) / limit)


# --- AUPIMO --------------------------------------------------------------------------------------


def image_recall(margins, mask, thresholds) -> np.ndarray:
    scores = np.sort(margins[mask])
    return 1 - np.searchsorted(scores, thresholds) / len(scores)


def shared_rate(margins, masks, thresholds) -> np.ndarray:
    """Mean of the false positive rates of the images without defect."""
    rates = [
        1 - np.searchsorted(np.sort(values, axis=None), thresholds) / values.size
        for values, mask in zip(margins, masks, strict=True)
        if not mask.any()
    ]
    return np.mean(rates, axis=0)


def aupimo_of_thresholds(
    margins: np.ndarray, masks: np.ndarray, count: int = 300_000, low=1e-5, high=1e-4
) -> np.ndarray:
    """As published: linear thresholds over the scores of normal images; trapezoids over log rate
    between the thresholds whose rates are closest to the bounds, divided by log(high / low)."""
    normal = margins[~masks.any((1, 2))]
    thresholds = np.linspace(normal.max(), normal.min(), count)
    rates = shared_rate(margins, masks, thresholds)
    first, last = np.abs(rates - low).argmin(), np.abs(rates - high).argmin()
    inside = slice(first, last + 1)
    x = np.log(rates[inside])
    result = np.full(len(masks), np.nan)
    for index in np.flatnonzero(masks.any((1, 2))):
        y = image_recall(margins[index], masks[index], thresholds[inside])
        result[index] = np.trapezoid(y, x) / np.log(high / low)
    return result


def aupimo_of_curve(
    margins: np.ndarray, masks: np.ndarray, points: int = 200_001, low=1e-5, high=1e-4
) -> np.ndarray:
    """Every distinct score is a threshold; recall is interpolated linearly in the rate and averaged
    over ``points`` log-spaced rates."""
    thresholds = np.unique(margins)[::-1]
    rates = np.r_[0, shared_rate(margins, masks, thresholds)]
    edges = np.geomspace(low, high, points)
    middle = np.sqrt(edges[1:] * edges[:-1])
    result = np.full(len(masks), np.nan)
    for index in np.flatnonzero(masks.any((1, 2))):
        recall = np.r_[0, image_recall(margins[index], masks[index], thresholds)]
        # Where recall jumps at one rate, `interp` takes the last point, which is correct above it.
        result[index] = np.interp(middle, rates, recall).mean()
    return result


# --- the official PRO ----------------------------------------------------------------------------


def filled(region: np.ndarray) -> np.ndarray:
    """Fill holes: pixels that the outside does not reach by 8-connected steps."""
    around = ~np.pad(region, 1)
    outer = next(part for part in components(around) if part[0, 0])
    return ~outer[1:-1, 1:-1]


def official_pro(maps: np.ndarray, masks: np.ndarray) -> float:
    """The RealNet authors' PRO of float32 ``maps``, threshold by threshold.

    With the NumPy of their environment (before 1.24) thresholds are float64, and are rounded to
    float32 where they are compared with the map.
    """
    top, bottom = maps.max(), maps.min()
    step = float(top - bottom) / 1000
    regions = [(i, filled(region), int(region.sum())) for i, region in all_components(masks)]
    normals = int((~masks).sum())
    rates, overlaps = [], []
    for k in range(1000):
        hits = maps > np.float32(float(top) - k * step)
        overlaps.append(np.mean([(hits[i] & whole).sum() / area for i, whole, area in regions]))
        rates.append((hits & ~masks).sum() / normals)
    x, y = np.array(rates), np.array(overlaps)
    x, y = x[x <= 0.3], y[x <= 0.3]
    x = (x - x.min()) / (x.max() - x.min())
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
