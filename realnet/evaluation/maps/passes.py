"""Two passes over maps that may be larger than memory.

The first pass collects the scores of the defect pixels, the image scores, and a sketch of the
distribution of the normal pixels. The second counts normal pixels above each defect pixel, for the
metrics, and above a few hundred thresholds, for intervals and curves. Memory is proportional to
the number of defect pixels and of images.
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
from realnet.metrics.arrays import array, defect_and_normal
from realnet.metrics.image_counts import (
    RATES,
    defect_thresholds,
    found_and_overlap,
    reaching,
    strata_of,
)

SKETCHED = 256  # scores per image in the sketch, at most: half of them high ones


@dataclass(frozen=True)
class Passed:
    """Result of the two passes."""

    found: Localisation
    labels: np.ndarray  # bool [N]
    statistics: PerImage
    span: tuple[float, float]  # smallest and largest value of the maps


def two_passes(reader: Reader, pool: int, limits: Sequence[float]) -> Passed:
    """The pixel metrics and the statistics of the images.

    ``pool``: side of the averaging window of the image score, where no score is given; applied to
    the sigmoid of maps that are logits. UserError: as of :class:`Reader`.
    """
    images = reader.images
    defects, scores, anomalous, sketches = DefectPixels(), [], [], []
    low, high = np.inf, -np.inf
    for first, maps, masks in reader.batches():
        labelled = reader.pixel_labelled[first : first + len(maps)]
        defects.add(maps, masks, first, labelled)
        scores.append(_image_scores(reader, maps, pool, first))
        anomalous.append(masks.any(axis=(1, 2)))
        sketches += [_sketch(normal) for normal in _normal(maps, masks, labelled)]
        low, high = min(low, float(maps.min())), max(high, float(maps.max()))

    regions, of_defects = defects.finish()
    labels = np.concatenate(anomalous) if images.labels is None else images.labels
    counts = NormalCounts(defects)
    thresholds = _thresholds(sketches, of_defects)
    false, normal_pixels = [], []
    for first, maps, masks in reader.batches():
        batch = slice(first, first + len(maps))
        counts.add(maps, masks, first, labels[batch], reader.pixel_labelled[batch])
        for values in _normal(maps, masks, reader.pixel_labelled[batch]):
            false.append(reaching(values, thresholds))
            normal_pixels.append(len(values))
    found = counts.localisation(limits)

    reached, overlap = found_and_overlap(regions, of_defects, thresholds)
    statistics = PerImage(
        scores=np.concatenate(scores),
        labels=labels.astype(np.uint8),
        strata=strata_of(images.defects or _two_types(labels), reader.pixel_labelled),
        normal_pixels=np.array(normal_pixels),
        defect_pixels=regions.defect_pixels,
        regions=np.bincount(regions.images, minlength=len(labels)),
        false=np.stack(false).astype(np.int32),
        found=reached.astype(np.int32),
        overlap=overlap.astype(np.float32),
        pro_limit=limits[0],
    )
    return Passed(found, labels, statistics, (low, high))


def images_alone(reader: Reader, pool: int) -> PerImage:
    """Statistics of images without masks: only scores and labels."""
    images = reader.images
    if images.labels is None:
        raise UserError("labels or masks: expected one of them, to know which images are anomalous")
    scores = [_image_scores(reader, maps, pool, first) for first, maps, _ in reader.batches()]
    defects = images.defects or _two_types(images.labels)
    return per_image(None, None, np.concatenate(scores), images.labels, defects)


def _image_scores(reader: Reader, maps: np.ndarray, pool: int, first: int) -> np.ndarray:
    """Image scores of the batch that begins with image ``first``, float64 [B]."""
    images = reader.images
    if images.scores is not None:
        return np.asarray(images.scores[first : first + len(maps)], np.float64)
    return image_score(maps, pool) if images.logits and pool > 1 else pooled_maximum(maps, pool)


def _two_types(labels: np.ndarray) -> list[str]:
    return ["anomalous" if label else GOOD for label in labels.tolist()]


def _normal(maps: np.ndarray, masks: np.ndarray, labelled: np.ndarray) -> Iterable[np.ndarray]:
    """Scores of the normal pixels of each image, ascending, in the dtype of the metrics."""
    _, normal = defect_and_normal(masks, labelled)
    for values, chosen in zip(array(maps), normal, strict=True):
        yield np.sort(values[chosen])


def _sketch(ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the scores of an image, and how many scores each represents."""
    count = len(ascending)
    if not count:
        return ascending, np.empty(0, np.int64)
    rates = np.r_[np.linspace(0, 1, SKETCHED // 2), np.geomspace(1 / count, 1, SKETCHED // 2)]
    places = np.unique(np.rint((1 - rates) * (count - 1)).astype(np.int64))
    return ascending[places], np.diff(places, prepend=-1)


def _thresholds(
    sketches: Sequence[tuple[np.ndarray, np.ndarray]], defect: np.ndarray
) -> np.ndarray:
    """Scores at which the false positive rate is about one of ``RATES``, ascending.

    Approximate is enough: the counts at these thresholds are exact.
    """
    values = np.concatenate([values for values, _ in sketches])
    chosen = [values[:0]]
    if len(values):
        order = np.argsort(values)
        below = np.cumsum(np.concatenate([weights for _, weights in sketches])[order])
        wanted = (1 - RATES) * (below[-1] - 1) + 1
        chosen.append(values[order[np.searchsorted(below, wanted)]])
    return np.unique(np.concatenate([*chosen, defect_thresholds(defect)]))
