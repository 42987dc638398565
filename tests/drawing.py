"""A canvas for drawing many small pictures at once: signed distances, paint, noise, blobs.

Coordinates: the picture's centre is (0, 0), its short side reaches from -1 to 1, y points down. A
shape is a distance field ``[N, H, W]``, negative inside.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from realnet.core.seeds import numpy_generator

Field = np.ndarray


class Canvas:
    """``N`` pictures, one generator each, so that a picture does not depend on its neighbours."""

    def __init__(self, names: list[tuple[str | int, ...]], size: tuple[int, int]):
        self.width, self.height = size
        short = min(size)
        self.pixel = np.float32(2 / short)
        column = (np.arange(self.width, dtype=np.float32) + 0.5) * 2 / short - self.width / short
        row = (np.arange(self.height, dtype=np.float32) + 0.5) * 2 / short - self.height / short
        self.rngs = [numpy_generator(0, "tree", *name) for name in names]
        self.X = np.broadcast_to(column[None, None, :], (1, self.height, self.width))
        self.Y = np.broadcast_to(row[None, :, None], (1, self.height, self.width))
        self.x, self.y = self.X, self.Y
        self.rgb = np.zeros((len(names), self.height, self.width, 3), np.float32)
        self.product = np.zeros(self.rgb.shape[:3], bool)

    def u(self, low: float = 0, high: float = 1) -> Field:
        """A uniform number per picture, ``[N, 1, 1]``."""
        values = [rng.random() for rng in self.rngs]
        return (low + (high - low) * np.array(values, np.float32))[:, None, None]

    def grain(self) -> Field:
        """White noise, standard normal."""
        shape = (self.height, self.width)
        return np.stack([rng.standard_normal(shape, np.float32) for rng in self.rngs])

    def clouds(self, rows: int, columns: int | None = None) -> Field:
        """Smooth noise, about standard normal, on a lattice of cells."""
        cells = (rows + 1, (columns or rows) + 1)
        lattice = np.stack([rng.standard_normal(cells, np.float32) for rng in self.rngs])
        down, across = _spread(self.height, rows), _spread(self.width, columns or rows)
        return 1.5 * (down @ lattice @ across.T)

    def jitter(self, shift: float = 0.05, turn: float = 0.06, scale: float = 0.05) -> None:
        """Shift, rotate (radians) and scale the shapes that follow, randomly per picture."""
        grow = 1 + self.u(-scale, scale)
        x, y = self.X - self.u(-shift, shift), self.Y - self.u(-shift, shift)
        angle = self.u(-turn, turn)
        cos, sin = np.cos(angle) / grow, np.sin(angle) / grow
        self.x, self.y = cos * x + sin * y, cos * y - sin * x

    def ground(self, colour, variation: float = 3) -> None:
        """Fill the pictures with a colour; the brightness varies slightly between pictures."""
        self.rgb[:] = np.array(colour, np.float32)
        self.rgb += self.u(-variation, variation)[..., None]

    def paint(self, shape: Field, colour, opacity: float = 1, product: bool | None = True) -> None:
        """Blend a colour over a shape.

        ``product``: whether the shape belongs to the product afterwards; None: unchanged.
        """
        coverage = np.clip(0.5 - shape / self.pixel, 0, 1)
        self.rgb += (np.asarray(colour, np.float32) - self.rgb) * (opacity * coverage)[..., None]
        if product is not None:
            inside = np.broadcast_to(coverage > 0.5, self.product.shape)
            self.product = self.product | inside if product else self.product & ~inside

    def light(self, factor: Field, product_only: bool = True) -> None:
        """Multiply the brightness by ``factor``."""
        factor = np.where(self.product, factor, 1) if product_only else factor
        self.rgb *= factor[..., None]

    def everything(self) -> None:
        """Mark the whole picture as product."""
        self.product[:] = True


@dataclass(frozen=True)
class Pictures:
    images: np.ndarray  # uint8 [N, H, W, 3], RGB
    masks: np.ndarray  # bool [N, H, W], the defect
    clean: np.ndarray  # the images without their defect
    products: np.ndarray  # bool [N, H, W], where the product is


def finish(canvas: Canvas, defective: bool, thin: bool) -> Pictures:
    """Add sensor noise and round; for defective pictures add a blob that changes all its pixels."""
    noisy = canvas.rgb + 2 * canvas.grain()[..., None]
    clean = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if not defective:
        return Pictures(clean, np.zeros(clean.shape[:3], bool), clean, canvas.product)
    masks = _blobs(canvas, thin)
    images = clean.copy()
    for image, mask in zip(images, masks, strict=True):
        image[mask] = _contrast(image[mask])
    return Pictures(images, masks, clean, canvas.product)


def _blobs(c: Canvas, thin: bool) -> np.ndarray:
    """Irregular ellipses, bool ``[N, H, W]``, whose centres lie on the product."""
    inner = (np.abs(c.X) < 0.7 * c.width / min(c.width, c.height)) & (np.abs(c.Y) < 0.7)
    odds = np.stack([rng.random((c.height, c.width), np.float32) for rng in c.rngs])
    best = (odds + 2 * (c.product & inner) + inner).reshape(len(odds), -1).argmax(1)
    rows, columns = np.unravel_index(best, (c.height, c.width))
    dx = c.X - c.X[0, 0, columns][:, None, None]
    dy = c.Y - c.Y[0, rows, 0][:, None, None]
    x, y = turned(dx, dy, c.u(0, np.pi))
    long = c.u(0.25, 0.45) if thin else c.u(0.14, 0.28)
    wide = np.maximum(c.u(0.04, 0.07) if thin else c.u(0.1, 0.22), c.pixel)
    wobble = 1 + 0.2 * np.sin(3 * np.arctan2(y / wide, x / long) + c.u(0, 6.3))
    return np.hypot(x / long, y / wide) < wobble


def _contrast(pixels: np.ndarray) -> np.ndarray:
    """Colours clearly different from ``pixels`` [K, 3]: lighter if these are dark on average, else
    darker; each pixel changes by at least 40 in some channel."""
    old = pixels.astype(np.int16)
    shift = 110 if old.mean() < 128 else -110
    new = np.clip(old + shift, 0, 255)
    same = np.abs(new - old).max(1) < 40
    new[same] = np.clip(old[same] - shift, 0, 255)
    return new.astype(np.uint8)


def _spread(pixels: int, cells: int) -> np.ndarray:
    """Weights ``[pixels, cells + 1]`` of a smooth interpolation from a lattice."""
    at = (np.arange(pixels) + 0.5) / pixels * cells
    left = np.minimum(at.astype(int), cells - 1)
    t = at - left
    t = t * t * (3 - 2 * t)
    weights = np.zeros((pixels, cells + 1), np.float32)
    weights[np.arange(pixels), left] = 1 - t
    weights[np.arange(pixels), left + 1] = t
    return weights


# --- shapes --------------------------------------------------------------------------------------


def turned(x: Field, y: Field, angle) -> tuple[Field, Field]:
    """Coordinates in a frame rotated by ``angle`` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def disc(x, y, cx, cy, radius) -> Field:
    return np.hypot(x - cx, y - cy) - radius


def ellipse(x, y, cx, cy, rx, ry) -> Field:
    """An approximate distance; exact on the outline."""
    return (np.hypot((x - cx) / rx, (y - cy) / ry) - 1) * min(rx, ry)


def box(x, y, cx, cy, half_width, half_height, corner=0.0) -> Field:
    ax, ay = np.abs(x - cx) - half_width + corner, np.abs(y - cy) - half_height + corner
    outside = np.hypot(np.maximum(ax, 0), np.maximum(ay, 0))
    return outside + np.minimum(np.maximum(ax, ay), 0) - corner


def segment(x, y, ax, ay, bx, by, radius) -> Field:
    """A line segment with round ends."""
    dx, dy = bx - ax, by - ay
    t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - ax - t * dx, y - ay - t * dy) - radius


def arc(x, y, radius, thick, half_angle) -> Field:
    """A bent rod around (0, 0), open to the left, with round ends."""
    inside = np.abs(np.arctan2(y, x)) < half_angle
    cap = np.hypot(x - radius * np.cos(half_angle), np.abs(y) - radius * np.sin(half_angle))
    return np.where(inside, np.abs(np.hypot(x, y) - radius), cap) - thick


def polygon(x, y, sides, radius, angle=0.0) -> Field:
    """A regular polygon around (0, 0); ``radius``: distance to the middle of an edge."""
    wedge = 2 * np.pi / sides
    at = (np.arctan2(y, x) - angle + wedge / 2) % wedge - wedge / 2
    return np.hypot(x, y) * np.cos(at) - radius


# --- files ---------------------------------------------------------------------------------------


def encode(picture: np.ndarray, suffix: str) -> bytes:
    """Encode an RGB or grey uint8 picture as a .png, .bmp or .JPG file, with fast settings."""
    options = {
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
        ".bmp": [],
    }[suffix.lower()]
    stored = picture[..., ::-1] if picture.ndim == 3 else picture
    done, data = cv2.imencode(suffix.lower(), np.ascontiguousarray(stored), options)
    if not done:
        raise RuntimeError(f"OpenCV could not write a {suffix}")
    return data.tobytes()
