"""Metrics, details and intervals of one set of test images, as every result file has them.

The stage `evaluate` and the command `realnet metrics` differ in how they read maps and count
pixels; from there on both use :func:`assemble`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realnet.metrics import (
    BOOTSTRAPPED,
    LIMITS,
    Localisation,
    PerImage,
    bootstrap,
    image_ap,
    image_auroc,
    image_f1_max,
    interval,
    localise,
    pro_at,
    summary,
)

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro", "aupimo")
COUNTS = ("regions", "defect_pixels", "normal_pixels")
DETAILS = ("pro_at", "by_defect", "by_size")


@dataclass(frozen=True)
class Resampling:
    """Parameters of the bootstrap.

    ``name`` selects the random draws: the category, so that all variants draw the same images.
    ``count`` 0: no intervals.
    """

    name: str = ""
    count: int = 1000
    seed: int = 0
    level: float = 0.95


@dataclass(frozen=True)
class Assembled:
    """Results as dictionaries; undefined numbers are NaN, see :func:`plain`."""

    metrics: dict[str, float | None]  # and the pixel counts, which are None without masks
    details: dict[str, Any]  # by the names of DETAILS; None without masks
    intervals: dict[str, Any]  # ``intervals`` and ``bootstrap``


def assemble(found: Localisation | None, statistics: PerImage, resampling: Resampling) -> Assembled:
    """Metrics, details and intervals; ``found`` is None without masks.

    Image scores, labels and defect types (the strata) are those of ``statistics``.
    """
    return Assembled(
        metrics=metrics(found, statistics.scores, statistics.labels),
        details=_details(found, statistics.strata.tolist()),
        intervals=_intervals(statistics, resampling),
    )


def localisation(
    margins: np.ndarray,
    masks: np.ndarray | None,
    labels: np.ndarray,
    pro_limit: float,
    pixel_labelled: np.ndarray | None = None,
) -> Localisation | None:
    """Localisation metrics at ``pro_limit`` (the headline) and the usual limits.

    ``pixel_labelled`` bool [N]: which images have a pixel ground truth; None: all.
    """
    if masks is None:
        return None
    limits = (pro_limit, *(limit for limit in LIMITS if limit != pro_limit))
    return localise(margins, masks, limits, labels, pixel_labelled=pixel_labelled)


def metrics(
    found: Localisation | None, scores: np.ndarray, labels: np.ndarray
) -> dict[str, float | None]:
    """The exact metrics as fractions, NaN where undefined, and the pixel counts.

    ``scores`` float64 [N] and ``labels`` [N] (anomalous where > 0) of the images. ``aupimo``: the
    mean over images with defect pixels. ``found`` None: no masks, so no pixel metrics.
    """
    measured: dict[str, float | None] = {
        "image_auroc": image_auroc(scores, labels),
        "image_ap": image_ap(scores, labels),
        "image_f1_max": image_f1_max(scores, labels),
    }
    if found is None:
        return measured | dict.fromkeys(PIXEL_METRICS, math.nan) | dict.fromkeys(COUNTS)
    defective = found.aupimo[found.regions.defect_pixels > 0]
    aupimo = float(defective.mean()) if len(defective) else math.nan
    return measured | summary(found) | {"aupimo": aupimo}


def _details(found: Localisation | None, defects: Sequence[str]) -> dict[str, Any]:
    """PRO at every limit, and metrics by defect type (of each image) and by region size."""
    if found is None:
        return dict.fromkeys(DETAILS)
    return {
        "pro_at": pro_at(found),
        "by_defect": found.by_defect(defects),
        "by_size": found.by_size(),
    }


def _intervals(statistics: PerImage, drawn: Resampling) -> dict[str, Any]:
    """Interval of each bootstrapped metric, None if undefined, and its settings."""
    if not drawn.count:
        return {"intervals": None, "bootstrap": None}
    intervals: dict[str, list[float] | None] = {}
    for metric in BOOTSTRAPPED:
        samples = bootstrap(statistics, metric, drawn.count, drawn.seed, drawn.name)
        low, high = interval(samples, drawn.level)
        intervals[metric] = None if math.isnan(low) else [low, high]
    return {
        "intervals": intervals,
        "bootstrap": {"count": drawn.count, "level": drawn.level, "seed": drawn.seed},
    }


def is_nan(value: object) -> bool:
    """Whether ``value`` is a float NaN: an undefined metric."""
    return isinstance(value, float) and math.isnan(value)


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """NaN, which JSON does not have, replaced by None at any depth."""
    return {
        key: plain(value) if isinstance(value, dict) else None if is_nan(value) else value
        for key, value in values.items()
    }
