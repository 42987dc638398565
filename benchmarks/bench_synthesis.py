"""Anomaly synthesis: batched (this project) compared with plain per-image NumPy code.

    python benchmarks/bench_synthesis.py [--small]

Both make a Perlin mask, restrict it to the foreground and blend, with the official recipe's
settings. "Plain" is what an official-style loader does for each item: gradient noise with NumPy,
rotation and foreground with OpenCV, blending in float. Ours computes the foreground of a training
image once, when training starts; its cost is shown separately.
"""

import argparse
import math
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

from realnet.config.params import load
from realnet.config.sections import Perlin
from realnet.synthesis.foreground import foregrounds
from realnet.synthesis.synthesiser import AnomalySynthesiser

RULE = {"method": "otsu", "side": "bright", "close": 6, "open": 6}


def plain_perlin(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Gradient noise [size, size] on a lattice of ``cells``, all pixels at once."""
    angle = 2 * np.pi * rng.random((cells[0] + 1, cells[1] + 1))
    gradient = np.stack([np.cos(angle), np.sin(angle)], -1)
    grid = np.mgrid[0:size, 0:size].astype(np.float64)
    v, u = grid[0] / size * cells[0], grid[1] / size * cells[1]
    r, c = v.astype(int), u.astype(int)
    dv, du = v - r, u - c

    def corner(down: int, right: int) -> np.ndarray:
        g = gradient[r + down, c + right]
        return g[..., 0] * (du - right) + g[..., 1] * (dv - down)

    fv, fu = (t**3 * (t * (6 * t - 15) + 10) for t in (dv, du))
    top = corner(0, 0) * (1 - fu) + corner(0, 1) * fu
    bottom = corner(1, 0) * (1 - fu) + corner(1, 1) * fu
    return math.sqrt(2) * (top * (1 - fv) + bottom * fv)


def plain_anomaly(rng: np.random.Generator, image: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """One anomalous image, uint8 [S, S, 3], by per-image code."""
    size = len(image)
    cells = tuple(int(2**e) for e in rng.integers(0, 6, 2))
    field = plain_perlin(rng, size, cells)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-90, 90), 1.0)
    mask = (cv2.warpAffine(field, turn, (size, size)) > 0.5).astype(np.float32)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, foreground = cv2.threshold(grey, 100, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    kernel = np.ones((6, 6), np.uint8)
    foreground = cv2.morphologyEx(foreground, cv2.MORPH_CLOSE, kernel)
    foreground = cv2.morphologyEx(foreground, cv2.MORPH_OPEN, kernel)
    m = (mask * (foreground > 0))[..., None]
    delta = rng.uniform(0.5, 1.0)
    i, p = image.astype(np.float32), patch.astype(np.float32)
    return ((1 - m) * i + m * (delta * p + (1 - delta) * i)).astype(np.uint8)


def run(size: int, images: int, rounds: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    base = np.stack([cv2.GaussianBlur(b, (0, 0), size / 16) for b in base])
    tensor = torch.from_numpy(base).permute(0, 3, 1, 2).contiguous()
    perlin = Perlin(min_exponent=0, max_exponent=5, threshold=0.5, rotation=90.0, turn="mask")
    params = load().synthesis.model_copy(
        update={"perlin": perlin, "sources": {"sdas": 1.0}, "empty_masks": "keep"}
    )
    begin = time.perf_counter()
    masks = foregrounds(tensor, RULE)
    once = (time.perf_counter() - begin) / images
    synthesise = AnomalySynthesiser(params, {"sdas": tensor.flip(0)}, 0, "bench")
    ours, plain = [], []
    for turn in range(rounds):
        begin = time.perf_counter()
        synthesise(tensor, masks, turn * images)
        middle = time.perf_counter()
        for index in range(images):
            plain_anomaly(rng, base[index], base[images - 1 - index])
        end = time.perf_counter()
        ours.append((middle - begin) / images)
        plain.append((end - middle) / images)
    a, b = statistics.median(ours) * 1e3, statistics.median(plain) * 1e3
    print(
        f"{size:4d} px: ours {a:7.3f} ms/image, plain {b:7.3f} ms/image, ratio {b / a:5.1f}x"
        f"   (foreground, once per training image: {once * 1e3:.3f} ms)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few seconds")
    small = parser.parse_args().small
    for side in (64, 256):
        run(side, images=32, rounds=5 if small else 20)
