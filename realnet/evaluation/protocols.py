"""One trained model under two protocols: strict (ours), and that of the official code.

A protocol is a choice of checkpoint and a choice of metrics, so there are four combinations:

=================  ====================  =========================================================
name               checkpoint            metrics
=================  ====================  =========================================================
``strict_last``    last                  exact (``metrics/``): the benchmark's headline
``strict_best``    best on the test set  exact
``official_last``  last                  official, quirks included (``official.py``)
``official_best``  best on the test set  official: what the paper's numbers are
=================  ====================  =========================================================

``strict_best`` minus ``strict_last`` is the effect of selecting the checkpoint on the test set;
``official_last`` minus ``strict_last``, on the same maps, the effect of the metrics' definitions.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from realnet.evaluation.assemble import COUNTS
from realnet.metrics.official import KEYS, official_metrics

LAST, BEST = "last", "best_on_test"
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class CheckpointMetrics:
    """Both kinds of metrics of one checkpoint; undefined metrics are NaN.

    ``step``: number of updates at which it was taken; None where unknown (imported models).
    """

    strict: Metrics
    official: Metrics
    step: int | None


def official(
    margins: np.ndarray, masks: np.ndarray | None, pool: int, pixel_labelled: np.ndarray
) -> Metrics:
    """Official metrics of logit margins [N, H, W]; None without masks.

    Labels come from the masks, so images without pixel ground truth (``pixel_labelled`` bool [N])
    are in none of these metrics.
    """
    if masks is None:
        return dict.fromkeys(KEYS)
    return dict(official_metrics(expit(margins[pixel_labelled]), masks[pixel_labelled], pool))


def protocols(
    last: CheckpointMetrics, best: CheckpointMetrics | None
) -> dict[str, dict[str, object] | None]:
    """The entry ``protocols`` of ``metrics.json``, by the names above.

    ``best`` is None where the training did not evaluate on the test set; its protocols are None.
    """
    found: dict[str, dict[str, object] | None] = {}
    for kind in ("strict", "official"):
        for suffix, checkpoint, measured in (("last", LAST, last), ("best", BEST, best)):
            name = f"{kind}_{suffix}"
            found[name] = None
            if measured is not None:
                found[name] = {
                    "checkpoint": checkpoint,
                    "step": measured.step,
                    **{k: v for k, v in getattr(measured, kind).items() if k not in COUNTS},
                }
    return found
