"""Confidence intervals and paired tests by a stratified bootstrap of the test images.

Images are resampled with replacement within each defect type and among the normal ones, and every
metric is computed on each resample. The maps are not needed: a :class:`PerImage` holds, for each
image, its pixel counts at a few hundred thresholds, and their weighted sums are the counts of any
resample. Image metrics are exact on every resample. Pixel metrics are exact at the thresholds and
linear between them; the error is around 1e-5, a thousandth of the width of typical intervals.

This includes the choice of test images. It does not include the training seed, the choice of
parameters or the annotation. Source: Efron 1979, percentile interval; ours.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from realnet.core.seeds import numpy_generator
from realnet.metrics.arrays import MetricInputError
from realnet.metrics.image_counts import PerImage

BOOTSTRAPPED = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro")


def resample(strata: np.ndarray, count: int, seed: int = 0, name: str = "") -> np.ndarray:
    """Draw bootstrap weights: how often each image occurs in each resample.

    The draws depend on ``strata``, ``seed`` and ``name`` only: two variants evaluated on the same
    images get the same resamples, so that their samples are paired.

    Parameters
    ----------
    strata : ndarray of shape (N,), str
        Every resample has as many images of a stratum as the test set.
    count : int
        Number of resamples.
    seed, name
        Of the random generator.

    Returns
    -------
    ndarray of shape (count, N), int64
    """
    weights = np.zeros((count, len(strata)), np.int64)
    for stratum in np.unique(strata).tolist():
        members = np.flatnonzero(strata == stratum)
        generator = numpy_generator(seed, "bootstrap", name, stratum)
        share = np.full(len(members), 1 / len(members))
        weights[:, members] = generator.multinomial(len(members), share, size=count)
    return weights


def bootstrap(
    stats: PerImage, metric: str, count: int = 1000, seed: int = 0, name: str = ""
) -> np.ndarray:
    """The metric on ``count`` resampled test sets.

    Parameters
    ----------
    stats : PerImage
    metric : str
        One of ``BOOTSTRAPPED``.
    count, seed, name
        As for :func:`resample`.

    Returns
    -------
    ndarray of shape (count,), float64
        All NaN where the metric is undefined.

    Raises
    ------
    ValueError
        For another metric.
    """
    return metric_of(stats, metric, resample(stats.strata, count, seed, name))


def metric_of(stats: PerImage, metric: str, weights: np.ndarray) -> np.ndarray:
    """The metric on test sets where image i occurs ``weights[b, i]`` times: float64 [B]."""
    if metric not in BOOTSTRAPPED:
        raise MetricInputError(
            f"metric {metric!r}: no interval for it; one of {', '.join(BOOTSTRAPPED)}"
        )
    weights = weights.astype(np.float64)
    pixels = metric.startswith("pixel") or metric == "pro"
    has_both = (
        (stats.defect_pixels.any() and stats.normal_pixels.any())
        if pixels
        else (stats.labels.any() and not stats.labels.all())
    )
    if not has_both or (pixels and not stats.has_pixels):
        return np.full(len(weights), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is NaN: undefined there
        return _METRICS[metric](stats, weights)


def _image_auroc(stats: PerImage, weights: np.ndarray) -> np.ndarray:
    anomalous = stats.labels > 0
    high, low = stats.scores[anomalous], stats.scores[~anomalous]
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    a, n = weights[:, anomalous], weights[:, ~anomalous]
    return ((a @ wins) * n).sum(1) / (a.sum(1) * n.sum(1))


def _image_ap(stats: PerImage, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(-stats.scores, kind="stable")
    scores = stats.scores[order]
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])  # of each group of equal scores
    drawn = weights[:, order]
    total = np.cumsum(drawn, axis=1)[:, last]
    found = np.cumsum(drawn * stats.labels[order], axis=1)[:, last]
    return _steps(found, total)


def _pixel_auroc(stats: PerImage, weights: np.ndarray) -> np.ndarray:
    rates = _share(weights, stats.false, stats.normal_pixels)
    return _area(rates, _share(weights, stats.found, stats.defect_pixels), 1.0)


def _pixel_ap(stats: PerImage, weights: np.ndarray) -> np.ndarray:
    """Average precision, interpolated between thresholds as if their pixels were evenly mixed.

    With F defect pixels among T before a step that adds d defect pixels among D, the precision
    after a share x of the step is (F + x d) / (T + x D); its mean over x is
    d / D + (F - T d / D) log(1 + D / T) / D. Source: Davis and Goadrich 2006.
    """
    found = weights @ stats.found.astype(np.float64)
    total = found + weights @ stats.false.astype(np.float64)
    first = np.zeros((len(found), 1))
    found_before = np.concatenate([first, found[:, :-1]], axis=1)
    total_before = np.concatenate([first, total[:, :-1]], axis=1)
    step, width = found - found_before, total - total_before
    share = np.divide(step, width, out=np.zeros_like(step), where=width > 0)
    bends = (total_before > 0) & (width > 0)
    growth = np.log1p(np.divide(width, total_before, out=np.zeros_like(step), where=bends))
    bend = np.divide(
        found_before - total_before * share, width, out=np.zeros_like(step), where=bends
    )
    return (step * (share + bend * growth)).sum(1) / found[:, -1]


def _pro(stats: PerImage, weights: np.ndarray) -> np.ndarray:
    rates = _share(weights, stats.false, stats.normal_pixels)
    return _area(rates, _share(weights, stats.overlap, stats.regions), stats.pro_limit)


_METRICS = {
    "image_auroc": _image_auroc,
    "image_ap": _image_ap,
    "pixel_auroc": _pixel_auroc,
    "pixel_ap": _pixel_ap,
    "pro": _pro,
}


def _share(weights: np.ndarray, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return (weights @ part.astype(np.float64)) / (weights @ whole.astype(np.float64))[:, None]


def _steps(found: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Average precision along thresholds, both cumulative [B, T]."""
    precision = np.divide(found, total, out=np.zeros_like(total), where=total > 0)
    return (np.diff(found, axis=1, prepend=0) * precision).sum(1) / found[:, -1]


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> np.ndarray:
    """Under the curve through (0, 0), the points, and (1, 1), up to ``limit``, over it: [B]."""
    x = np.pad(x, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    y = np.pad(y, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    x0, y0 = x[:, :-1], y[:, :-1]
    width = np.diff(x, axis=1)
    inside = np.clip(limit - x0, 0, width)
    slope = np.divide(np.diff(y, axis=1), width, out=np.zeros_like(width), where=width > 0)
    return (inside * (y0 + slope * inside / 2)).sum(1) / limit


# --- intervals and tests from samples ------------------------------------------------------------


def mean_samples(
    groups: Mapping[str, Sequence[PerImage]], metric: str, count: int = 1000, seed: int = 0
) -> np.ndarray:
    """Bootstrap samples of the mean over categories of the mean over seeds.

    Seeds share their test images, so the same resamples are used for all of them; categories are
    resampled independently. As for :func:`bootstrap`, the samples of two variants are paired.

    Parameters
    ----------
    groups : mapping of str to sequence of PerImage
        Category -> the statistics of each seed.
    metric, count, seed
        As for :func:`bootstrap`.

    Returns
    -------
    ndarray of shape (count,), float64

    Raises
    ------
    ValueError
        If the seeds of a category have different test images.
    """
    means = []
    for name, of_seeds in groups.items():
        weights = resample(of_seeds[0].strata, count, seed, name)
        for stats in of_seeds:
            if stats.key != of_seeds[0].key:
                raise MetricInputError(
                    f"{name}: results of different test images have no common interval"
                )
        means.append(np.mean([metric_of(stats, metric, weights) for stats in of_seeds], axis=0))
    return np.mean(means, axis=0)


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; (NaN, NaN) if a sample is NaN.

    Examples
    --------
    >>> interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    if np.isnan(samples).any():
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def two_sided_p(difference: np.ndarray) -> float:
    """Two-sided bootstrap p-value of "no difference", from samples of a paired difference.

    Twice the share of samples on the other side of 0 (those at 0 count half), with one added to
    numerator and denominator, so that it is never 0. NaN if a sample is NaN.

    References
    ----------
    Davison and Hinkley 1997, sec. 4.2.

    Examples
    --------
    >>> two_sided_p(np.full(999, 0.1))
    0.002
    """
    if np.isnan(difference).any():
        return float("nan")
    count = len(difference)
    below = (difference < 0).sum() + 0.5 * (difference == 0).sum()
    return float(min(1.0, 2 * (min(below, count - below) + 1) / (count + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple testing: controls the family-wise error rate.

    NaN stays NaN and is not counted.

    References
    ----------
    Holm 1979.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    p = np.asarray(p_values, np.float64)
    order = [k for k in np.argsort(p, kind="stable") if not np.isnan(p[k])]
    corrected = p.copy()
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, float(p[k]) * (len(order) - rank)))
        corrected[k] = largest
    return corrected.tolist()
