"""Paired differences between variants: same test images, same seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from realnet.metrics import holm, interval, two_sided_p
from realnet.tables.resamples import difference_samples
from realnet.tables.runs import MEAN, Results


@dataclass(frozen=True)
class Difference:
    """Variant minus reference, as fractions; mean over seeds and categories.

    ``difference`` is None if evaluations are missing, NaN if the metric is undefined.
    ``low``, ``high``: interval over the choice of test images, not corrected for the number of
    variants; ``p_holm``: corrected p-value. None where not available.
    """

    variant: str
    difference: float | None
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None


def paired_differences(
    found: Results, variants: Sequence[str], metric: str, dataset: str | None = None
) -> list[Difference]:
    """One row for each of ``variants`` but the first, which is the reference.

    Differences of the mean over the categories of ``dataset`` or, with None, over datasets.
    ``metric``: one of METRICS. p-values are corrected by Holm over these variants. A variant that
    shares the reference's evaluation has difference 0 and no p-value.
    """
    reference, *others = variants
    base = found.by_seed(dataset, reference, MEAN, metric)
    rows, p_values = [], []
    for variant in others:
        value = found.by_seed(dataset, variant, MEAN, metric)
        row = Difference(variant, _minus(value, base))
        samples = difference_samples(found, dataset, variant, reference, MEAN, metric)
        p = math.nan
        if samples is not None and not np.isnan(samples).any():
            low, high = interval(samples, found.matrix.level)
            row = Difference(variant, row.difference, low, high)
            if found.matrix.folders[variant] != found.matrix.folders[reference]:
                p = two_sided_p(samples)
        rows.append(row)
        p_values.append(p)
    corrected = [None if math.isnan(p) else p for p in holm(p_values)]
    return [
        Difference(row.variant, row.difference, row.low, row.high, p)
        for row, p in zip(rows, corrected, strict=True)
    ]


def _minus(one: dict[int, float], other: dict[int, float]) -> float | None:
    if not one or not other:
        return None
    return statistics.fmean(one.values()) - statistics.fmean(other.values())
