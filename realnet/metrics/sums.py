"""Areas under curves as sums over defect pixels, from their ranks; no curve is built."""

import math
from collections.abc import Sequence

import numpy as np

from realnet.metrics.ranks import Ranks
from realnet.metrics.regions import Regions


def overlap_areas(ranks: Ranks, regions: Regions, limits: Sequence[float]) -> np.ndarray:
    """Area under each region's overlap curve up to each limit, divided by it: float64 [R, limits].

    The sum of h (see the package docstring) over the pixels of a region. Thresholds ascend, so
    their rates descend: from ``first`` on they are within the limit, and at most the one before
    straddles it. Within the limit h is (2 n L - above - reaching) / (2 n), a sum of integers.
    """
    n, inverse = ranks.normals, ranks.thresholds.inverse
    before, after = ranks.above / n, ranks.reaching / n  # float64 [U], descending
    wrong = ranks.wrong[inverse]
    columns = []
    for limit in limits:
        first = len(after) - np.count_nonzero(after <= limit)
        if first:
            inside = inverse >= first
            count = regions.per_region(inside.astype(np.int64))
            lost = regions.per_region(wrong * inside)
        else:
            count, lost = regions.areas, regions.per_region(wrong)
        area = count * limit - lost / (2 * n)
        if first and before[first - 1] < limit:
            k = first - 1
            step = (limit - before[k]) ** 2 / (2 * (after[k] - before[k]))
            area = area + step * regions.per_region((inverse == k).astype(np.int64))
        # Rounding may push a perfect result above 1 and the worst one below 0.
        columns.append(np.clip(area / (limit * regions.areas), 0, 1))
    return np.stack(columns, axis=1)


def log_shares(ranks: Ranks, low: float, high: float) -> np.ndarray:
    """Mean recall of each threshold over rates in [low, high] on a logarithmic scale: [U].

    The recall is 0 below the rate f0, 1 from f1 on, and (x - f0) / (f1 - f0) between; the mean is
    its integral in dx / x, divided by log(high / low).
    """
    f0, f1 = ranks.above / ranks.normals, ranks.reaching / ranks.normals
    start, end = np.clip(f0, low, high), np.clip(f1, low, high)
    ramp = np.zeros(len(f0))
    steep = (f1 > f0) & (end > start)
    a, b, x0, width = start[steep], end[steep], f0[steep], (f1 - f0)[steep]
    ramp[steep] = ((b - a) - x0 * np.log(b / a)) / width
    return (ramp + np.log(high / end)) / math.log(high / low)


def mean(values: np.ndarray) -> float:
    """Mean, bit-identical for any order of the values; NaN for none."""
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan
