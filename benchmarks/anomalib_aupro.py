"""anomalib's AU-PRO, timed in its own process: the whole metric, and without labelling regions.

Run by the interpreter of an environment built from requirements-anomalib.txt; see bench_metrics.py.
"""

import importlib.metadata
import warnings

import torch
from anomalib.metrics.aupro import _AUPRO
from peer import answer, arguments, load, timed
from torchmetrics.utilities.compute import auc


def main() -> None:
    given = arguments(repeat=5).parse_args()
    margins, masks = (torch.from_numpy(values) for values in load(given.folder))
    warnings.simplefilter("ignore")
    metric = _AUPRO(fpr_limit=0.3)
    metric.update(margins, masks.int())

    def whole() -> float:
        metric._computed = None  # otherwise torchmetrics returns the cached value
        return float(metric.compute())

    labels = metric.perform_cca()

    def labelled() -> float:
        fpr, overlap = metric.compute_pro(cca=labels, preds=margins)
        return float(auc(fpr, overlap, reorder=True) / fpr[-1])

    rows = []
    for name, call in (
        ("anomalib AU-PRO, regions given", labelled),
        ("anomalib AU-PRO", whole),
    ):
        value, seconds = timed(call, given.repeat)
        rows.append({"name": name, "what": "AU-PRO@0.3", "seconds": seconds, "value": value})
    version = importlib.metadata.version
    names = ("anomalib", "torchmetrics", "torch")
    answer(rows=rows, versions={name: version(name) for name in names})


if __name__ == "__main__":
    main()
