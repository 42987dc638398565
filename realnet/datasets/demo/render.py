"""Rendering of one image of the demo dataset with its exact mask."""

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
    Defect,
    DefectInstance,
    develop,
    digitise,
    make_exposure,
    make_frame,
)

_PAINTERS = {"circuit_board": circuit_board, "hex_nut": hex_nut, "woven_fabric": woven_fabric}

TYPICAL = 0.012  # fraction of the image that a usual defect covers
_ATTEMPTS = 12


@dataclass(frozen=True)
class Sample:
    """``image`` uint8 ``[H, W, 3]`` RGB; ``mask`` bool ``[H, W]``, True at the defect."""

    image: np.ndarray
    mask: np.ndarray


def defect_types(category: str) -> tuple[str, ...]:
    """The defect types of a category, sorted."""
    if category not in _PAINTERS:
        raise UserError(f"no demo category {category!r}; known: {', '.join(DEMO_CATEGORIES)}")
    return tuple(sorted(_PAINTERS[category].DEFECTS))


def defects(category: str) -> dict[str, Defect]:
    """The defect types of a category by name, sorted."""
    return {name: _PAINTERS[category].DEFECTS[name] for name in defect_types(category)}


def render(
    category: str, split: str, index: int, *, seed: int, size: int, defect: str | None = None
) -> Sample:
    """Render image ``index`` of ``split``; it depends only on these arguments.

    Outside its mask a defective image is identical, including the noise, to the defect-free image
    of the same ``(seed, category, split, index)``. The mask is where the noise-free images of both
    differ by more than ``visible`` of the defect type, with small holes closed. A defect that is
    invisible, too small or too large is sampled again, at most ``_ATTEMPTS`` times; then the best
    attempt is used.
    """
    known = defect_types(category)
    if defect is not None and defect not in known:
        raise UserError(f"{category} has no defect {defect!r}; known: {', '.join(known)}")
    painter, names = _PAINTERS[category], ("demo", category, split, index)
    frame = make_frame(size)
    shot = make_exposure(numpy_generator(seed, *names, "exposure"), size)
    scene = painter.sample_scene(frame, numpy_generator(seed, *names))
    good = develop(painter.paint(frame, scene), frame, shot)
    if defect is None:
        return Sample(digitise(good, shot), np.zeros((size, size), bool))
    defect_type = painter.DEFECTS[defect]
    best: tuple[float, np.ndarray, np.ndarray] = math.inf, good, np.zeros((size, size), bool)
    for attempt in range(_ATTEMPTS):
        one = DefectInstance(defect, numpy_generator(seed, *names, defect, attempt))
        bad = develop(painter.paint(frame, scene, one), frame, shot)
        mask, area, contrast = _compare(good, bad, defect_type)
        smallest, largest, clear = defect_type.smallest, defect_type.largest, defect_type.clear
        if smallest <= area <= largest and contrast >= clear:
            break
        usual = min(max(TYPICAL, smallest), largest)
        badness = abs(np.log((area + 1e-6) / usual)) + max(0.0, clear - contrast) * 20
        if badness < best[0]:
            best = (badness, bad, mask)
    else:
        _, bad, mask = best
        if not mask.any():
            raise RuntimeError(f"{category} {defect} {index}: no visible defect after all draws")
    image = digitise(np.where(mask[..., None], bad, good), shot)
    return Sample(image, mask)


def _compare(good: np.ndarray, bad: np.ndarray, defect: Defect) -> tuple[np.ndarray, float, float]:
    """(mask of the difference, its fraction of the image, upper quartile of its contrast)."""
    change = np.abs(bad - good).max(axis=-1)
    pixels_per_u = good.shape[0] / FIELD
    radius = max(1, round(defect.closing * pixels_per_u))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    visible = (change > defect.visible).astype(np.uint8)
    closed = cv2.morphologyEx(visible, cv2.MORPH_CLOSE, kernel)
    mask = np.zeros(change.shape, bool)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    for k in range(1, count):
        if stats[k, cv2.CC_STAT_AREA] >= defect.speck * pixels_per_u**2:
            mask |= labels == k
    if not mask.any():
        return mask, 0.0, 0.0
    return mask, float(mask.mean()), float(np.quantile(change[mask], 0.75))
