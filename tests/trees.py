"""Small fake copies of the four datasets with their exact published folder structure.

    python tests/trees.py OUT [DATASET...]      OUT/<dataset>/...; all four by default

Folders, file names, formats, extension case, colour modes and counts are the published ones
(including the file numbers that BTAD skips). Images are tiny, drawn (`products.py`), seeded, and
all different.
"""

import csv
import sys
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import yaml
from drawing import Canvas, Pictures, encode, finish
from products import RECIPES

from realnet.core.seeds import numpy_generator

PUBLISHED = (
    Path(__file__).resolve().parent.parent / "realnet" / "datasets" / "published_counts.yaml"
)
GREY = {("mvtec_ad", "grid"), ("mvtec_ad", "screw"), ("mvtec_ad", "zipper")}
# Numbers that the published folders do not have, by category and folder.
GAPS = {("01", "test/ko"): {27}, ("02", "train/ok"): {87}}
BTAD_SUFFIXES = {"01": (".bmp", ".png"), "02": (".png", ".png"), "03": (".bmp", ".bmp")}
THIN = ("scratch", "crack", "cut", "thread", "bent", "broken", "wire", "lead", "split")
VISA_DEFECTS = ("scratch", "bent", "missing part", "stain", "small hole", "melt")
CHUNK = 1 << 19  # pixels drawn at once


def make_tree(
    dataset: str,
    root: str | Path,
    categories: Sequence[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
    counts: str | int = "published",
    layout: str = "raw",
) -> Path:
    """Write a dataset's tree to ``root`` (what would be ``data/raw/<dataset>``); returns ``root``.

    ``size``: width and height; by default 32 pixels on the short side, in the published aspect
    (VisA 3:2, BTAD 03 4:3, else square). ``counts``: as published, or the largest number of images
    per split and defect type (the first ones). ``layout``: ``raw`` as published, or ``converted``
    (VisA only) as the official RealNet code expects it.
    """
    root = Path(root)
    known = table()[dataset]
    if layout not in ("raw", "converted") or (layout == "converted" and dataset != "visa"):
        raise ValueError(f"no layout {layout!r} of {dataset}")
    root.mkdir(parents=True, exist_ok=True)
    rows: list[list[str]] = []
    for category in categories or known:
        limits = {
            split: {
                defect: n if counts == "published" else min(n, counts) for defect, n in per.items()
            }
            for split, per in known[category].items()
        }
        if dataset == "visa" and layout == "raw":
            rows += _visa(root, category, limits, size)
        else:
            _folders(root, dataset, category, limits, size)
    if dataset == "visa" and layout == "raw":
        (root / "LICENSE-DATASET").write_text("Stand-in. The published set: CC BY 4.0.\n")
        _splits(root / "split_csv", rows)
    return root


def pictures(
    dataset: str,
    category: str,
    split: str,
    defect: str,
    numbers: Sequence[int],
    size: tuple[int, int] | None = None,
) -> Pictures:
    """The pictures of a category with these numbers; none depends on the others."""
    canvas = Canvas([(dataset, category, split, defect, n) for n in numbers], _size(category, size))
    RECIPES[dataset][category](canvas)
    return finish(canvas, defect != "good", any(word in defect for word in THIN))


@cache
def table() -> dict:
    """The published counts of the four datasets: dataset, category, split, defect type."""
    counts = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return {dataset: counts[dataset] for dataset in ("mvtec_ad", "mpdd", "btad", "visa")}


# --- MVTec-AD, MPDD, BTAD, converted VisA --------------------------------------------------------


def _folders(root: Path, dataset: str, category: str, limits: dict, size) -> None:
    """``train/good``, ``test/<defect>`` and ``ground_truth/<defect>``, or ``ok`` and ``ko``."""
    folder = root / category
    mvtec_like = dataset in ("mvtec_ad", "mpdd")
    suffix, mask_suffix, digits = ".png", "_mask.png", 3
    if dataset == "btad":
        (suffix, mask_suffix), digits = BTAD_SUFFIXES[category], 4
    elif dataset == "visa":
        suffix, mask_suffix = ".JPG", ".png"
        normal = _visa_normal(category, limits)
    for split, defects in limits.items():
        for defect, count in defects.items():
            name = defect if mvtec_like else ("ok" if defect == "good" else "ko")
            numbers = [
                n for n in range(count + 1) if n not in GAPS.get((category, f"{split}/{name}"), ())
            ][:count]
            stems = [f"{n:0{digits}d}" for n in numbers]
            if dataset == "visa" and defect == "good":
                stems = normal[split]
            _write(
                (dataset, category, split, defect),
                [folder / split / name / f"{stem}{suffix}" for stem in stems],
                [folder / "ground_truth" / name / f"{stem}{mask_suffix}" for stem in stems],
                size,
            )
    if dataset == "mvtec_ad":
        (folder / "license.txt").write_text("Stand-in. The published set: CC BY-NC-SA 4.0.\n")
        (folder / "readme.txt").write_text(f"Stand-in for the data of MVTec-AD, {category}.\n")


# --- VisA as published ---------------------------------------------------------------------------


def _visa(root: Path, category: str, limits: dict, size) -> list[list[str]]:
    """Write images by label, masks of small integers, ``image_anno.csv``; return the 1cls split."""
    data = Path(category) / "Data"
    normal = _visa_normal(category, limits)
    rows, notes = [], []
    for split in ("train", "test"):
        paths = [data / "Images" / "Normal" / f"{stem}.JPG" for stem in normal[split]]
        _write(("visa", category, split, "good"), [root / p for p in paths], None, size)
        rows += [[category, split, "normal", path.as_posix(), ""] for path in paths]
        notes += [[path.as_posix(), "normal", ""] for path in paths]
    stems = [f"{n:03d}" for n in range(limits["test"]["bad"])]
    paths = [data / "Images" / "Anomaly" / f"{stem}.JPG" for stem in stems]
    masks = [data / "Masks" / "Anomaly" / f"{stem}.png" for stem in stems]
    ids = _write(
        ("visa", category, "test", "bad"),
        [root / p for p in paths],
        [root / m for m in masks],
        size,
    )
    for path, mask, found in zip(paths, masks, ids, strict=True):
        rows.append([category, "test", "anomaly", path.as_posix(), mask.as_posix()])
        label = ",".join(VISA_DEFECTS[n - 1] for n in found)
        notes.append([path.as_posix(), label, mask.as_posix()])
    _csv(root / category / "image_anno.csv", ["image", "label", "mask"], sorted(notes))
    return rows


def _visa_normal(category: str, limits: dict) -> dict[str, list[str]]:
    """Numbers of the normal images, assigned to both splits at random, as in the published split.

    Categories with a thousand normal images have four digits, the others three.
    """
    train, test = limits["train"]["good"], limits["test"]["good"]
    full = table()["visa"][category]
    digits = 4 if full["train"]["good"] + full["test"]["good"] >= 1000 else 3
    order = numpy_generator(0, "tree", "visa", category, "split").permutation(train + test)
    stems = [f"{n:0{digits}d}" for n in order]
    return {"train": stems[:train], "test": stems[train:]}


def _splits(folder: Path, rows: list[list[str]]) -> None:
    """Write the three published tables.

    The two-class ones also train on anomalies: they must not be mistaken for the one-class table.
    """
    head = ["object", "split", "label", "image", "mask"]
    _csv(folder / "1cls.csv", head, rows)
    for name, share in (("2cls_highshot", 0.6), ("2cls_fewshot", 0.05)):
        other = []
        for _, group in groupby(rows, key=lambda row: (row[0], row[2])):
            of_label = list(group)
            cut = max(1, round(share * len(of_label)))
            other += [
                [row[0], "train" if i < cut else "test", *row[2:]] for i, row in enumerate(of_label)
            ]
        _csv(folder / f"{name}.csv", head, other)


def _csv(path: Path, head: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as target:
        csv.writer(target, lineterminator="\n").writerows([head, *rows])


# --- pictures and files --------------------------------------------------------------------------


def _write(
    name: tuple[str, str, str, str], paths: list[Path], masks: list[Path] | None, size
) -> list[list[int]]:
    """Draw and save the images of one defect type with their masks; return the mask ids of each."""
    dataset, category, split, defect = name
    width, height = _size(category, size)
    grey, numbered = (dataset, category) in GREY, "Data" in paths[0].parts if paths else False
    step = max(1, CHUNK // (width * height))
    for folder in {path.parent for path in [*paths, *(masks or [] if defect != "good" else [])]}:
        folder.mkdir(parents=True, exist_ok=True)
    found = []
    for start in range(0, len(paths), step):
        numbers = range(start, min(start + step, len(paths)))
        made = pictures(dataset, category, split, defect, numbers, (width, height))
        for n, image, mask in zip(numbers, made.images, made.masks, strict=True):
            _save(paths[n], image[..., 1] if grey else image)
            if defect != "good":
                ids = _ids(mask, n) if numbered else mask.astype(np.uint8) * 255
                _save(masks[n], ids)
                found.append([int(i) for i in np.unique(ids) if i])
    return found


def _ids(mask: np.ndarray, number: int) -> np.ndarray:
    """A mask of small integers: one id per defect type; every fifth image has two."""
    first = 1 + number % len(VISA_DEFECTS)
    ids = mask.astype(np.uint8) * first
    if number % 5 == 4:
        columns = np.flatnonzero(mask.any(0))
        right = np.arange(mask.shape[1]) > columns.mean()
        ids[mask & right] = 1 + first % len(VISA_DEFECTS)
    return ids


def _save(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(encode(picture, path.suffix))


def _size(category: str, size: tuple[int, int] | None) -> tuple[int, int]:
    if size:
        return size
    if category in table()["visa"]:
        return 48, 32
    return (43, 32) if category == "03" else (32, 32)


def main(arguments: list[str]) -> None:
    if not arguments or not set(arguments[1:]) <= set(table()):
        raise SystemExit(f"usage: python tests/trees.py OUT [DATASET...]; of {', '.join(table())}")
    for dataset in arguments[1:] or table():
        print(make_tree(dataset, Path(arguments[0]) / dataset))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main(sys.argv[1:])
