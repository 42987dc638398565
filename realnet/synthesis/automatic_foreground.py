"""Foreground for data without a rule (ours): pixels unlike the background at the border.

The background is modelled as a smooth surface, a second-degree polynomial per colour channel, which
includes vignetting and uneven light. It is fitted to the border, which is mostly background, then
refitted to all pixels close to it. The product is what is far from that surface in any channel,
brighter or darker. If nothing stands out clearly, there is no product on a background: a texture,
or a product that fills the frame.
"""

import cv2
import numpy as np

FIT = 64  # largest side, in pixels, for fitting the background
RING = 0.04  # width of the border, as a share of the side
ROUNDS = 4  # of refitting
NOISE = 3.0  # a background pixel is within this number of standard deviations
CLEAR = 4.0  # the threshold is at least this number of standard deviations of the background, ...
LEAST = 10.0  # ... and this number of grey levels
SATURATION = 48.0  # levels at which differences are clipped
BORDER = 0.45  # at most this share of the border may be product, ...
PATTERN = 0.8  # ... and at most so much of its share of the image, or it is a pattern
SPECK = 0.03  # smaller than this share of the largest part: not part of the product
AREA = (0.01, 0.97)  # allowed fraction of the image for a product


def find_product(image: np.ndarray) -> np.ndarray | None:
    """The product's mask, bool ``[H, W]``, of an RGB uint8 image ``[H, W, 3]``; None without one.

    Some 5 ms at 256 x 256 pixels.
    """
    height, width = image.shape[:2]
    blur = max(0.5, 1.0 * height / 256)
    smooth = cv2.GaussianBlur(image, (0, 0), blur).astype(np.float32)
    surface, noise = _ground(smooth)
    if surface is None:
        return None
    distance = np.abs(smooth - _evaluate(surface, height, width)).max(axis=2)
    limit = max(SATURATION, 2 * CLEAR * noise)
    levels = np.clip(distance * (255 / limit), 0, 255).astype(np.uint8)
    _, far = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if not 0 < far.mean() < 1:
        return None
    threshold = limit / 255 * (levels[far > 0].mean() + levels[far == 0].mean()) / 2
    if threshold < max(LEAST, CLEAR * noise):
        return None
    mask = _tidy(_sharpen((distance > threshold).astype(np.uint8), distance))
    share, at_border = mask.mean(), mask[_ring(height, width)].mean()
    everywhere = at_border > PATTERN * share and at_border > 0.15
    if everywhere or at_border > BORDER or not AREA[0] < share < AREA[1]:
        return None
    return mask > 0


def _ground(smooth: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Coefficients ``[6, 3]`` of the background's surface, and the standard deviation around it."""
    height, width = smooth.shape[:2]
    small = (min(width, FIT), min(height, FIT))
    pixels = cv2.resize(smooth, small, interpolation=cv2.INTER_AREA).reshape(-1, 3)
    terms = _terms(small[1], small[0])
    ring = _ring(small[1], small[0]).ravel()
    # First guess: the border's most common colour, with a tolerance for uneven light.
    away = np.abs(pixels - np.median(pixels[ring], axis=0)).max(axis=1)
    used = ring & (away <= max(24.0, 1.5 * float(np.median(away[ring]))))
    for _ in range(ROUNDS):
        if used.sum() < 4 * terms.shape[1]:
            return None, 0.0
        surface, *_ = np.linalg.lstsq(terms[used], pixels[used], rcond=None)
        residual = np.abs(pixels - terms @ surface).max(axis=1)
        # The median of |x| of a normal variable is 0.6745 standard deviations.
        noise = max(1.0, float(np.median(residual[used])) / 0.6745)
        used = residual < NOISE * noise
    return surface, noise


def _evaluate(surface: np.ndarray, height: int, width: int) -> np.ndarray:
    return (_terms(height, width) @ surface).reshape(height, width, 3)


def _terms(height: int, width: int) -> np.ndarray:
    """1, x, y, x^2, xy, y^2 at every pixel, ``[H * W, 6]``, x and y from -1 to 1."""
    y = ((np.arange(height, dtype=np.float32) + 0.5) * 2 / height - 1)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) * 2 / width - 1)[None, :]
    one = np.ones((height, width), np.float32)
    return np.stack([one, x * one, y * one, x * x * one, x * y, y * y * one], 2).reshape(-1, 6)


def _ring(height: int, width: int) -> np.ndarray:
    thick = max(1, round(RING * min(height, width)))
    ring = np.ones((height, width), bool)
    ring[thick:-thick, thick:-thick] = False
    return ring


def _sharpen(mask: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Remove blur from the rim: its pixels count from half the contrast beside them, not from the
    threshold, which is close to the background."""
    kernel = np.ones((2 * _reach(mask) + 1,) * 2, np.uint8)
    rim = (mask > 0) & (cv2.erode(mask, kernel, borderValue=1) == 0)
    return np.where(rim & (distance < 0.5 * cv2.dilate(distance, kernel)), 0, mask).astype(np.uint8)


def _reach(mask: np.ndarray) -> int:
    """Radius in pixels: 2 or 3 at 256."""
    return max(1, round(2.5 * mask.shape[0] / 256))


def _tidy(mask: np.ndarray) -> np.ndarray:
    """Close gaps of a few pixels (at 256); drop specks: what is below a thousandth of the image,
    or far smaller than the largest part."""
    kernel = np.ones((2 * _reach(mask) + 1,) * 2, np.uint8)
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    if count == 1:
        return closed
    areas = stats[:, cv2.CC_STAT_AREA]
    large = areas >= max(4, mask.size / 1000, SPECK * areas[1:].max())
    large[0] = False
    return large[labels].astype(np.uint8)
