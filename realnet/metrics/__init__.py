"""Exact detection and localisation metrics, in rank form: arrays in, numbers out.

Contract of every function:

- Scores are larger on anomalies. Only the order of the scores matters, so every strictly monotone
  transformation of the maps (logits, probabilities) gives the same metrics, unless it creates new
  ties: pass float32 logit margins rather than float32 probabilities, which saturate.
- Masks are anomalous where > 0 and are evaluated at the resolution at which they are given.
  Regions are 8-connected components, labelled once per dataset and cached.
- Equal scores are one threshold (ties are merged) and curves are trapezoidal between thresholds;
  AU-PRO interpolates at its limit on the false positive rate.
- Counts and their sums are integers. The order of images, the batch size, the number of threads
  and the device do not change a bit.
- A metric that the data does not define (one class only, no region) is NaN, with an
  :class:`UndefinedMetricWarning`; it is never 0 and never flipped to 1 - AUC.
- Arrays and options that cannot be measured raise :class:`MetricInputError`, a ``ValueError``.

Every metric below is a sum over the *defect* pixels. With n normal pixels, a defect pixel of score
s sees the false positive rates f0 = #{normal > s} / n just before and f1 = #{normal >= s} / n just
after its threshold. Its contribution to the area under a curve of the true positive rate, up to a
limit L, is its weight times the area under its own step, which rises linearly from f0 to f1:

    h(s) = L - (f0 + f1) / 2                if f1 <= L
           (L - f0)^2 / (2 (f1 - f0))       if f0 < L < f1
           0                                if L <= f0

Equal weights and L = 1 give the AUROC; weights 1 / (regions * area of its region) give AU-PRO.
So no curve is built: the normal scores are sorted (values only) and the defect scores looked up,
in O(N log N) time for N pixels. Limits, regions, defect types, sizes and AUPIMO are other sums
over the same ranks.

``pixel.py``: metrics of maps; ``image.py``: metrics of images; ``ranks.py``, ``regions.py``,
``sums.py``: their parts; ``streaming.py``: test sets larger than memory; ``image_counts.py``,
``uncertainty.py``: intervals and tests; ``curves.py``: curves for plots; ``official.py``: the
official evaluation with its quirks. More in docs/metrics.md.
"""

from realnet.metrics.arrays import MetricInputError, UndefinedMetricWarning
from realnet.metrics.curves import pr_curve, pro_curve, roc_curve
from realnet.metrics.image import (
    image_ap,
    image_auroc,
    image_f1_max,
    image_score,
    pooled_maximum,
)
from realnet.metrics.image_counts import PerImage, per_image
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
    "MetricInputError",
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
    "localise",
    "mean_samples",
    "per_image",
    "pixel_metrics",
    "pooled_maximum",
    "pr_curve",
    "pro_at",
    "pro_curve",
    "roc_curve",
    "summary",
    "two_sided_p",
]
