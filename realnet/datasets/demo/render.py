"""One image of the demo set, with its exact mask."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from realnet.core.errors import UserError
from realnet.core.seeds import numpy_generator
from realnet.datasets.categories import DEMO_CATEGORIES
from realnet.datasets.demo import circuit_board, hex_nut, woven_fabric
from realnet.datasets.demo.canvas import (
    FIELD,
    DefectInstance,
    develop,
    digitise,
    make_exposure,
    make_frame,
)

_SCENES = {"circuit_board": circuit_board, "hex_nut": hex_nut, "woven_fabric": woven_fabric}

VISIBLE = 0.025  # change of a channel, in display values 0..1, that counts as visible
CLEAR = 0.10  # a defect has to change some of its pixels by at least this
SMALLEST, LARGEST = 0.003, 0.055  # part of the image that a defect may cover
_ATTEMPTS = 12


@dataclass(frozen=True)
class Sample:
    """``image`` uint8 ``[H, W, 3]`` RGB; ``mask`` bool ``[H, W]``, True where the defect shows."""

    image: np.ndarray
    mask: np.ndarray


def defect_types(category: str) -> tuple[str, ...]:
    """The defect types of a category, sorted."""
    if category not in _SCENES:
        raise UserError(f"no demo category {category!r}; known: {', '.join(DEMO_CATEGORIES)}")
    return tuple(sorted(_SCENES[category].DEFECTS))


def render(
    category: str, split: str, index: int, *, seed: int, size: int, defect: str | None = None
) -> Sample:
    """Render image ``index`` of ``split``; it depends on these arguments and nothing else.

    A defective image is the defect-free image of the same ``(seed, category, split, index)``, bit
    for bit and noise included, outside its mask. The mask is where the noise-free pictures of the
    two differ by more than ``VISIBLE``, with pinholes closed. A draw whose defect is invisible, too
    small or too large is drawn again.
    """
    kinds = defect_types(category)
    if defect is not None and defect not in kinds:
        raise UserError(f"{category} has no defect {defect!r}; known: {', '.join(kinds)}")
    scene, names = _SCENES[category], ("demo", category, split, index)
    frame = make_frame(size)
    shot = make_exposure(numpy_generator(seed, *names, "exposure"), size)
    good = develop(scene.paint(frame, numpy_generator(seed, *names)), frame, shot)
    if defect is None:
        return Sample(digitise(good, shot), np.zeros((size, size), bool))
    kind = scene.DEFECTS[defect]
    largest = kind.largest or LARGEST
    best: tuple[float, np.ndarray, np.ndarray] = math.inf, good, np.zeros((size, size), bool)
    for attempt in range(_ATTEMPTS):
        one = DefectInstance(defect, numpy_generator(seed, *names, defect, attempt))
        flawed = scene.paint(frame, numpy_generator(seed, *names), one)
        bad = develop(flawed, frame, shot)
        mask, area, contrast = _compare(good, bad, kind.closing)
        if SMALLEST <= area <= largest and contrast >= CLEAR:
            break
        badness = abs(np.log((area + 1e-6) / 0.012)) + max(0.0, CLEAR - contrast) * 20
        if badness < best[0]:
            best = (badness, bad, mask)
    else:
        _, bad, mask = best
        if not mask.any():
            raise RuntimeError(f"{category} {defect} {index}: no visible defect after all draws")
    image = digitise(np.where(mask[..., None], bad, good), shot)
    return Sample(image, mask)


def _compare(good: np.ndarray, bad: np.ndarray, closing: float) -> tuple[np.ndarray, float, float]:
    """The mask of what differs, its part of the image, and the contrast of its stronger half."""
    change = np.abs(bad - good).max(axis=-1)
    pixels_per_u = good.shape[0] / FIELD
    radius = max(1, round(closing * pixels_per_u))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    visible = (change > VISIBLE).astype(np.uint8)
    closed = cv2.morphologyEx(visible, cv2.MORPH_CLOSE, kernel)
    mask = np.zeros(change.shape, bool)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    for k in range(1, count):
        if stats[k, cv2.CC_STAT_AREA] >= 6 * pixels_per_u**2:  # specks are rounding, not defects
            mask |= labels == k
    if not mask.any():
        return mask, 0.0, 0.0
    return mask, float(mask.mean()), float(np.quantile(change[mask], 0.75))
