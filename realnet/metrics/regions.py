"""Defect regions: the 8-connected components of the masks, labelled once and cached."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from realnet.metrics.arrays import binary

_CACHED = 8  # sets of masks (datasets or batches of them) whose regions are cached


@dataclass(frozen=True)
class Regions:
    """R regions of N images, in the order of the images; P defect pixels, region by region."""

    shape: tuple[int, int, int]  # N, H, W
    areas: np.ndarray  # int64 [R], pixels
    images: np.ndarray  # int64 [R]: index of its image, ascending
    pixels: np.ndarray  # int64 [P]: flat index into [N, H, W]; empty in streaming mode

    @property
    def count(self) -> int:
        return len(self.areas)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [R]: index of each region's first pixel in ``pixels``."""
        return np.cumsum(self.areas) - self.areas

    @cached_property
    def defect_pixels(self) -> np.ndarray:
        """int64 [N]: number of defect pixels of each image."""
        counts = np.bincount(self.images, weights=self.areas, minlength=self.shape[0])
        return counts.astype(np.int64)

    def per_region(self, values: np.ndarray) -> np.ndarray:
        """Sums of ``values`` [P], given region by region, over each region: [R]."""
        return np.add.reduceat(values, self.starts) if self.count else values[:0]

    @cached_property
    def boxes(self) -> np.ndarray:
        """int64 [R, 4]: left, top, width, height of each region, pixels."""
        if not self.count:
            return np.empty((0, 4), np.int64)
        y, x = np.divmod(self.pixels % (self.shape[1] * self.shape[2]), self.shape[2])
        ends = [(np.minimum.reduceat(v, self.starts), np.maximum.reduceat(v, self.starts))
                for v in (x, y)]  # fmt: skip
        (left, right), (top, bottom) = ends
        return np.stack([left, top, right - left + 1, bottom - top + 1], axis=1)


_cache: "OrderedDict[tuple[Any, bytes], Regions]" = OrderedDict()


def label_regions(masks: Any) -> Regions:
    """Label the defect regions: the 8-connected components of each mask.

    Labelling takes as long as the metrics themselves, and the masks of a dataset are the same for
    every model. So the last few results are cached, by a hash of the masks.

    Parameters
    ----------
    masks : array-like of shape (N, H, W)
        Anomalous where > 0; NumPy or torch (any device).

    Returns
    -------
    Regions

    Raises
    ------
    ValueError
        For another shape, NaN.

    Examples
    --------
    >>> label_regions([[[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0], [0, 0, 0]]]).count
    3
    """
    masks = binary(masks)
    key = (masks.shape, hashlib.blake2b(np.packbits(masks).data, digest_size=16).digest())
    if key not in _cache:
        _cache[key] = _label(masks)
        while len(_cache) > _CACHED:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]


def _label(masks: np.ndarray) -> Regions:
    areas, images, pixels = [], [], []
    size = masks[0].size
    for index in np.flatnonzero(masks.any(axis=(1, 2))):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(
            masks[index].view(np.uint8), connectivity=8
        )
        flat = labels.ravel()
        defect = np.flatnonzero(flat)
        order = np.argsort(flat[defect], kind="stable")
        pixels.append(defect[order] + index * size)
        areas.append(stats[1:, cv2.CC_STAT_AREA].astype(np.int64))
        images.append(np.full(len(stats) - 1, index, np.int64))
    return Regions(masks.shape, _joined(areas), _joined(images), _joined(pixels))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
