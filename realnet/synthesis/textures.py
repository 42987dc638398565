"""Procedural textures and shapes: the demo's replacement for ImageNet and for DTD.

Parameter families (gratings, cells, speckle, dots, checks, polygons, rings, ...), each under random
colour, light, scale, rotation and noise. Nothing here looks like a product of the demo dataset or
like its defects: single strokes (scratches, cracks, stray threads) were left out
on purpose.
"""

from collections.abc import Callable

import cv2
import numpy as np

Painter = Callable[[np.random.Generator, int], np.ndarray]  # -> float32 [S, S] in about [0, 1]


def _plane(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotated, shifted pixel coordinates, unit = image side."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    u = np.cos(angle) * x - np.sin(angle) * y + rng.uniform(-0.3, 0.3)
    v = np.sin(angle) * x + np.cos(angle) * y + rng.uniform(-0.3, 0.3)
    return u.astype(np.float32), v.astype(np.float32)


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise with about ``cells`` features per side, range [0, 1]."""
    coarse = rng.random((cells + 3, cells + 3), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _grating(low: float, high: float, sharp: bool) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        u, _ = _plane(rng, size)
        wave = np.sin(2 * np.pi * u * rng.uniform(low, high))
        return (wave > 0).astype(np.float32) if sharp else 0.5 + 0.5 * wave

    return paint


def _plaid(low: float, high: float, mode: str) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        u, v = _plane(rng, size)
        f = rng.uniform(low, high)
        a, b = np.sin(2 * np.pi * u * f), np.sin(2 * np.pi * v * f * rng.uniform(0.9, 1.1))
        if mode == "check":
            return ((a > 0) ^ (b > 0)).astype(np.float32)
        if mode == "dots":
            return (a + b > rng.uniform(0.7, 1.1)).astype(np.float32)
        if mode == "grid":
            return (np.maximum(a, b) > 0.8).astype(np.float32)
        return 0.5 + 0.25 * (a + b)

    return paint


def _cells(low: int, high: int, mode: str) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        points = rng.random((int(rng.integers(low, high)), 2), dtype=np.float32)
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
        distance = np.sqrt((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2)
        nearest = np.partition(distance, 1, axis=-1)
        if mode == "edges":
            return np.clip((nearest[..., 1] - nearest[..., 0]) * len(points), 0, 1)
        if mode == "flat":
            return rng.random(len(points), dtype=np.float32)[distance.argmin(-1)]
        return np.clip(nearest[..., 0] * np.sqrt(len(points)) * 1.3, 0, 1)

    return paint


def _cloud(octaves: tuple[int, ...], ridge: bool) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        field = sum(_noise(rng, size, c) * (octaves[0] / c) ** 0.7 for c in octaves)
        field = (field - field.min()) / (np.ptp(field) + 1e-6)
        return 1 - np.abs(2 * field - 1) if ridge else field

    return paint


def _streaks(length: int, density: float) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        speck = (rng.random((size, size)) < density).astype(np.float32)
        kernel = np.zeros((length, length), np.float32)
        centre = (length - 1) / 2
        tip = centre * np.array([np.cos(a := rng.uniform(0, np.pi)), np.sin(a)])
        ends = [(round(centre - s * tip[0]), round(centre - s * tip[1])) for s in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0, 1)
        return np.clip(cv2.filter2D(speck, -1, kernel), 0, 1)

    return paint


def _polygon(corners: int, hollow: bool) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        canvas = np.zeros((size, size), np.float32)
        for _ in range(int(rng.integers(1, 4))):
            centre, radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.1, 0.3)
            angle = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
            ring = np.stack([np.cos(angle), np.sin(angle)], 1) * radius + centre
            shape = (ring * size * 16).astype(np.int32)[None]
            tone = float(rng.uniform(0.5, 1))
            if hollow:
                cv2.polylines(canvas, shape, True, tone, 2, cv2.LINE_AA, shift=4)
            else:
                cv2.fillPoly(canvas, shape, tone, cv2.LINE_AA, shift=4)
        return canvas

    return paint


def _radial(kind: str) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        u, v = _plane(rng, size)
        r, angle = np.hypot(u, v), np.arctan2(v, u)
        f, spokes = rng.uniform(5, 14), int(rng.integers(5, 16))
        if kind == "rings":
            return 0.5 + 0.5 * np.sin(2 * np.pi * r * f)
        if kind == "spokes":
            return (np.sin(angle * spokes) > 0).astype(np.float32)
        if kind == "spiral":
            return 0.5 + 0.5 * np.sin(2 * np.pi * r * f + angle * 2)
        return np.clip(1.2 - r * rng.uniform(1.5, 4), 0, 1)

    return paint


def _speckle(grain: float, quantile: float | None) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        field = rng.standard_normal((size, size)).astype(np.float32)
        if grain > 0:
            field = cv2.GaussianBlur(field, (0, 0), grain)
        field = (field - field.mean()) / (field.std() + 1e-6)
        if quantile is not None:
            return (field > quantile).astype(np.float32)
        return np.clip(0.5 + 0.25 * field, 0, 1)

    return paint


def _bricks(low: float, high: float, offset: float) -> Painter:
    def paint(rng: np.random.Generator, size: int) -> np.ndarray:
        u, v = _plane(rng, size)
        f = rng.uniform(low, high)
        row = np.floor(v * 2 * f)
        a = np.abs(((u * f + row * offset) % 1) - 0.5)
        b = np.abs((v * 2 * f % 1) - 0.5)
        return ((a < 0.45) & (b < 0.42)).astype(np.float32)

    return paint


CLASSES: tuple[Painter, ...] = (
    *(_grating(lo, hi, sharp) for lo, hi in ((2, 4), (5, 8), (10, 16)) for sharp in (False, True)),
    *(_plaid(lo, hi, m) for lo, hi in ((2, 5), (7, 12)) for m in ("check", "dots", "grid", "soft")),
    *(_cells(lo, hi, m) for lo, hi in ((8, 15), (30, 60)) for m in ("edges", "flat", "bump")),
    *(_cloud(o, r) for o in ((2, 4), (4, 8, 16), (12, 24)) for r in (False, True)),
    *(_streaks(n, d) for n, d in ((7, 0.05), (15, 0.02), (15, 0.08), (25, 0.01))),
    *(_polygon(c, h) for c in (3, 4, 5, 32) for h in (False, True)),
    *(_radial(kind) for kind in ("rings", "spokes", "spiral", "glow")),
    *(_speckle(g, q) for g, q in ((0, None), (1.2, None), (1.2, 1.0), (2.5, 1.2), (0.8, 2.0))),
    *(_bricks(lo, hi, o) for lo, hi in ((2, 4), (5, 8)) for o in (0.0, 0.5)),
)


def paint_image(rng: np.random.Generator, painter: Painter, size: int) -> np.ndarray:
    """One RGB image, uint8 ``[S, S, 3]``: the pattern between two random shaded colours."""
    pattern = painter(rng, size)[..., None].astype(np.float32)
    first, second = rng.random((2, 3), dtype=np.float32)
    while np.abs(first - second).max() < 0.2:
        second = rng.random(3, dtype=np.float32)
    shade = 0.75 + 0.5 * _noise(rng, size, 2)[..., None]
    image = (first * pattern + second * (1 - pattern)) * shade
    image += rng.normal(0, rng.uniform(0, 0.04), image.shape)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.0)))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
