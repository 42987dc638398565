"""Atomic writing of the demo dataset to a folder in MVTec-AD layout."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from realnet.config.sections import DemoData
from realnet.core.errors import UserError
from realnet.core.io import write_json, write_png
from realnet.core.progress import progress
from realnet.datasets.categories import DEMO_CATEGORIES
from realnet.datasets.demo.render import Sample, defect_types, render

GENERATOR = 2  # increased when the same parameters give other images


def make_demo(settings: DemoData, out: str | Path) -> dict[str, Any]:
    """Render the demo dataset to ``out``, replacing an existing one; returns ``dataset.json``.

    It is rendered to a hidden folder beside ``out`` that is renamed at the end, so an interrupted
    run leaves no incomplete dataset. Raises UserError if ``out`` is not a demo dataset.
    """
    out = Path(out)
    _check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        work.chmod(0o755)
        jobs = [
            (category, *job) for category in DEMO_CATEGORIES for job in plan(category, settings)
        ]
        for step, _ in progress(0, len(jobs), "demo images"):
            category, split, index, defect = jobs[step]
            sample = render(
                category,
                *(split, index),
                seed=settings.seed,
                size=settings.image_size,
                defect=defect,
            )
            write_png(work / category / split / f"{index:03d}.png", sample.image)
            if defect:
                mask = work / category / "ground_truth" / defect / f"{index:03d}_mask.png"
                write_png(mask, sample.mask.astype(np.uint8) * 255)
        write_png(work / "contact_sheet.png", contact_sheet(settings))
        record = describe(settings)
        write_json(work / "dataset.json", record)
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record


def plan(category: str, settings: DemoData) -> Iterator[tuple[str, int, str | None]]:
    """The images of a category: (folder of split and defect type, index, defect type or None)."""
    for index in range(settings.train):
        yield "train/good", index, None
    for index in range(settings.test_good):
        yield "test/good", index, None
    for defect, count in _defect_counts(category, settings.test_defective).items():
        for index in range(count):
            yield f"test/{defect}", index, defect


def describe(settings: DemoData) -> dict[str, Any]:
    """Content of ``dataset.json``: generator, seed, and counts of images."""
    return {
        "name": "demo",
        "generator": GENERATOR,
        "seed": settings.seed,
        "image_size": settings.image_size,
        "categories": {
            category: {
                "train": settings.train,
                "test_good": settings.test_good,
                "test_defective": _defect_counts(category, settings.test_defective),
            }
            for category in DEMO_CATEGORIES
        },
    }


def contact_sheet(settings: DemoData, zoom: int = 2) -> np.ndarray:
    """uint8 RGB image: per category a row of normal images, of defects, and of outlined defects."""
    rows = []
    for category in DEMO_CATEGORIES:
        counts = _defect_counts(category, settings.test_defective)
        defects = [defect for defect, count in counts.items() if count]
        seed, size = settings.seed, settings.image_size
        good = [
            render(category, "train/good", index, seed=seed, size=size)
            for index in range(min(settings.train, len(counts)))
        ]
        bad = [
            render(category, f"test/{defect}", 0, seed=seed, size=size, defect=defect)
            for defect in defects
        ]
        rows.append(_row([_tile(s, zoom) for s in good], [f"{category}: good"], len(counts)))
        rows.append(_row([_tile(s, zoom) for s in bad], defects, len(counts)))
        rows.append(_row([_tile(s, zoom, outline=True) for s in bad], [], len(counts)))
    return np.concatenate(rows)


def _defect_counts(category: str, total: int) -> dict[str, int]:
    """``total`` defective images per defect type, as evenly as possible, earlier names first."""
    defects = defect_types(category)
    each, more = divmod(total, len(defects))
    return {defect: each + (k < more) for k, defect in enumerate(defects)}


def _tile(sample: Sample, zoom: int, outline: bool = False) -> np.ndarray:
    image = sample.image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    if outline:
        mask = sample.mask.astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
        edge = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask
        image[edge] = (255, 40, 40)
    return np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def _row(tiles: list[np.ndarray], labels: list[str], columns: int) -> np.ndarray:
    blank = np.full_like(tiles[0], 255)
    row = np.concatenate(tiles + [blank] * (columns - len(tiles)), axis=1)
    if not labels:
        return row
    strip = np.full((22, row.shape[1], 3), 255, np.uint8)
    for k, label in enumerate(labels):
        at = (6 + k * blank.shape[1], 16)
        cv2.putText(strip, label, at, cv2.FONT_HERSHEY_SIMPLEX, 0.48, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([strip, row])


def _check_replaceable(out: Path) -> None:
    """Refuse to replace other folders (Snakemake may have removed some files of a demo dataset)."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder for the demo dataset")
    ours = {*DEMO_CATEGORIES, "dataset.json", "contact_sheet.png"}
    strange = sorted(p.name for p in out.iterdir() if p.name not in ours and p.name[0] != ".")
    if strange:
        raise UserError(
            f"{out}: holds {', '.join(strange[:5])}, so it is not a demo dataset and is not"
            " replaced; give another --out or move it away"
        )
