"""Common functions of the three renderers: coordinates, distance fields, light, and camera.

Lengths are in units ``u``: the field of view is 128 x 128 u for every image size. Colours are
linear light, float32 ``[S, S, 3]``; a height map is ``[S, S]`` in u, positive upwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

FIELD = 128.0  # width of the field of view, in u
SUPERSAMPLING = 2

Array = np.ndarray


@dataclass(frozen=True)
class Defect:
    """A defect type of a category, and which renderings of it are accepted.

    Contrasts are changes of a channel in display values 0..1.
    """

    about: str  # what happened to the object
    difficulty: Literal["standard", "hard"]
    smallest: float = 0.003  # fraction of the image that it may cover
    largest: float = 0.055
    speck: float = 6.0  # in u²: smaller spots of the difference are not part of the mask
    closing: float = 1.0  # radius in u: unchanged spots inside up to twice as wide belong to it
    visible: float = 0.025  # contrast from which a pixel belongs to the mask
    clear: float = 0.10  # contrast that a quarter of the mask has at least


@dataclass(frozen=True)
class DefectInstance:
    """One defect to paint: its type, and the generator that decides its place and shape."""

    type: str
    rng: np.random.Generator


@dataclass(frozen=True)
class Frame:
    """The pixels at which a scene is evaluated: ``x`` right, ``y`` down, in u, ``[S, S]``."""

    pixels: int  # S
    x: Array
    y: Array

    @property
    def pitch(self) -> float:
        """Width of one (supersampled) pixel in u."""
        return FIELD / self.pixels


def make_frame(size: int) -> Frame:
    """The frame of an image of ``size`` pixels, supersampled."""
    pixels = size * SUPERSAMPLING
    axis = (np.arange(pixels, dtype=np.float32) + 0.5) * np.float32(FIELD / pixels)
    return Frame(pixels, *np.meshgrid(axis, axis))


# --- random textures (on lattices of fixed size, so they do not depend on the image size) ---------


def smooth_noise(rng: np.random.Generator, frame: Frame, scale: float) -> Array:
    """Smooth noise ``[S, S]`` of unit variance at its lattice points, features ``scale`` u wide."""
    n = int(np.ceil(FIELD / scale)) + 4
    lattice = rng.standard_normal((n, n), dtype=np.float32)
    step = frame.pixels / (FIELD / scale)  # pixels per lattice cell
    big = cv2.resize(lattice, (int(n * step),) * 2, interpolation=cv2.INTER_CUBIC)
    start = int(step)
    return big[start : start + frame.pixels, start : start + frame.pixels]


def grain(rng: np.random.Generator, frame: Frame, blur: float = 0.0) -> Array:
    """Fine surface grain ``[S, S]`` of unit variance: white noise, blurred by ``blur`` u."""
    values = rng.standard_normal((256, 256), dtype=np.float32)
    if blur:
        values = cv2.GaussianBlur(values, (0, 0), blur * 2)
        values /= values.std()
    if frame.pixels != 256:
        values = cv2.resize(values, (frame.pixels,) * 2, interpolation=cv2.INTER_LINEAR)
    return values


# --- distance fields (u, negative inside) ---------------------------------------------------------


def rotate(x: Array, y: Array, degrees: float) -> tuple[Array, Array]:
    """Coordinates in a frame rotated by ``degrees`` (clockwise on the screen)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (x * c + y * s).astype(np.float32), (y * c - x * s).astype(np.float32)


def box(x: Array, y: Array, half_w: float, half_h: float, radius: float = 0.0) -> Array:
    """Distance to a box around the origin with rounded corners."""
    dx, dy = np.abs(x) - (half_w - radius), np.abs(y) - (half_h - radius)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(radius)


def stroke(
    frame: Frame, points: Array, half_widths: Array | Sequence[float]
) -> tuple[Array, Array]:
    """Distance to a polyline of varying width, and the position along it (0..1), both ``[S, S]``.

    ``points``: ``[K, 2]`` in u; ``half_widths``: K values in u.
    """
    best = np.full(frame.x.shape, 1e3, np.float32)
    along = np.zeros(frame.x.shape, np.float32)
    count = len(points) - 1
    margin = 12.0  # distances are exact up to this; beyond it they are only large
    for k in range(count):
        (ax, ay), (bx, by) = points[k], points[k + 1]
        x0, x1 = np.clip(
            [(min(ax, bx) - margin) / frame.pitch, (max(ax, bx) + margin) / frame.pitch + 1],
            0,
            frame.pixels,
        ).astype(int)
        y0, y1 = np.clip(
            [(min(ay, by) - margin) / frame.pitch, (max(ay, by) + margin) / frame.pitch + 1],
            0,
            frame.pixels,
        ).astype(int)
        if x0 >= x1 or y0 >= y1:
            continue
        px, py = frame.x[y0:y1, x0:x1] - ax, frame.y[y0:y1, x0:x1] - ay
        vx, vy = bx - ax, by - ay
        t = np.clip((px * vx + py * vy) / max(vx * vx + vy * vy, 1e-6), 0, 1)
        width = half_widths[k] + t * (half_widths[k + 1] - half_widths[k])
        d = (np.hypot(px - t * vx, py - t * vy) - width).astype(np.float32)
        part = best[y0:y1, x0:x1]
        nearer = d < part
        part[nearer] = d[nearer]
        along[y0:y1, x0:x1][nearer] = ((k + t) / count)[nearer]
    return best, along


def puddle(frame: Frame, centres: Array, radii: Array, merge: float = 4.0) -> Array:
    """Approximate distance to merged drops: a smooth union of discs."""
    total = np.zeros(frame.x.shape, np.float32)
    for (cx, cy), r in zip(centres, radii, strict=True):
        d = np.hypot(frame.x - cx, frame.y - cy) - r
        total += np.exp(np.clip(-d / merge, -30, 30))
    return -merge * np.log(np.maximum(total, 1e-12))


def polygon(frame: Frame, points: Array) -> Array:
    """Distance to a simple polygon with corners ``points [K, 2]``, negative inside."""
    best = np.full(frame.x.shape, 1e6, np.float32)
    inside = np.zeros(frame.x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        vx, vy = bx - ax, by - ay
        px, py = frame.x - ax, frame.y - ay
        t = np.clip((px * vx + py * vy) / max(vx * vx + vy * vy, 1e-6), 0, 1)
        best = np.minimum(best, np.hypot(px - t * vx, py - t * vy))
        crosses = (ay > frame.y) != (by > frame.y)
        if abs(vy) > 1e-6:
            inside ^= crosses & (px < vx * py / vy)
    return np.where(inside, -best, best).astype(np.float32)


def coverage(distance: Array, softness: float = 0.6) -> Array:
    """Coverage (0..1) of pixels by a shape, with an edge ``softness`` u wide."""
    return np.clip(0.5 - distance / np.float32(softness), 0, 1).astype(np.float32)


def ramp(values: Array, start: float, end: float) -> Array:
    """Smooth step from 0 at ``start`` to 1 at ``end``."""
    t = np.clip((values - np.float32(start)) / np.float32(end - start), 0, 1)
    return t * t * (3 - 2 * t)


# --- light ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Light:
    """A soft key light above the object: unit vector towards it (z up), strength, and ambient."""

    x: float
    y: float
    z: float
    strength: float
    ambient: float


def make_light(rng: np.random.Generator, azimuth: float, elevation: float, jitter: float) -> Light:
    """A light from ``azimuth`` (degrees clockwise from the right of the screen), slightly jittered.

    ``jitter``: largest relative change of strength.
    """
    a = np.radians(azimuth + rng.uniform(-4, 4))
    e = np.radians(elevation + rng.uniform(-2, 2))
    return Light(
        x=float(np.cos(a) * np.cos(e)),
        y=float(np.sin(a) * np.cos(e)),
        z=float(np.sin(e)),
        strength=float(1 + rng.uniform(-jitter, jitter)),
        ambient=0.42,
    )


def normals(height: Array, frame: Frame) -> tuple[Array, Array, Array]:
    """Unit normals of a height map, ``[S, S]`` each."""
    scale = np.float32(1 / (8 * frame.pitch))
    gx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale, borderType=cv2.BORDER_REFLECT)
    gy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale, borderType=cv2.BORDER_REFLECT)
    length = 1 / np.sqrt(gx * gx + gy * gy + 1)
    return -gx * length, -gy * length, length


def diffuse(n: tuple[Array, Array, Array], light: Light) -> Array:
    """Ambient plus Lambert's law, relative to a surface that faces up."""
    lambert = np.maximum(n[0] * light.x + n[1] * light.y + n[2] * light.z, 0) / light.z
    return light.strength * (light.ambient + (1 - light.ambient) * lambert)


def gloss(n: tuple[Array, Array, Array], light: Light, sharpness: float) -> Array:
    """Blinn-Phong highlight for a camera straight above."""
    hx, hy, hz = light.x, light.y, light.z + 1
    length = float(np.sqrt(hx * hx + hy * hy + hz * hz))
    cosine = (n[0] * hx + n[1] * hy + n[2] * hz) / np.float32(length)
    return light.strength * np.power(np.maximum(cosine, 0), np.float32(sharpness))


def shadow(alpha: Array, frame: Frame, light: Light, height: float, blur: float) -> Array:
    """Fraction (0..1, ``[S, S]``) of the key light that an object ``height`` u tall blocks.

    ``alpha``: coverage of the pixels by the object.
    """
    shift = height / max(light.z, 0.2) / frame.pitch
    matrix = np.array([[1, 0, -light.x * shift], [0, 1, -light.y * shift]], np.float32)
    size = (frame.pixels, frame.pixels)
    moved = cv2.warpAffine(alpha, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(moved, (0, 0), blur / frame.pitch)


def over(below: Array, colour: Array | Sequence[float], alpha: Array) -> Array:
    """Blend ``colour`` (``[S, S, 3]`` or three numbers) over an image with opacity ``alpha``."""
    top = np.asarray(colour, np.float32)
    flat = below.reshape(len(below), -1)  # long rows: broadcasting over three numbers is slow
    top = np.tile(top, below.shape[1]) if top.ndim == 1 else top.reshape(flat.shape)
    return (flat + (top - flat) * _tripled(alpha)).reshape(below.shape)


def tint(colour: Sequence[float], shade: Array) -> Array:
    """A colour times a shading ``[S, S]``."""
    top = np.tile(np.asarray(colour, np.float32), shade.shape[1])
    return (top * _tripled(shade)).reshape(*shade.shape, 3)


def _tripled(values: Array) -> Array:
    """Each value ``[H, W]`` three times, for the channels: ``[H, 3 W]``."""
    return cv2.merge((values, values, values)).reshape(len(values), -1)


# --- camera ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposure:
    """Gains of the three channels, and sensor noise of unit variance ``[H, W, 3]``."""

    gain: Array
    noise: Array


def make_exposure(rng: np.random.Generator, size: int) -> Exposure:
    gain = (1 + rng.uniform(-0.008, 0.008, 3)).astype(np.float32)
    return Exposure(gain, rng.standard_normal((size, size, 3), dtype=np.float32))


def develop(linear: Array, frame: Frame, shot: Exposure, focus: float = 0.42) -> Array:
    """The image before noise, float32 ``[H, W, 3]`` in display values 0..1.

    Defocus (Gaussian, ``focus`` u), a little veiling glare, vignetting, area sampling on the
    sensor, a soft shoulder for highlights and the sRGB-like gamma 2.2.
    """
    glare = cv2.GaussianBlur(linear, (0, 0), 5.0 / frame.pitch / 4) if focus else linear
    light = cv2.GaussianBlur(linear, (0, 0), focus / frame.pitch)
    light = 0.97 * light + 0.03 * glare
    r2 = ((frame.x - FIELD / 2) ** 2 + (frame.y - FIELD / 2) ** 2) / (FIELD / 2) ** 2
    light *= (1 - 0.13 * r2)[..., None]
    size = frame.pixels // SUPERSAMPLING
    light = cv2.resize(light, (size, size), interpolation=cv2.INTER_AREA) * shot.gain
    light = np.where(light > 0.7, 0.7 + 0.3 * np.tanh((light - 0.7) / 0.3), light)
    return np.power(np.clip(light, 0, 1), np.float32(1 / 2.2))


def digitise(picture: Array, shot: Exposure, noise: float = 0.007) -> Array:
    """Add sensor noise (standard deviation ``noise`` of full scale) and round to uint8."""
    return np.clip((picture + noise * shot.noise) * 255 + 0.5, 0, 255).astype(np.uint8)
