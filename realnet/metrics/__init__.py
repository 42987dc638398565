"""Exact detection and localisation metrics, in rank form.

Contract, for every function here:

- A score is better the larger it is on anomalies. Only the order of the scores counts, so every
  strictly monotone map of them (logits, probabilities) gives the same metrics, as long as it
  makes no new ties: pass float32 logit margins rather than float32 probabilities, which saturate.
- Masks are anomalous where > 0, at the resolution at which they are given. Regions are
  8-connected, labelled once per data set and remembered.
- Equal scores are one threshold (ties are merged) and curves are trapezoidal between thresholds;
  AU-PRO interpolates at its limit on the false positive rate.
- Counts and their sums are integers. The order of images, the cut into batches, the number of
  threads and the device change no bit.
- A metric that its data do not define (one class only, no region) is NaN, with an
  :class:`UndefinedMetricWarning`; it is never 0 and never flipped to 1 - AUC.

Every metric below is a sum over the *defect* pixels. With n normal pixels, a defect pixel of score
s sees the false positive rates f0 = #{normal > s} / n just before and f1 = #{normal >= s} / n just
after its threshold. It adds to the area under a curve of the true positive rate, up to a limit L,
its weight times the area under its own step, which rises linearly from f0 to f1:

    h(s) = L - (f0 + f1) / 2                if f1 <= L
           (L - f0)^2 / (2 (f1 - f0))       if f0 < L < f1
           0                                if L <= f0

Equal weights and L = 1 give the AUROC; weights 1 / (regions * area of its region) give AU-PRO.
So no curve is built: the normal scores are sorted (values only) and the defect scores looked up,
O(N log N) time, with N the number of pixels. Limits, regions, kinds of defects, sizes and AUPIMO
are other sums over the same ranks.

``pixel.py``: the metrics of maps; ``image.py``: those of images; ``ranks.py``, ``regions.py``,
``sums.py``: what they are made of; ``streaming.py``: of sets that do not fit; ``image_counts.py``,
``uncertainty.py``: intervals and tests; ``curves.py``: curves to look at. More in docs/metrics.md.
"""

from realnet.metrics.arrays import UndefinedMetricWarning
from realnet.metrics.curves import pr_curve, pro_curve, roc_curve, save_curves
from realnet.metrics.image import (
    image_ap,
    image_auroc,
    image_f1_max,
    image_score,
    pooled_maximum,
)
from realnet.metrics.image_counts import (
    PerImage,
    load_per_image,
    per_image,
    save_per_image,
)
from realnet.metrics.pixel import (
    LIMITS,
    Localisation,
    image_separation,
    localise,
    pixel_metrics,
    pro_at,
    summary,
)
from realnet.metrics.regions import Regions, label_regions
from realnet.metrics.streaming import DefectPixels, NormalCounts
from realnet.metrics.uncertainty import (
    BOOTSTRAPPED,
    bootstrap,
    holm,
    interval,
    mean_samples,
    two_sided_p,
)

__all__ = [
    "BOOTSTRAPPED",
    "LIMITS",
    "DefectPixels",
    "Localisation",
    "NormalCounts",
    "PerImage",
    "Regions",
    "UndefinedMetricWarning",
    "bootstrap",
    "holm",
    "image_ap",
    "image_auroc",
    "image_f1_max",
    "image_score",
    "image_separation",
    "interval",
    "label_regions",
    "load_per_image",
    "localise",
    "mean_samples",
    "per_image",
    "pixel_metrics",
    "pooled_maximum",
    "pr_curve",
    "pro_at",
    "pro_curve",
    "roc_curve",
    "save_curves",
    "save_per_image",
    "summary",
    "two_sided_p",
]
