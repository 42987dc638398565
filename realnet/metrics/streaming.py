"""The same metrics for test sets larger than memory: two passes over batches.

The first pass collects the scores of the defect pixels, the second counts the normal pixels above
each of them. Memory is proportional to the number of *defect* pixels. Both passes are mergeable:
shards, workers or devices may each process a part, in any order, with bit-identical results.

    defects = DefectPixels()
    for first, margins, masks in batches():       # first: index of the first image of the batch
        defects.add(margins, masks, first)
    counts = NormalCounts(defects)
    for first, margins, masks in batches():
        counts.add(margins, masks, first)
    counts.localisation().pro[0.3]
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from realnet.metrics.arrays import (
    MetricInputError,
    array,
    defect_and_normal,
    is_limit,
    maps,
    same_shape,
)
from realnet.metrics.pixel import LIMITS, Localisation, warn_undefined
from realnet.metrics.ranks import Ranks, Thresholds, none_counted, rank
from realnet.metrics.regions import Regions, label_regions


class DefectPixels:
    """First pass: collects the scores of the defect pixels, by image and region."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # image -> scores, areas
        self._size: tuple[int, int] | None = None

    def add(self, margins: Any, masks: Any, first: int, pixel_labelled: Any = None) -> None:
        """Add a batch: ``margins``, ``masks`` [B, H, W] and ``pixel_labelled`` [B] as for
        ``localise``; ``first``: index of its first image.

        Raises ValueError for shapes that do not match, or an image added before.
        """
        margins, defect, _ = _batch(margins, masks, pixel_labelled)
        if self._size not in (None, margins.shape[1:]):
            raise MetricInputError(f"maps of {margins.shape[1:]} pixels after maps of {self._size}")
        self._size = margins.shape[1:]
        _once(range(first, first + len(margins)), self._found)
        regions = label_regions(defect)
        scores = margins.reshape(-1)[regions.pixels]
        ends = np.cumsum(regions.defect_pixels)
        for index in range(len(margins)):
            end = ends[index]
            start = end - regions.defect_pixels[index]
            own = regions.images == index
            self._found[first + index] = scores[start:end].copy(), regions.areas[own]

    def merge(self, other: "DefectPixels") -> None:
        """Add the images of another instance. Raises ValueError for an image that both contain."""
        if None not in (self._size, other._size) and self._size != other._size:
            raise MetricInputError(f"maps of {other._size} pixels merged with maps of {self._size}")
        _once(other._found, self._found)
        self._size = self._size or other._size
        self._found |= other._found

    def finish(self) -> tuple[Regions, np.ndarray]:
        """The regions of all images, in index order, and their pixels' scores [P].

        Raises ValueError if no image was added, or one before the last index is missing.
        """
        count = len(self._found)
        if not count or self._size is None:
            raise MetricInputError("metrics: no image was added")
        absent = sorted(set(range(count)) - set(self._found))
        if absent:
            raise MetricInputError(
                f"metrics: image {absent[0]} of {max(self._found) + 1} was never added"
            )
        parts = [self._found[index] for index in range(count)]
        areas = np.concatenate([areas for _, areas in parts])
        images = np.repeat(np.arange(count), [len(areas) for _, areas in parts])
        nowhere = np.empty(0, np.int64)  # positions of the pixels are not stored
        regions = Regions((count, *self._size), areas, images, nowhere)
        return regions, np.concatenate([scores for scores, _ in parts])


class NormalCounts:
    """Second pass: counts the normal pixels that score above each defect pixel."""

    def __init__(self, defects: DefectPixels):
        self.regions, scores = defects.finish()
        self.thresholds = Thresholds.of(scores)
        self._normal = self._anomalous = none_counted(self.thresholds)
        self._seen: set[int] = set()

    def add(
        self,
        margins: Any,
        masks: Any,
        first: int,
        labels: Any = None,
        pixel_labelled: Any = None,
    ) -> None:
        """Add a batch of the same images, in any order and of any size.

        ``labels``, ``pixel_labelled`` [B] as for ``localise``. Raises ValueError for shapes that
        do not match, an image added before, or an image that was not in the first pass.
        """
        margins, _, normal = _batch(margins, masks, pixel_labelled)
        images = range(first, first + len(margins))
        _once(images, self._seen)
        if images.stop > self.regions.shape[0]:
            raise MetricInputError(f"metrics: image {images.stop - 1} was not in the first pass")
        self._seen |= set(images)
        normal_images = normal.all(axis=(1, 2))
        if labels is not None:
            normal_images &= ~(array(labels) > 0)
        for wanted, name in ((True, "_normal"), (False, "_anomalous")):
            chosen = normal_images == wanted
            scores = margins[chosen][normal[chosen]]
            setattr(self, name, getattr(self, name) + rank(self.thresholds, scores))

    def merge(self, other: "NormalCounts") -> None:
        """Add the counts of another instance. Raises ValueError for other defect pixels."""
        if not np.array_equal(self.thresholds.values, other.thresholds.values):
            raise MetricInputError("metrics: counts of different defect pixels cannot be merged")
        _once(other._seen, self._seen)
        self._seen |= other._seen
        self._normal += other._normal
        self._anomalous += other._anomalous

    def localisation(self, limits: Sequence[float] = LIMITS) -> Localisation:
        """The metrics. Raises ValueError if an image of the first pass was not in the second."""
        for limit in limits:
            is_limit(limit)
        absent = sorted(set(range(self.regions.shape[0])) - self._seen)
        if absent:
            raise MetricInputError(f"metrics: image {absent[0]} was not in the second pass")
        ranks: Ranks = self._normal + self._anomalous
        found = Localisation(tuple(limits), self.regions, ranks, self._normal)
        if not found.defined:
            warn_undefined(found)
        return found


def _batch(
    margins: Any, masks: Any, pixel_labelled: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maps, and which of their pixels are defects and which are normal."""
    margins = maps(margins)
    defect, normal = defect_and_normal(masks, pixel_labelled)
    same_shape(margins, defect.shape)
    return margins, defect, normal


def _once(images: Any, seen: Any) -> None:
    twice = sorted(set(images) & set(seen))
    if twice:
        raise MetricInputError(f"metrics: image {twice[0]} was added twice")
