"""Tables and curves of an evaluation: a row per defect region, and the points of each curve."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from realnet.core.io import write_csv
from realnet.evaluation.stored import save_curves
from realnet.metrics import Localisation, PerImage, pr_curve, pro_curve, roc_curve
from realnet.metrics.curves import Curve


def write_regions(
    path: Path, found: Localisation | None, names: Sequence[str], defects: Sequence[str]
) -> None:
    """Write one row per defect region: image, defect type, area, bounding box, PRO at each limit.

    ``names``, ``defects``: file and defect type of each image. Without masks: the header alone.
    """
    limits = [f"pro@{limit:g}" for limit in found.limits] if found else []
    rows = _region_rows(found, limits, names, defects) if found else []
    fields = ["path", "defect", "area", "left", "top", "width", "height", *limits]
    write_csv(path, rows, fields)


def _region_rows(
    found: Localisation, limits: Sequence[str], names: Sequence[str], defects: Sequence[str]
) -> list[dict[str, object]]:
    rows = []
    for k in range(found.regions.count):
        image = int(found.regions.images[k])
        box = dict(zip(("left", "top", "width", "height"), found.regions.boxes[k], strict=True))
        scores = [None if math.isnan(v) else v for v in found.per_region[k].tolist()]
        rows.append(
            {"path": names[image], "defect": defects[image], "area": int(found.regions.areas[k])}
            | {key: int(value) for key, value in box.items()}
            | dict(zip(limits, scores, strict=True))
        )
    return rows


def write_curves(
    path: Path,
    margins: np.ndarray,
    masks: np.ndarray | None,
    scores: np.ndarray,
    labels: np.ndarray,
    pixel_labelled: np.ndarray | None = None,
) -> None:
    """Write ``<curve>_x``, ``<curve>_y`` of image_roc, image_pr, roc, pr, pro; empty if undefined.

    Pixel curves are computed from the maps ``margins`` [N, H, W] of the images that have a pixel
    ground truth (``pixel_labelled`` bool [N]; None: all).
    """
    curves = _image_curves(scores, labels) | _no_pixel_curves()
    if masks is not None:
        if pixel_labelled is not None:
            margins, masks = margins[pixel_labelled], masks[pixel_labelled]
        curves |= {
            "roc": roc_curve(margins, masks),
            "pr": pr_curve(margins, masks),
            "pro": pro_curve(margins, masks),
        }
    save_curves(path, curves)


def curves_of(stats: PerImage) -> dict[str, Curve]:
    """The same curves without the maps: pixel curves at the thresholds of the statistics."""
    curves = _image_curves(stats.scores, stats.labels) | _no_pixel_curves()
    normal, defect = stats.normal_pixels.sum(), stats.defect_pixels.sum()
    if not (stats.has_pixels and normal and defect):
        return curves
    false, hits = stats.false.sum(0, dtype=np.int64), stats.found.sum(0, dtype=np.int64)
    overlap = stats.overlap.sum(0, dtype=np.float64) / stats.regions.sum()
    flagged = false + hits
    precision = hits[flagged > 0] / flagged[flagged > 0]
    recall = hits[flagged > 0] / defect
    rate = false / normal
    return curves | {
        "roc": (_closed(rate), _closed(hits / defect)),
        "pr": (np.r_[0.0, recall], np.r_[precision[0], precision]),
        "pro": (_closed(rate), _closed(np.minimum(overlap, 1))),
    }


def _image_curves(scores: np.ndarray, labels: np.ndarray) -> dict[str, Curve]:
    return {"image_roc": roc_curve(scores, labels), "image_pr": pr_curve(scores, labels)}


def _no_pixel_curves() -> dict[str, Curve]:
    return {name: (np.empty(0), np.empty(0)) for name in ("roc", "pr", "pro")}


def _closed(values: np.ndarray) -> np.ndarray:
    return np.r_[0.0, values, 1]
