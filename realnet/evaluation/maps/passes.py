"""Two passes over maps that need not fit into memory.

The first collects the scores of defect pixels, the images' scores, and a sketch of how the normal
pixels are distributed; the second counts normal pixels, around each defect pixel for the metrics,
and around some hundred thresholds for intervals and curves. What is kept is proportional to the
defect pixels, and to the images; the maps are not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from realnet.core.errors import UserError
from realnet.evaluation.maps.folders import GOOD
from realnet.evaluation.maps.inputs import Reader
from realnet.metrics import (
    DefectPixels,
    Localisation,
    NormalCounts,
    PerImage,
    image_score,
    per_image,
    pooled_maximum,
)
from realnet.metrics.arrays import array
from realnet.metrics.image_counts import (
    RATES,
    defect_thresholds,
    found_and_overlap,
    reaching,
)

SKETCHED = 256  # scores that the sketch keeps of an image, at most: half evenly, half high ones


@dataclass(frozen=True)
class Passed:
    """What the two passes leave."""

    found: Localisation
    scores: np.ndarray  # float64 [N], of the images
    labels: np.ndarray  # bool [N]
    kinds: list[str]
    statistics: PerImage
    span: tuple[float, float]  # smallest and largest value of the maps


def two_passes(reader: Reader, pool: int, limits: Sequence[float]) -> Passed:
    """All that is measured on pixels, and the image scores.

    ``pool``: side of the window whose averages make the image score, where none is given; on the
    sigmoid of maps that are logits. UserError: whatever the reader finds.
    """
    images = reader.images
    defects, scores, anomalous, sketches = DefectPixels(), [], [], []
    low, high = np.inf, -np.inf
    for first, maps, masks in reader.batches():
        defects.add(maps, masks, first)
        scores.append(_image_scores(reader, maps, pool, first))
        anomalous.append(masks.any(axis=(1, 2)))
        sketches += [_sketch(normal) for normal in _normal(maps, masks)]
        low, high = min(low, float(maps.min())), max(high, float(maps.max()))

    regions, of_defects = defects.finish()
    labels = np.concatenate(anomalous) if images.labels is None else images.labels
    counts = NormalCounts(defects)
    thresholds = _thresholds(sketches, of_defects)
    false = []
    for first, maps, masks in reader.batches():
        counts.add(maps, masks, first, labels[first : first + len(maps)])
        false += [reaching(values, thresholds) for values in _normal(maps, masks)]
    found = counts.localisation(limits)

    kinds = images.kinds or _two_kinds(labels)
    reached, overlap = found_and_overlap(regions, of_defects, thresholds)
    statistics = PerImage(
        scores=np.concatenate(scores),
        labels=labels.astype(np.uint8),
        strata=np.asarray(kinds, dtype=str),
        normal_pixels=regions.shape[1] * regions.shape[2] - regions.defect_pixels,
        defect_pixels=regions.defect_pixels,
        regions=np.bincount(regions.images, minlength=len(labels)),
        false=np.stack(false).astype(np.int32),
        found=reached.astype(np.int32),
        overlap=overlap.astype(np.float32),
        pro_limit=limits[0],
    )
    return Passed(found, statistics.scores, labels, kinds, statistics, (low, high))


def images_alone(reader: Reader, pool: int) -> PerImage:
    """Statistics of images without masks: scores and labels."""
    images = reader.images
    if images.labels is None:
        raise UserError("labels or masks: expected one of them, to tell anomalous images")
    scores = [_image_scores(reader, maps, pool, first) for first, maps, _ in reader.batches()]
    kinds = images.kinds or _two_kinds(images.labels)
    return per_image(None, None, np.concatenate(scores), images.labels, kinds)


def _image_scores(reader: Reader, maps: np.ndarray, pool: int, first: int) -> np.ndarray:
    """float64 [B], of the batch that begins with the image ``first``."""
    images = reader.images
    if images.scores is not None:
        return np.asarray(images.scores[first : first + len(maps)], np.float64)
    return image_score(maps, pool) if images.logits and pool > 1 else pooled_maximum(maps, pool)


def _two_kinds(labels: np.ndarray) -> list[str]:
    return ["anomalous" if label else GOOD for label in labels.tolist()]


def _normal(maps: np.ndarray, masks: np.ndarray) -> Iterable[np.ndarray]:
    """The scores of each image's normal pixels, ascending, in the dtype of the metrics."""
    for values, mask in zip(array(maps), masks, strict=True):
        yield np.sort(values[~mask])


def _sketch(ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the scores of an image, and how many scores each stands for."""
    count = len(ascending)
    if not count:
        return ascending, np.empty(0, np.int64)
    rates = np.r_[np.linspace(0, 1, SKETCHED // 2), np.geomspace(1 / count, 1, SKETCHED // 2)]
    places = np.unique(np.rint((1 - rates) * (count - 1)).astype(np.int64))
    return ascending[places], np.diff(places, prepend=-1)


def _thresholds(
    sketches: Sequence[tuple[np.ndarray, np.ndarray]], defect: np.ndarray
) -> np.ndarray:
    """Scores at which about the wanted rates are reached, ascending. The counts at them are exact,
    so they need not be."""
    values = np.concatenate([values for values, _ in sketches])
    chosen = [values[:0]]
    if len(values):
        order = np.argsort(values)
        below = np.cumsum(np.concatenate([weights for _, weights in sketches])[order])
        wanted = (1 - RATES) * (below[-1] - 1) + 1
        chosen.append(values[order[np.searchsorted(below, wanted)]])
    return np.unique(np.concatenate([*chosen, defect_thresholds(defect)]))
