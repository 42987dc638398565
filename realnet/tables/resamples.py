"""Means over resampled test sets; each set of resamples is drawn once.

Samples come from ``per_image.npz`` beside each metrics file, see
:mod:`realnet.metrics.uncertainty`. The test images of each category are resampled, stratified by
defect type; all seeds and variants of a category use the same draws. So samples of two variants on
the same images are paired and can be subtracted.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from realnet.evaluation.stored import load_per_image
from realnet.metrics import BOOTSTRAPPED, PerImage, mean_samples
from realnet.metrics import interval as interval_of
from realnet.tables.runs import METRICS, Results, Run, Stat, complete

FILE = "per_image.npz"


def with_interval(
    results: Results, dataset: str | None, variant: str, category: str, metric: str
) -> Stat:
    """:meth:`Results.stat` with its interval, if available.

    ``metric``: one of METRICS. ``dataset`` None: :meth:`Results.overall`.
    """
    if dataset is None:
        stat = results.overall(variant, metric)
    else:
        stat = results.stat(dataset, variant, category, metric)
    drawn = samples(results, dataset, variant, category, metric)
    if drawn is None or np.isnan(drawn).any():
        return stat
    return replace(stat, interval=interval_of(drawn, results.matrix.level))


def samples(
    results: Results,
    dataset: str | None,
    variant: str,
    category: str,
    metric: str,
    seeds: Sequence[int] | None = None,
) -> np.ndarray | None:
    """Mean over seeds and categories (and datasets) of each resample; fractions [count].

    Arguments as for :meth:`Results.by_seed`; ``seeds`` defaults to those that it finds. All NaN
    if the metric is undefined; None if a run is missing or has no per-image statistics, or if the
    test images differ between seeds.
    """
    if results.matrix.bootstrap == 0:
        return None
    if seeds is None:
        seeds = tuple(results.by_seed(dataset, variant, category, metric))
    means = []
    for name, categories in results.parts(dataset, category).items():
        found = [_of_category(results, name, c, variant, metric, tuple(seeds)) for c in categories]
        if not (known := complete(found)):
            return None
        means.append(np.mean(known, axis=0))
    return np.mean(means, axis=0)


def difference_samples(
    results: Results, dataset: str | None, variant: str, reference: str, category: str, metric: str
) -> np.ndarray | None:
    """Variant minus reference; None if their test images or seeds differ."""
    seeds = results.by_seed(dataset, variant, category, metric)
    if tuple(seeds) != tuple(results.by_seed(dataset, reference, category, metric)):
        return None
    both = [samples(results, dataset, v, category, metric) for v in (variant, reference)]
    if both[0] is None or both[1] is None:
        return None
    for name, categories in results.parts(dataset, category).items():
        for c in categories:
            keys = [_drawn(results, name, c, v, tuple(seeds))[0] for v in (variant, reference)]
            if keys[0] != keys[1]:
                return None
    return both[0] - both[1]


def lacking(results: Results) -> list[Path]:
    """Folders of evaluations without per-image statistics (results of an older version)."""
    if results.matrix.bootstrap == 0:
        return []
    folders = dict.fromkeys(results.files[run].parent for run in results.runs)
    return [folder for folder in folders if not (folder / FILE).is_file()]


def _of_category(
    results: Results, dataset: str, category: str, variant: str, metric: str, seeds: tuple[int, ...]
) -> np.ndarray | None:
    if not seeds or metric not in BOOTSTRAPPED:
        return None
    return _drawn(results, dataset, category, variant, seeds)[1].get(metric)


def _drawn(
    results: Results, dataset: str, category: str, variant: str, seeds: tuple[int, ...]
) -> tuple[str, dict[str, np.ndarray]]:
    """(key of the test images, metric -> samples); each file is read once."""
    files = [results.files[Run(dataset, category, k, variant)].with_name(FILE) for k in seeds]
    where = (category, *files)  # variants that share an evaluation share its samples
    if where not in results.drawn:
        results.drawn[where] = _draw(category, files, results.matrix.bootstrap)
    return results.drawn[where]


def _draw(category: str, files: Sequence[Path], count: int) -> tuple[str, dict[str, np.ndarray]]:
    if not all(file.is_file() for file in files):
        return "", {}
    stats: list[PerImage] = [load_per_image(file) for file in files]
    if len({part.key for part in stats}) > 1:
        return "", {}
    drawn = {metric: mean_samples({category: stats}, metric, count) for metric in METRICS}
    return stats[0].key, drawn
