"""ADEval's AUROC, AUPR and AU-PRO from histograms with 1000 bins, timed in its own process.

Run like anomalib_aupro.py. ADEval 1.1.0 calls ``np.trapz``, which NumPy 2.4 no longer has.
"""

import importlib.metadata

import adeval
import numpy as np
from peer import answer, arguments, load, timed


def main() -> None:
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # noqa: NPY201
    given = arguments(repeat=3).parse_args()
    margins, masks = load(given.folder)
    targets = masks.astype(np.uint8)
    bounds = float(margins.min()), float(margins.max())

    def call() -> float:
        counted = adeval.EvalAccumulator(*bounds)
        counted.add_anomap_batch(margins, targets)
        counted.add_image([0, 1], [0, 1])  # its summary divides by the number of images
        counted.add_sample([0, 1], [0, 1])
        return counted.summary()["p_aupro"]

    value, seconds = timed(call, given.repeat)
    row = {"name": "ADEval, 1000 strips", "what": "AUROC, AUPR, AU-PRO@0.3", "value": value}
    versions = {"adeval": importlib.metadata.version("adeval")}
    answer(rows=[row | {"seconds": seconds}], versions=versions)


if __name__ == "__main__":
    main()
