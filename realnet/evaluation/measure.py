"""`realnet metrics`: the benchmark's metrics of any model's score maps, from files."""

import math
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from realnet.errors import UserError
from realnet.evaluation.metrics import (
    UndefinedMetricWarning,
    image_ap,
    image_auroc,
    pixel_metrics,
    pooled_maximum,
)
from realnet.io import write_json


def measure(
    scores: Path,
    masks: Path | None = None,
    labels: Path | None = None,
    pool: int | None = None,
    pro_limit: float = 0.3,
) -> dict[str, Any]:
    """Metrics of the arrays in files.

    ``scores``: .npy [N, H, W], any real dtype, larger = more anomalous; ``masks``: .npy [N, H, W],
    > 0 is anomalous. Or ``scores`` is a ``scores.npz`` of the evaluation and ``masks`` is None.
    ``labels``: .npy [N], > 0 is anomalous; default: the image has an anomalous pixel.

    An image's score is the maximum of its map after ``pool`` x ``pool`` averaging (default 1:
    the plain maximum). A scores.npz has image scores, which are used unless ``pool`` is given;
    its maps are margins then, not probabilities as in the evaluation.

    Returns fractions, None where undefined (and a line on stderr): image_auroc, image_ap,
    pixel_auroc, pixel_ap, pixel_f1_max, pro; and pro_limit, image_score_pool and the counts.
    """
    image_scores = truth = None
    if masks is None:
        if scores.suffix != ".npz":
            raise UserError(f"{scores}: give the file of the masks too, or a scores.npz")
        stored = _load(scores)
        absent = {"margins", "masks", "labels", "image_scores"} - set(stored)
        if absent:
            raise UserError(f"{scores}: has no array {sorted(absent)[0]}; not a scores.npz")
        maps, mask, truth = stored["margins"], stored["masks"], stored["labels"]
        image_scores = stored["image_scores"] if pool is None else None
    else:
        maps, mask = _load(scores)["array"], _load(masks)["array"]
    if labels is not None:
        truth = _load(labels)["array"]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UndefinedMetricWarning)
        pixels = pixel_metrics(maps, mask, pro_limit)  # first: it checks the shapes
        if image_scores is None:
            image_scores = pooled_maximum(maps, pool or 1)
        if truth is None:
            truth = (mask > 0).any(axis=(1, 2))
        images = {
            "image_auroc": image_auroc(image_scores, truth),
            "image_ap": image_ap(image_scores, truth),
        }
    for warning in caught:
        print(f"realnet metrics: {warning.message}", file=sys.stderr)
    stored_scores = masks is None and pool is None
    result = images | pixels | {
        "pro_limit": pro_limit,
        "image_score_pool": None if stored_scores else pool or 1,
        "images": len(maps),
        "anomalous_images": int((np.asarray(truth) > 0).sum()),
    }  # fmt: skip
    undefined = {key for key, value in result.items() if value is not None and math.isnan(value)}
    return {key: None if key in undefined else value for key, value in result.items()}


def run(out: Path, **arguments: Any) -> None:
    """:func:`measure`, written to ``out`` as JSON and printed."""
    result = measure(**arguments)
    if out.is_dir():
        raise UserError(f"{out}: is a folder; --json needs the name of a file")
    write_json(out, result)
    for key in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"):
        print(f"{key:13s}", "undefined" if result[key] is None else f"{result[key]:.4f}")


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, or {"array": …} of an .npy; no pickles."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"array": loaded}
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a NumPy file of numbers ({reason})") from None
    if path.suffix != ".npz":
        raise UserError(f"{path}: holds several arrays; expected one, saved with numpy.save")
    return arrays
