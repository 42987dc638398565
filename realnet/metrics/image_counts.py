"""Input of the bootstrap: pixel counts per image at a few hundred thresholds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realnet.metrics.arrays import MetricInputError, array, defect_and_normal, maps, same_shape
from realnet.metrics.image import scores_and_labels
from realnet.metrics.regions import Regions, label_regions

# False positive rates at which thresholds are placed: linear up to 1 and up to the usual limit of
# PRO, logarithmic below. Thresholds are also spaced evenly over the defect pixels.
RATES = np.unique(
    np.r_[np.linspace(0, 1, 96), np.linspace(0, 0.3, 160), np.geomspace(1e-6, 0.01, 64)]
)
DEFECT_THRESHOLDS = 160


@dataclass(frozen=True)
class PerImage:
    """Statistics of N test images at T thresholds (descending), sufficient for the bootstrap."""

    scores: np.ndarray  # float64 [N], of the images
    labels: np.ndarray  # uint8 [N], 1 anomalous
    strata: np.ndarray  # str [N], see strata_of; images are resampled within each
    normal_pixels: np.ndarray  # int64 [N]; 0, as are all counts, without pixel ground truth
    defect_pixels: np.ndarray  # int64 [N]
    regions: np.ndarray  # int64 [N]
    false: np.ndarray  # int32 [N, T]: normal pixels that reach the threshold
    found: np.ndarray  # int32 [N, T]: defect pixels that reach it
    overlap: np.ndarray  # float32 [N, T]: sum over the regions of the share that does
    pro_limit: float

    @property
    def has_pixels(self) -> bool:
        """Whether there were masks."""
        return self.false.shape[1] > 0

    @property
    def key(self) -> str:
        """Digest of strata and labels: statistics can be paired only where it is equal."""
        text = "\n".join([*self.strata.tolist(), *map(str, self.labels.tolist())])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def per_image(
    margins: Any,
    masks: Any,
    scores: Any,
    labels: Any,
    strata: Sequence[str],
    pro_limit: float = 0.3,
    pixel_labelled: Any = None,
) -> PerImage:
    """Statistics of one set of test images.

    Parameters
    ----------
    margins : array-like of shape (N, H, W)
        Anomaly maps; ignored without masks.
    masks : array-like of shape (N, H, W) or None
        Anomalous where > 0. None: image metrics only.
    scores, labels : array-like of shape (N,)
        Image scores, and image labels (anomalous where > 0).
    strata : sequence of N str
        Defect types; images are resampled within each.
    pro_limit : float
        False positive rate up to which PRO is integrated.
    pixel_labelled : array-like of shape (N,), optional
        Which images have a pixel ground truth; the others have no pixels. Default: all.

    Returns
    -------
    PerImage

    Raises
    ------
    ValueError
        For shapes that do not match, NaN.
    """
    scores, labels = scores_and_labels(scores, labels)
    if len(strata) != len(scores):
        raise MetricInputError(f"strata: {len(strata)} given for {len(scores)} images")
    images = len(scores)
    zeros = np.zeros(images, np.int64)
    pixels: tuple[np.ndarray, ...] = (zeros, zeros, zeros, *[np.zeros((images, 0))] * 3)
    if masks is not None:
        margins = maps(margins)
        defect, normal = defect_and_normal(masks, pixel_labelled)
        same_shape(margins, defect.shape)
        if len(margins) != images:
            raise MetricInputError(f"{images} image scores for {len(margins)} score maps")
        pixels = _pixels(margins, defect, normal)
    return PerImage(
        scores.astype(np.float64),
        labels.astype(np.uint8),
        strata_of(strata, pixel_labelled),
        pixels[0].astype(np.int64),
        pixels[1].astype(np.int64),
        pixels[2].astype(np.int64),
        pixels[3].astype(np.int32),
        pixels[4].astype(np.int32),
        pixels[5].astype(np.float32),
        pro_limit,
    )


def strata_of(defects: Sequence[str], pixel_labelled: Any = None) -> np.ndarray:
    """str [N]: the defect type of each image, apart for images without pixel ground truth.

    So every resample has as many images with pixel ground truth as the test set, and intervals of
    pixel metrics are the same as without the others.
    """
    names = list(defects)
    if pixel_labelled is not None:
        labelled = (array(pixel_labelled) > 0).tolist()
        names = [
            name if has_pixels else f"{name} (image only)"
            for name, has_pixels in zip(names, labelled, strict=True)
        ]
    return np.asarray(names, dtype=str)


def _pixels(margins: np.ndarray, defect: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, ...]:
    """The six pixel arrays of :class:`PerImage`; ``defect``, ``normal``: which pixels are."""
    regions = label_regions(defect)
    ascending = [np.sort(values[chosen]) for values, chosen in zip(margins, normal, strict=True)]
    scores = np.ascontiguousarray(margins).reshape(-1)[regions.pixels]
    thresholds = _thresholds(np.concatenate(ascending), scores)
    return (
        np.array([len(values) for values in ascending]),
        regions.defect_pixels,
        np.bincount(regions.images, minlength=len(margins)),
        np.stack([reaching(values, thresholds) for values in ascending]),
        *found_and_overlap(regions, scores, thresholds),
    )


def reaching(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Number of scores >= each of the ascending ``thresholds``, the highest first: int64 [T]."""
    return (len(ascending) - np.searchsorted(ascending, thresholds))[::-1]


def found_and_overlap(
    regions: Regions, defect: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``found`` and ``overlap`` of :class:`PerImage` for ascending ``thresholds``.

    ``defect`` [P]: scores of the defect pixels, region by region.
    """
    images, count = regions.shape[0], len(thresholds)
    reached = np.searchsorted(thresholds, defect, side="right")
    place = regions.images.repeat(regions.areas) * (count + 1) + reached

    def summed(weights: np.ndarray | None) -> np.ndarray:
        table = np.bincount(place, weights, minlength=images * (count + 1))
        return np.cumsum(table.reshape(images, count + 1)[:, ::-1], axis=1)[:, :count]

    return summed(None), summed(np.repeat(1 / regions.areas, regions.areas))


def _thresholds(normal: np.ndarray, defect: np.ndarray) -> np.ndarray:
    """Thresholds [T], ascending, chosen among the scores."""
    places = np.unique(np.rint((1 - RATES) * (len(normal) - 1)).astype(np.int64))
    chosen = np.partition(normal, places)[places] if len(normal) else normal
    return np.unique(np.concatenate([chosen, defect_thresholds(defect)]))


def defect_thresholds(defect: np.ndarray) -> np.ndarray:
    """At most ``DEFECT_THRESHOLDS`` of the defect scores, evenly spaced by rank."""
    if not len(defect):
        return defect
    places = np.rint(np.linspace(0, len(defect) - 1, DEFECT_THRESHOLDS)).astype(np.int64)
    return np.partition(defect, np.unique(places))[places]
