"""The fake datasets have the published folders, file names, formats and counts."""

import csv
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from products import RECIPES
from trees import make_tree, pictures, table

from realnet.datasets.layouts import list_category

# Names that occur in the split lists of the official implementation and of VisA.
OFFICIAL = {
    "mvtec_ad": (
        *("wood/test/scratch/020.png", "wood/ground_truth/liquid/004_mask.png"),
        *("cable/test/cut_inner_insulation/013.png", "cable/test/good/057.png"),
        *("cable/ground_truth/bent_wire/012_mask.png", "hazelnut/train/good/390.png"),
        *("wood/license.txt", "wood/readme.txt"),
    ),
    "mpdd": (
        *("tubes/train/good/121.png", "metal_plate/test/total_rust/022.png"),
        *("metal_plate/ground_truth/major_rust/013_mask.png", "tubes/test/anomalous/068.png"),
        "bracket_black/ground_truth/scratches/034_mask.png",
    ),
    "btad": (
        *("01/test/ko/0049.bmp", "01/ground_truth/ko/0000.png", "01/train/ok/0399.bmp"),
        *("02/train/ok/0399.png", "02/train/ok/0088.png", "02/ground_truth/ko/0199.png"),
        *("03/test/ok/0399.bmp", "03/train/ok/0999.bmp", "03/ground_truth/ko/0040.bmp"),
    ),
    "visa": (
        *("candle/Data/Images/Normal/0836.JPG", "candle/image_anno.csv"),
        *("pipe_fryum/Data/Images/Anomaly/099.JPG", "pipe_fryum/Data/Masks/Anomaly/099.png"),
        *("pipe_fryum/Data/Images/Normal/499.JPG", "pcb1/Data/Images/Normal/1003.JPG"),
        *("split_csv/1cls.csv", "split_csv/2cls_fewshot.csv", "split_csv/2cls_highshot.csv"),
        *("capsules/Data/Images/Normal/601.JPG", "macaroni2/Data/Images/Normal/0999.JPG"),
    ),
}
ABSENT = ("01/test/ko/0027.bmp", "02/train/ok/0087.png", "candle/Data/Images/Normal/1000.JPG")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """All four datasets with their published counts and very small images."""
    root = tmp_path_factory.mktemp("full")
    return {dataset: make_tree(dataset, root / dataset, size=(12, 8)) for dataset in table()}


@pytest.mark.parametrize("dataset", list(RECIPES))
def test_counts_are_the_published_ones(full, dataset):
    for category, expected in table()[dataset].items():
        entries = list_category(full[dataset], dataset, category).entries
        found = {"train": Counter(), "test": Counter()}
        for entry in entries:
            found[entry.split][entry.defect] += 1
            assert (entry.mask_path is not None) == (entry.defect != "good")
        wanted = {split: dict(counts) for split, counts in expected.items()}
        assert {split: dict(counts) for split, counts in found.items()} == wanted, category


@pytest.mark.parametrize("dataset", list(RECIPES))
def test_names_are_the_published_ones(full, dataset):
    root = full[dataset]
    assert [name for name in OFFICIAL[dataset] if not (root / name).is_file()] == []
    assert [name for name in ABSENT if (root / name).exists()] == []


def test_no_two_images_are_equal(full):
    seen = Counter(
        sha256(path.read_bytes()).digest()
        for root in full.values()
        for path in root.rglob("*")
        if path.suffix in (".png", ".bmp", ".JPG") and not {"ground_truth", "Masks"} & {*path.parts}
    )
    assert set(seen.values()) == {1}
    assert len(seen) == sum(
        sum(counts.values()) for d in table().values() for c in d.values() for counts in c.values()
    )


def test_the_splits_of_visa_are_tables_of_existing_files(full):
    root = full["visa"]
    for name in ("1cls", "2cls_fewshot", "2cls_highshot"):
        with (root / "split_csv" / f"{name}.csv").open(newline="") as source:
            rows = list(csv.DictReader(source))
        assert list(rows[0]) == ["object", "split", "label", "image", "mask"]
        trained = {row["label"] for row in rows if row["split"] == "train"}
        assert trained == ({"normal"} if name == "1cls" else {"normal", "anomaly"})
        for row in rows[::50] + rows[-1:]:
            assert (root / row["image"]).is_file()
            assert bool(row["mask"]) == (row["label"] == "anomaly")
        # The published splits are random: the normal test images are not the last numbers.
        tested = [
            int(Path(row["image"]).stem)
            for row in rows
            if (row["object"], row["split"], row["label"]) == ("candle", "test", "normal")
        ]
        assert min(tested) < 50 and max(tested) > 950, name


def formats(folder, pattern="*"):
    found = set()
    for path in folder.rglob(pattern):
        if path.suffix in (".png", ".bmp", ".JPG"):
            with Image.open(path) as image:
                kind = "mask" if {"ground_truth", "Masks"} & {*path.parts} else "image"
                found.add((kind, path.suffix, image.format, image.mode))
    return found


def test_formats(tmp_path):
    few = {"counts": 2, "size": (24, 16)}
    mvtec = make_tree("mvtec_ad", tmp_path / "mvtec", ["bottle", "grid"], **few)
    masks = ("mask", ".png", "PNG", "L")
    assert formats(mvtec / "bottle") == {("image", ".png", "PNG", "RGB"), masks}
    assert formats(mvtec / "grid") == {("image", ".png", "PNG", "L"), masks}
    btad = make_tree("btad", tmp_path / "btad", **few)
    assert formats(btad / "01") == {("image", ".bmp", "BMP", "RGB"), masks}
    assert formats(btad / "02") == {("image", ".png", "PNG", "RGB"), masks}
    assert formats(btad / "03") == {("image", ".bmp", "BMP", "RGB"), ("mask", ".bmp", "BMP", "L")}
    for layout in ("raw", "converted"):
        visa = make_tree("visa", tmp_path / layout, ["pcb1"], layout=layout, **few)
        assert formats(visa) == {("image", ".JPG", "JPEG", "RGB"), masks}


def test_mask_values(tmp_path):
    def values(root, pattern):
        pixels = [np.asarray(Image.open(path)) for path in sorted(root.glob(pattern))]
        assert len(pixels) == 10 and all(p.shape == (32, 48) for p in pixels)
        return [set(np.unique(p).tolist()) - {0} for p in pixels]

    raw = make_tree("visa", tmp_path / "raw", ["fryum"], counts=10)
    found = values(raw, "fryum/Data/Masks/Anomaly/*.png")
    assert set.union(*found) == {1, 2, 3, 4, 5, 6} and {len(ids) for ids in found} == {1, 2}
    converted = make_tree("visa", tmp_path / "converted", ["fryum"], counts=10, layout="converted")
    assert values(converted, "fryum/ground_truth/ko/*.png") == [{255}] * 10
    # The two datasets are otherwise equal.
    for path in (converted / "fryum" / "test" / "ok").iterdir():
        there = raw / "fryum" / "Data" / "Images" / "Normal" / path.name
        assert there.read_bytes() == path.read_bytes()


def test_an_image_does_not_depend_on_the_other_images(tmp_path):
    root = make_tree("mpdd", tmp_path, ["tubes"], counts=3, size=(40, 24))
    for number in range(3):
        made = pictures("mpdd", "tubes", "test", "anomalous", [number], (40, 24))
        image = np.asarray(Image.open(root / f"tubes/test/anomalous/00{number}.png"))
        mask = np.asarray(Image.open(root / f"tubes/ground_truth/anomalous/00{number}_mask.png"))
        assert np.array_equal(image, made.images[0])
        assert np.array_equal(mask > 0, made.masks[0])


@pytest.mark.parametrize("dataset", list(RECIPES))
def test_defects_are_visible_and_exactly_where_the_mask_says(dataset):
    for category, splits in table()[dataset].items():
        for defect in splits["test"]:
            made = pictures(dataset, category, "test", defect, range(4))
            change = np.abs(made.images.astype(int) - made.clean).max(-1)
            if defect == "good":
                assert not made.masks.any() and not change.any()
                continue
            assert made.masks.any((1, 2)).all() and made.masks.mean() < 0.2
            assert (change[made.masks] >= 40).all() and not change[~made.masks].any()


def test_the_command(tmp_path):
    script = Path(__file__).resolve().parent.parent / "trees.py"

    def call(*arguments):
        command = [sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = call(tmp_path, "mpdd")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"mpdd"}
    assert len(list((tmp_path / "mpdd").rglob("*.png"))) == 888 + 176 + 2 * 282
    wrong = call(tmp_path, "cifar")
    assert wrong.returncode == 1 and "usage" in wrong.stderr
