"""One trained model under two protocols: ours (strict), and that of the official code.

A protocol is a choice of the checkpoint and a choice of the metrics, so there are four pairs:

=================  ====================  =========================================================
name               checkpoint            metrics
=================  ====================  =========================================================
``strict_last``    last                  exact (``metrics.py``): the benchmark's headline
``strict_best``    best on the test set  exact
``official_last``  last                  official, quirks included (``official.py``)
``official_best``  best on the test set  official: what the paper's numbers are
=================  ====================  =========================================================

``strict_best`` minus ``strict_last`` is what choosing the checkpoint on the test set is worth;
``official_last`` minus ``strict_last``, on the same maps, what the definitions are.
"""

import math
from typing import Any

import numpy as np
from scipy.special import expit

from realnet.evaluation.metrics import image_ap, image_auroc, pixel_metrics
from realnet.evaluation.official import KEYS, official_metrics
from realnet.sections import Evaluate

LAST, BEST = "last", "best_on_test"
# What `pixel_metrics` gives: all null where there are no masks.
COUNTS = ("regions", "defect_pixels", "normal_pixels")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro", *COUNTS)


def strict_metrics(
    margins: np.ndarray,
    masks: np.ndarray | None,
    scores: np.ndarray,
    labels: np.ndarray,
    params: Evaluate,
) -> dict[str, float | int | None]:
    """The exact metrics, as fractions, and the pixel counts; None where undefined.

    ``margins`` float32 [N, S, S]; ``masks`` bool [N, S, S], or None where the data have none;
    ``scores`` float64 [N] and ``labels`` [N], > 0 anomalous, of the images.
    """
    measured = {"image_auroc": image_auroc(scores, labels), "image_ap": image_ap(scores, labels)}
    if masks is None:
        return _plain(measured) | dict.fromkeys(PIXEL_METRICS)
    return _plain(measured | pixel_metrics(margins, masks, pro_limit=params.pro_limit))


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
