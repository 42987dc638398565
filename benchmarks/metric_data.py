"""A generated category of score maps to measure metrics on, always the same."""

import cv2
import numpy as np


def category(images: int = 83, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Logit margins float32 and masks bool [N, S, S], like a category of MVTec-AD.

    At full size 3.8 % of the pixels are anomalous, in 155 regions; 40 % of the large ones are
    rings. Every fourth image is normal. Margins are smooth noise; most defects raise them, some
    barely, and a halo around each reaches into its normal surroundings.
    """
    generator = np.random.default_rng(0)
    made = [_image(generator, side, index % 4 > 0) for index in range(images)]
    margins, masks = zip(*made, strict=True)
    return np.stack(margins), np.stack(masks)


def _image(
    generator: np.random.Generator, side: int, defective: bool
) -> tuple[np.ndarray, np.ndarray]:
    margin = cv2.GaussianBlur(generator.normal(size=(side, side)), (0, 0), side / 24)
    margin *= 1.2 / margin.std()
    mask = np.zeros((side, side), np.uint8)
    for _ in range(generator.integers(1, 5) if defective else 0):
        shape = _shape(generator, side)
        mask |= shape
        halo = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), side / 64)
        margin += halo * generator.uniform(1, 7)
    margin += generator.normal(size=margin.shape) * 0.2
    return (3 * (margin - 2)).astype(np.float32), mask > 0


def _shape(generator: np.random.Generator, side: int) -> np.ndarray:
    """One ellipse, or a ring, uint8 [S, S]."""
    shape = np.zeros((side, side), np.uint8)
    centre = generator.integers(0, side, 2).tolist()
    radius = side / 256 * np.exp(generator.uniform(np.log(5), np.log(67)))
    axes = [max(1, round(radius * ratio)) for ratio in (1, generator.uniform(0.35, 1))]
    angle = float(generator.uniform(0, 180))
    cv2.ellipse(shape, centre, axes, angle, 0, 360, 1, -1)
    if radius > side / 16 and generator.random() < 0.4:
        inner = [max(1, round(axis * 0.6)) for axis in axes]
        cv2.ellipse(shape, centre, inner, angle, 0, 360, 0, -1)
    return shape
