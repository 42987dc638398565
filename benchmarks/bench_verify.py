"""`realnet data verify` with one and several workers, compared with a plain loop.

    python benchmarks/bench_verify.py [--small] [--workers N]

Generates one category of 256 px PNGs with photo-like content, about 100 KB each, and masks. The
plain loop does less: file by file, it opens and decodes, then reads again for the SHA-256.
Rates count images, not masks; the median of the rounds. Files come from the page cache.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from PIL import Image

from realnet.config.sections import Prepare
from realnet.core.io import sha256
from realnet.datasets.verify.verify_dataset import verify

SIDE = 256
SETTINGS = Prepare(allow_partial=False, layouts={})


def photo(rng: np.random.Generator) -> np.ndarray:
    """uint8 ``[SIDE, SIDE, 3]``: noise of several scales and a camera's grain."""
    image = 128 + rng.normal(scale=2, size=(SIDE, SIDE, 3)).astype(np.float32)
    for scale, contrast in ((64, 45), (16, 20), (4, 8), (1, 3)):
        noise = rng.normal(size=(SIDE, SIDE, 3)).astype(np.float32)
        blurred = cv2.GaussianBlur(noise, (0, 0), scale)
        image += blurred * (contrast / blurred.std())
    return image.clip(0, 255).astype(np.uint8)


def make_category(folder: Path, images: int) -> float:
    """Four fifths for training, a tenth normal test images and a tenth anomalous; KB per image."""
    rng = np.random.default_rng(0)
    parts = ["train/good"] * (images * 8 // 10) + ["test/good"] * (images // 10)
    parts += ["test/hole"] * (images - len(parts))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (120, 90), (40, 25), 30, 0, 360, 255, -1)
    total = 0
    for index, part in enumerate(parts):
        path = folder / part / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(rng)).save(path)
        total += path.stat().st_size
        if part == "test/hole":
            where = folder / "ground_truth/hole" / f"{index:04d}_mask.png"
            where.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(where)
    return total / images / 1000


def plain(folder: Path) -> None:
    hashes = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            image.load()
        hashes[path] = sha256(path)


def ours(root: Path, workers: int) -> None:
    (checked,) = verify([("own", "bolt")], root, root / "none", SETTINGS, workers)
    assert not checked.problems, checked.problems[:3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="60 images, a few seconds")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    images, rounds = (60, 3) if arguments.small else (400, 7)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        size = make_category(root / "own/bolt", images)
        print(f"{images} PNGs of {SIDE} px, {size:.0f} KB each, {images // 10} with a mask")
        ways = {"plain: open, load, hash": lambda: plain(root / "own")}
        for workers in sorted({1, arguments.workers}):
            ways[f"verify, workers {workers}"] = lambda n=workers: ours(root, n)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):  # in turn, so that a busy moment of the machine meets them all
            for name, way in ways.items():
                start, used = time.perf_counter(), time.process_time()
                way()
                rates[name].append(images / (time.perf_counter() - start))
                cpu[name].append((time.process_time() - used) / images * 1000)
        first = statistics.median(rates["plain: open, load, hash"])
        for name, measured in rates.items():
            rate = statistics.median(measured)
            spread = f"{min(measured):.0f} to {max(measured):.0f}"
            busy = statistics.median(cpu[name])
            print(
                f"{name:24s} {rate:5.0f} images/s ({spread}), {rate / first:.2f} x plain,"
                f" {busy:.2f} ms CPU per image"
            )


if __name__ == "__main__":
    main()
