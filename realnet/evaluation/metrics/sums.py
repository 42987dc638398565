"""Sums over defect pixels, from their ranks: the areas under the curves that are never built."""

import math

import numpy as np

from realnet.evaluation.metrics.ranks import Ranks
from realnet.evaluation.metrics.regions import Regions


def overlap_areas(ranks: Ranks, regions: Regions, limit: float) -> np.ndarray:
    """Area under each region's overlap curve up to ``limit``, over ``limit``: float64 [R].

    The sum of h (package docstring) over the region's pixels. At most one threshold straddles the
    limit; for all others h is (2 n L - above - reaching) / (2 n), so whole numbers are summed.
    """
    n, inverse = ranks.normals, ranks.thresholds.inverse
    before, after = ranks.above / n, ranks.reaching / n  # float64 [U]
    inside = after <= limit
    count = regions.per_region(inside[inverse].astype(np.int64))
    lost = regions.per_region(np.where(inside, ranks.wrong, 0)[inverse])
    area = count * limit - lost / (2 * n)
    cut = np.flatnonzero((before < limit) & ~inside)
    if len(cut):
        (k,) = cut
        step = (limit - before[k]) ** 2 / (2 * (after[k] - before[k]))
        area = area + step * regions.per_region((inverse == k).astype(np.int64))
    # A perfect result may exceed 1, and a hopeless one fall below 0, by rounding.
    return np.clip(area / (limit * regions.areas), 0, 1)


def log_shares(ranks: Ranks, low: float, high: float) -> np.ndarray:
    """Share of the rates in [low, high], on a logarithmic scale, at which a score is found: [U].

    Found is 0 below the rate f0, 1 from f1 on, and (x - f0) / (f1 - f0) between; the share is the
    integral of that in dx / x over log(high / low).
    """
    f0, f1 = ranks.above / ranks.normals, ranks.reaching / ranks.normals
    start, end = np.clip(f0, low, high), np.clip(f1, low, high)
    ramp = np.zeros(len(f0))
    steep = (f1 > f0) & (end > start)
    a, b, x0, width = start[steep], end[steep], f0[steep], (f1 - f0)[steep]
    ramp[steep] = ((b - a) - x0 * np.log(b / a)) / width
    return (ramp + np.log(high / end)) / math.log(high / low)


def mean(values: np.ndarray) -> float:
    """The same bits in any order; NaN of nothing."""
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan
