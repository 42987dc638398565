"""What the bootstrap needs of an evaluated cell: counts per image at some hundred thresholds."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from realnet.core.errors import UserError
from realnet.core.io import atomic
from realnet.metrics.arrays import binary, maps, same_shape
from realnet.metrics.image import scores_and_labels
from realnet.metrics.regions import Regions, label_regions

# Thresholds by what they let pass: of normal pixels, evenly up to 1 and to the usual limit of PRO,
# and by powers of ten below; of defect pixels, evenly.
RATES = np.unique(
    np.r_[np.linspace(0, 1, 96), np.linspace(0, 0.3, 160), np.geomspace(1e-6, 0.01, 64)]
)
DEFECT_THRESHOLDS = 160


@dataclass(frozen=True)
class PerImage:
    """Statistics of N test images at T thresholds (descending); all that the bootstrap needs."""

    scores: np.ndarray  # float64 [N], of the images
    labels: np.ndarray  # uint8 [N], 1 anomalous
    strata: np.ndarray  # str [N]: within which images are drawn; the kind of defect
    normal_pixels: np.ndarray  # int64 [N]
    defect_pixels: np.ndarray  # int64 [N]
    regions: np.ndarray  # int64 [N]
    false: np.ndarray  # int32 [N, T]: normal pixels that reach the threshold
    found: np.ndarray  # int32 [N, T]: defect pixels that reach it
    overlap: np.ndarray  # float32 [N, T]: sum over the image's regions of the share that does
    pro_limit: float

    @property
    def has_pixels(self) -> bool:
        """Whether there were masks."""
        return self.false.shape[1] > 0

    @property
    def key(self) -> str:
        """Equal for equal test images, as far as can be seen here: only such make pairs."""
        text = "\n".join([*self.strata.tolist(), *map(str, self.labels.tolist())])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def per_image(
    margins: Any,
    masks: Any,
    scores: Any,
    labels: Any,
    strata: Sequence[str],
    pro_limit: float = 0.3,
) -> PerImage:
    """Statistics of score maps [N, H, W] with ``masks`` (None: image metrics only).

    ``scores``, ``labels``, ``strata``: of the N images. UserError: shapes, NaN.
    """
    scores, labels = scores_and_labels(scores, labels)
    if len(strata) != len(scores):
        raise UserError(f"strata: {len(strata)} given for {len(scores)} images")
    images = len(scores)
    zeros = np.zeros(images, np.int64)
    pixels: tuple[np.ndarray, ...] = (zeros, zeros, zeros, *[np.zeros((images, 0))] * 3)
    if masks is not None:
        margins, masks = maps(margins), binary(masks)
        same_shape(margins, masks.shape)
        if len(margins) != images:
            raise UserError(f"{images} image scores for {len(margins)} score maps")
        pixels = _pixels(margins, masks)
    return PerImage(
        scores.astype(np.float64),
        labels.astype(np.uint8),
        np.asarray(list(strata), dtype=str),
        *(values.astype(np.int64) for values in pixels[:3]),
        pixels[3].astype(np.int32),
        pixels[4].astype(np.int32),
        pixels[5].astype(np.float32),
        pro_limit,
    )


def _pixels(margins: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, ...]:
    """The last six arrays of :class:`PerImage`, of images with masks."""
    regions = label_regions(masks)
    flat = np.ascontiguousarray(margins).reshape(len(margins), -1)
    hidden = masks.reshape(len(masks), -1)
    normal = [np.sort(values[~mask]) for values, mask in zip(flat, hidden, strict=True)]
    defect = flat.reshape(-1)[regions.pixels]
    thresholds = _thresholds(np.concatenate(normal), defect)
    return (
        hidden.shape[1] - regions.defect_pixels,
        regions.defect_pixels,
        np.bincount(regions.images, minlength=len(flat)),
        np.stack([reaching(values, thresholds) for values in normal]),
        *found_and_overlap(regions, defect, thresholds),
    )


def reaching(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many scores reach each of the ``thresholds``, which ascend; given descending, [T]."""
    return (len(ascending) - np.searchsorted(ascending, thresholds))[::-1]


def found_and_overlap(
    regions: Regions, defect: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``found`` and ``overlap`` of :class:`PerImage` for ``thresholds``, which ascend.

    ``defect`` [P]: the defect pixels' scores, region by region.
    """
    images, count = regions.shape[0], len(thresholds)
    reached = np.searchsorted(thresholds, defect, side="right")
    place = regions.images.repeat(regions.areas) * (count + 1) + reached

    def summed(weights: np.ndarray | None) -> np.ndarray:
        table = np.bincount(place, weights, minlength=images * (count + 1))
        return np.cumsum(table.reshape(images, count + 1)[:, ::-1], axis=1)[:, :count]

    return summed(None), summed(np.repeat(1 / regions.areas, regions.areas))


def _thresholds(normal: np.ndarray, defect: np.ndarray) -> np.ndarray:
    """Ascending, of the scores that there are."""
    places = np.unique(np.rint((1 - RATES) * (len(normal) - 1)).astype(np.int64))
    chosen = np.partition(normal, places)[places] if len(normal) else normal
    return np.unique(np.concatenate([chosen, defect_thresholds(defect)]))


def defect_thresholds(defect: np.ndarray) -> np.ndarray:
    """Some of the defect pixels' scores, evenly by rank."""
    if not len(defect):
        return defect
    places = np.rint(np.linspace(0, len(defect) - 1, DEFECT_THRESHOLDS)).astype(np.int64)
    return np.partition(defect, np.unique(places))[places]


def save_per_image(path: str | Path, stats: PerImage) -> None:
    """As a compressed .npz, about 100 KB for a hundred images."""
    with atomic(path) as temporary, temporary.open("wb") as target:
        arrays = {field.name: np.asarray(getattr(stats, field.name)) for field in fields(stats)}
        np.savez_compressed(target, **arrays)


def load_per_image(path: str | Path) -> PerImage:
    """What :func:`save_per_image` wrote. UserError: no such file, or not one of those."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {field.name: stored[field.name] for field in fields(PerImage)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no statistics of images ({error}); evaluate again") from None
    return PerImage(**arrays | {"pro_limit": float(arrays["pro_limit"])})
