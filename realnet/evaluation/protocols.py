"""One trained model under two protocols: ours (strict), and that of the official code.

A protocol is a choice of the checkpoint and a choice of the metrics, so there are four pairs:

=================  ====================  =========================================================
name               checkpoint            metrics
=================  ====================  =========================================================
``strict_last``    last                  exact (``metrics/``): the benchmark's headline
``strict_best``    best on the test set  exact
``official_last``  last                  official, quirks included (``official.py``)
``official_best``  best on the test set  official: what the paper's numbers are
=================  ====================  =========================================================

``strict_best`` minus ``strict_last`` is what choosing the checkpoint on the test set is worth;
``official_last`` minus ``strict_last``, on the same maps, what the definitions are.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from realnet.config.sections import Evaluate
from realnet.metrics import (
    LIMITS,
    Localisation,
    image_ap,
    image_auroc,
    image_f1_max,
    localise,
    pro_at,
    summary,
)
from realnet.metrics.official import KEYS, official_metrics

LAST, BEST = "last", "best_on_test"
# What is measured on pixels: all null where there are no masks.
COUNTS = ("regions", "defect_pixels", "normal_pixels")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro", "aupimo", *COUNTS)
DETAILS = ("pro_at", "by_defect", "by_size")


def localisation(
    margins: np.ndarray, masks: np.ndarray | None, labels: np.ndarray, params: Evaluate
) -> Localisation | None:
    """All metrics of the maps at ``params.pro_limit`` and the usual limits; None without masks."""
    if masks is None:
        return None
    limits = (params.pro_limit, *(limit for limit in LIMITS if limit != params.pro_limit))
    return localise(margins, masks, limits, labels)


def strict_metrics(
    found: Localisation | None, scores: np.ndarray, labels: np.ndarray
) -> dict[str, float | int | None]:
    """The exact metrics, as fractions, and the pixel counts; None where undefined.

    ``scores`` float64 [N] and ``labels`` [N], > 0 anomalous, of the images. ``aupimo``: the mean
    over images with a defect pixel.
    """
    measured: dict[str, Any] = {
        "image_auroc": image_auroc(scores, labels),
        "image_ap": image_ap(scores, labels),
        "image_f1_max": image_f1_max(scores, labels),
    }
    if found is None:
        return _plain(measured) | dict.fromkeys(PIXEL_METRICS)
    defective = found.aupimo[found.regions.defect_pixels > 0]
    aupimo = float(defective.mean()) if len(defective) else math.nan
    return _plain(measured | summary(found) | {"aupimo": aupimo})


def details(found: Localisation | None, kinds: Sequence[str]) -> dict[str, Any]:
    """PRO at every limit, and metrics by kind of defect (of each image) and by region size."""
    if found is None:
        return dict.fromkeys(DETAILS)
    return {
        "pro_at": _plain(pro_at(found)),
        "by_defect": {kind: _plain(part) for kind, part in found.by_defect(kinds).items()},
        "by_size": {size: _plain(part) for size, part in found.by_size().items()},
    }


def official(
    margins: np.ndarray, masks: np.ndarray | None, params: Evaluate
) -> dict[str, float | None]:
    """The official metrics of the same maps, whose labels come from masks: None without."""
    if masks is None:
        return dict.fromkeys(KEYS)
    return _plain(official_metrics(expit(margins), masks, params.image_score_pool))


def protocols(
    last: tuple[dict[str, Any], dict[str, Any]],
    best: tuple[dict[str, Any], dict[str, Any]] | None,
    steps: int | None,
    best_step: int | None,
) -> dict[str, dict[str, Any] | None]:
    """What ``metrics.json`` says under ``protocols``, by the names above.

    ``last`` and ``best``: (strict, official) metrics of each checkpoint; ``best`` is None where the
    training did not look at the test set, and so are its protocols. ``steps``, ``best_step``: the
    updates after which the checkpoints were taken; None where unknown (imported models).
    """
    found = {}
    for place, name in enumerate(("strict", "official")):
        for suffix, checkpoint, step, both in (
            ("last", LAST, steps, last),
            ("best", BEST, best_step, best),
        ):
            measured = both and {k: v for k, v in both[place].items() if k not in COUNTS}
            found[f"{name}_{suffix}"] = measured and {
                "checkpoint": checkpoint,
                "step": step,
                **measured,
            }
    return found


def _plain(measured: dict[str, Any]) -> dict[str, Any]:
    """NaN, which JSON has not, as None."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in measured.items()}
