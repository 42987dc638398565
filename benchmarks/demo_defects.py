"""Figure and table of the demo dataset's defect types (docs/demo.md).

    python benchmarks/demo_defects.py docs/images/demo_hard_defects.png

The figure shows one image of each hard type, with and without the outline of its mask. The table
is printed as Markdown; areas are medians over ``--images`` images of seed 0 at 128 pixels.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from realnet.core.io import write_png
from realnet.datasets import demo
from realnet.datasets.categories import DEMO_CATEGORIES

SIZE = 128
ZOOM = 2
CROP = 60  # pixels around the defect that the figure shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", type=Path, help="PNG to write")
    parser.add_argument("--images", type=int, default=20, help="images per type for the areas")
    options = parser.parse_args()
    write_png(options.figure, figure())
    print(
        "| category | defect type | what | difficulty | area, % |\n| --- | --- | --- | --- | --- |"
    )
    for category in DEMO_CATEGORIES:
        for name, defect in demo.defects(category).items():
            areas = [sample(category, name, k).mask.mean() * 100 for k in range(options.images)]
            print(
                f"| {category} | `{name}` | {defect.about} | {defect.difficulty} |"
                f" {np.median(areas):.2f} |"
            )


def sample(category: str, defect: str, index: int) -> demo.Sample:
    return demo.render(category, f"test/{defect}", index, seed=0, size=SIZE, defect=defect)


def figure() -> np.ndarray:
    """A row per category: each hard defect type, then the same with its outline."""
    rows = []
    for category in DEMO_CATEGORIES:
        hard = [n for n, d in demo.defects(category).items() if d.difficulty == "hard"]
        rows.append(np.concatenate([labelled(category, name) for name in hard], axis=1))
    return np.concatenate(rows)


def labelled(category: str, defect: str) -> np.ndarray:
    """Two crops around a defect, below its name."""
    shown = sample(category, defect, 0)
    middle = np.argwhere(shown.mask).mean(axis=0)
    top, left = np.clip(np.rint(middle - CROP / 2), 0, SIZE - CROP).astype(int)
    window = (slice(top, top + CROP), slice(left, left + CROP))
    image = shown.image[window].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    mask = shown.mask[window].astype(np.uint8).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    outlined = image.copy()
    outlined[cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask] = (255, 40, 40)
    pair = np.concatenate([image, outlined], axis=1)
    strip = np.full((20, pair.shape[1], 3), 255, np.uint8)
    cv2.putText(
        *(strip, f"{category}: {defect}", (3, 14)),
        *(cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA),
    )
    return np.pad(np.concatenate([strip, pair]), ((0, 2), (0, 6), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
