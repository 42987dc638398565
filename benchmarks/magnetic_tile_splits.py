"""How the split tables of magnetic_tile were made.

    python benchmarks/magnetic_tile_splits.py FOLDER        the published dataset

The tables in ``realnet/datasets/splits/magnetic_tile`` are fixed;
this script prints the groups and whether the tables follow from the images (``--write`` replaces
them).

``random`` is the protocol of the literature: 80 % of the normal images train, the other 20 % and
all defective images test. ``by_tile`` has no tile on both sides. A tile was photographed under six
exposures (``exp1_num_1810`` to ``exp6_num_1965``), so

1. images whose numbers are at most ``GAP`` apart are one group, normal or defective, and
2. groups that show the same tile again are merged: their images correlate above ``SAME``, after
   removing illumination and the mean of each column (the grinding marks).

A group with a defective image is test as a whole; all other groups are training.
"""

import argparse
import csv
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from realnet.core.seeds import numpy_generator

SPLITS = Path(__file__).parents[1] / "realnet/datasets/splits/magnetic_tile"
GAP = 500  # of file numbers; at most 200 apart within the exposures of one tile
SAME = 0.9  # the pairs of groups next below it (0.86) are visibly different tiles
ASPECT = 0.15  # largest difference in log(width / height) of images that are compared
TRAIN_SHARE = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the tables")
    parser.add_argument("--panel", type=Path, help="PNG to write: one tile's exposures")
    options = parser.parse_args()
    if options.panel:
        draw_panel(options.folder, options.panel)
    paths = sorted(options.folder.glob("MT_*/Imgs/*.jpg"), key=number_of)
    numbered = number_groups([number_of(path) for path in paths])
    merged = merge_same_tiles(paths, numbered)
    print(
        f"{len(paths)} images, {numbered.max() + 1} groups of numbers, {merged.max() + 1} of tiles"
    )
    defects = [defect_of(path) for path in paths]
    for name, split in (
        ("random", random_split(defects)),
        ("by_tile", tile_split(defects, merged)),
    ):
        rows = table(options.folder, paths, defects, split, merged)
        counts = Counter((row["split"], row["defect"]) for row in rows)
        print(name, {f"{part}/{defect}": n for (part, defect), n in sorted(counts.items())})
        target = SPLITS / f"{name}.csv"
        if options.write:
            write(target, rows)
        else:
            with target.open(newline="") as source:
                same = list(csv.DictReader(source)) == rows
            print(f"{target}: {'as computed' if same else 'differs from what was computed'}")


def draw_panel(folder: Path, out: Path) -> None:
    """One tile under its six exposures, and photographed again (docs/data.md)."""
    names = ("exp1_num_13526", "exp2_num_13549", "exp3_num_13568", "exp4_num_13589")
    names = (*names, "exp5_num_13636", "exp6_num_13689", "exp5_num_5874")
    figure = Figure(figsize=(10, 1.55), facecolor="white")
    for k, name in enumerate(names):
        left = k / len(names) + (0.012 if k == len(names) - 1 else 0.004)
        axes = figure.add_axes((left, 0.16, 1 / len(names) - 0.012, 0.7))
        image = cv2.imread(str(folder / f"MT_Free/Imgs/{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        small = cv2.resize(image, (300, 200), interpolation=cv2.INTER_AREA)
        axes.imshow(small, cmap="gray", vmin=0, vmax=255, aspect="auto")
        axes.set_axis_off()
        figure.text(left, 0.04, name, fontsize=6.5, color="0.3")
    figure.text(0.004, 0.91, "One tile under six exposures", fontsize=8.5)
    figure.text(left, 0.91, "the same tile again", fontsize=8.5)
    figure.savefig(out, dpi=130)


def number_of(path: Path) -> int:
    """The running number in a file name."""
    found = re.fullmatch(r"exp\d_num_(\d+)", path.stem)
    if found is None:
        raise SystemExit(f"{path}: expected a name such as exp1_num_1810.jpg")
    return int(found[1])


def defect_of(path: Path) -> str:
    defect = path.parts[-3].removeprefix("MT_").lower()
    return "good" if defect == "free" else defect


def number_groups(numbers: list[int]) -> np.ndarray:
    """Group of each image, from sorted numbers."""
    return np.cumsum(np.diff(numbers, prepend=numbers[0]) > GAP)


def merge_same_tiles(paths: list[Path], groups: np.ndarray) -> np.ndarray:
    """Groups after merging those that have the same tile in them, numbered by first image."""
    pictures, aspects = zip(*map(fingerprint, paths), strict=True)
    similar = np.array(pictures) @ np.array(pictures).T
    aspect = np.array(aspects)
    similar[np.abs(aspect[:, None] - aspect) > ASPECT] = 0
    parent = list(range(groups.max() + 1))

    def root(group: int) -> int:
        while parent[group] != group:
            group = parent[group]
        return group

    best: dict[tuple[int, int], tuple[float, int, int]] = {}
    for i, j in zip(*np.nonzero(np.triu(similar > SAME - 0.1, 1)), strict=True):
        pair = (int(groups[i]), int(groups[j]))
        if pair[0] != pair[1] and similar[i, j] > best.get(pair, (0.0,))[0]:
            best[pair] = (float(similar[i, j]), i, j)
    for pair, (value, i, j) in sorted(best.items(), key=lambda item: -item[1][0]):
        merged = value > SAME
        print(
            f"{value:.3f} {'merged   ' if merged else 'different'} {paths[i].name} {paths[j].name}"
        )
        if merged:
            first, second = sorted((root(pair[0]), root(pair[1])))
            parent[second] = first
    order = {group: n for n, group in enumerate(dict.fromkeys(root(int(g)) for g in groups))}
    return np.array([order[root(int(g))] for g in groups])


def fingerprint(path: Path) -> tuple[np.ndarray, float]:
    """Unit vector of an image's marks, and its log aspect."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    small = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
    small = small / (cv2.GaussianBlur(small, (0, 0), 12) + 4)
    inner = cv2.GaussianBlur(small, (0, 0), 1.2)[10:-10, 10:-10]
    inner = inner - inner.mean(0, keepdims=True)
    vector = (inner - inner.mean()).ravel()
    return vector / np.linalg.norm(vector), float(np.log(image.shape[1] / image.shape[0]))


def random_split(defects: list[str]) -> list[str]:
    normal = [k for k, defect in enumerate(defects) if defect == "good"]
    drawn = numpy_generator(0, "magnetic_tile", "random").permutation(len(normal))
    train = {normal[k] for k in drawn[: int(TRAIN_SHARE * len(normal))]}
    return ["train" if k in train else "test" for k in range(len(defects))]


def tile_split(defects: list[str], groups: np.ndarray) -> list[str]:
    defective = {group for group, defect in zip(groups, defects, strict=True) if defect != "good"}
    return ["test" if group in defective else "train" for group in groups]


def table(
    folder: Path, paths: list[Path], defects: list[str], split: list[str], groups: np.ndarray
) -> list[dict[str, str]]:
    """Rows in the order of the file numbers; normal images need no mask (theirs are empty)."""
    return [
        {
            "path": (relative := path.relative_to(folder)).as_posix(),
            "split": part,
            "defect": defect,
            "mask": "" if defect == "good" else relative.with_suffix(".png").as_posix(),
            "group": str(group),
        }
        for path, defect, part, group in zip(paths, defects, split, groups, strict=True)
    ]


def write(target: Path, rows: list[dict[str, str]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
