"""Layouts and manifests: the listed images, and the errors of invalid datasets."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import prepare as prepare_with
from PIL import Image
from typer.testing import CliRunner

from realnet.config.sections import Prepare
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256
from realnet.datasets.categories import DEMO_CATEGORIES, KNOWN_CATEGORIES
from realnet.datasets.items import FIELDS, Item, read_manifest
from realnet.datasets.layouts import list_categories
from realnet.datasets.published_counts import differences, published

DEFAULT = Prepare(allow_partial=False, layouts={})


def prepare(dataset, category, root, out, settings=DEFAULT):
    return prepare_with(dataset, category, root, out, settings)


def picture(path: Path, value: int, size: tuple[int, int] = (12, 10)) -> Path:
    """A constant image of ``size`` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (12, 10), *, empty: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    if not empty:
        pixels[2:4, 3:5] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """A dataset of one category ``bolt`` in MVTec-AD layout: 3 + 2 normal, 2 + 1 anomalous."""
    bolt = tmp_path / "raw" / "bolt"
    for index in range(3):
        picture(bolt / f"train/good/{index:03d}.png", index)
    for index in range(2):
        picture(bolt / f"test/good/{index:03d}.png", 10 + index)
    for defect, count in (("hole", 2), ("bent", 1)):
        for index in range(count):
            picture(bolt / f"test/{defect}/{index:03d}.png", 20 + index)
            mask(bolt / f"ground_truth/{defect}/{index:03d}_mask.png")
    return tmp_path / "raw"


def refused(root: Path, *parts: object, dataset: str = "own", category: str = "bolt") -> None:
    """``prepare`` fails with one line that contains these parts, and writes nothing."""
    out = root.parent / "out"
    with pytest.raises(UserError) as error:
        prepare(dataset, category, root, out)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    assert not out.exists()


def test_manifest_lists_every_image_sorted(root, tmp_path):
    summary = prepare("own", "bolt", root, tmp_path / "out")
    items = read_manifest(tmp_path / "out" / "manifest.csv")
    assert [i.path.as_posix() for i in items] == sorted(i.path.as_posix() for i in items)
    assert len(items) == 8
    hole = root / "bolt/test/hole/001.png"
    truth = root / "bolt/ground_truth/hole/001_mask.png"
    expected = Item(hole, "test", 1, "hole", truth, 12, 10, sha256(hole), sha256(truth))
    assert expected in items
    good = next(i for i in items if i.split == "train")
    assert (good.label, good.defect, good.mask_path, good.mask_sha256) == (0, "good", None, "")
    assert summary == read_json(tmp_path / "out" / "summary.json")
    assert summary["counts"]["test"] == {"bent": 1, "good": 2, "hole": 2}
    assert (summary["train"], summary["test_good"], summary["test_defective"]) == (3, 2, 3)
    assert tuple(read_csv(tmp_path / "out" / "manifest.csv")[0]) == FIELDS


def test_the_same_files_give_the_same_manifest(root, tmp_path):
    prepare("own", "bolt", root, tmp_path / "a")
    prepare("own", "bolt", root, tmp_path / "b")
    for name in ("manifest.csv", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_paths_are_relative_to_the_working_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare("own", "bolt", "raw", "out")
    paths = [i.path.as_posix() for i in read_manifest("out/manifest.csv")]
    assert paths[-1] == "raw/bolt/train/good/002.png"


def test_ok_and_ko_folders_with_masks_named_like_the_images(tmp_path):
    folder = tmp_path / "raw" / "01"
    picture(folder / "train/ok/0.bmp", 1)
    picture(folder / "test/ok/1.bmp", 2)
    picture(folder / "test/ko/2.bmp", 3)
    mask(folder / "ground_truth/ko/2.png")
    prepare("own", "01", tmp_path / "raw", tmp_path / "out")
    items = {i.path.name: i for i in read_manifest(tmp_path / "out" / "manifest.csv")}
    assert items["0.bmp"].defect == items["1.bmp"].defect == "good"
    assert items["2.bmp"].mask_path == folder / "ground_truth/ko/2.png"


def test_other_files_are_ignored(root, tmp_path):
    (root / "bolt/train/good/Thumbs.db").write_bytes(b"x")
    (root / "bolt/test/hole/.DS_Store").write_bytes(b"x")
    (root / "bolt/license.txt").write_text("x")
    assert prepare("own", "bolt", root, tmp_path / "out")["train"] == 3


def test_test_images_equal_to_training_images_are_counted(root, tmp_path):
    picture(root / "bolt/test/good/009.png", 0)  # the same bytes as train/good/000.png
    assert prepare("own", "bolt", root, tmp_path / "out")["test_images_also_in_train"] == 1


def test_a_missing_root_is_an_error(root):
    refused(root / "nowhere", root / "nowhere", "bottle", dataset="mvtec_ad", category="bottle")


def test_a_missing_category_is_an_error(root):
    refused(root, "'nut'", "known: bolt", category="nut")


def test_an_unknown_layout_is_an_error(root):
    (root / "screw" / "images").mkdir(parents=True)
    refused(root, root / "screw", "found images/", "screw/train/good/", "bolt", category="screw")


def test_a_missing_folder_of_normal_images_is_an_error(root):
    (root / "bolt/train/good").rename(root / "bolt/train/fine")
    refused(root, root / "bolt", "no training images", "train/fine/", "bolt/train/good/")


def test_two_folders_of_normal_images_are_an_error(root):
    picture(root / "bolt/train/ok/000.png", 1)
    refused(root, "bolt/train/good/", "bolt/train/ok/")


@pytest.mark.parametrize(
    ("folder", "message"), [("train/good", "no training images"), ("test/good", "no normal test")]
)
def test_a_folder_without_images_is_an_error(root, folder, message):
    for path in (root / "bolt" / folder).iterdir():
        path.unlink()
    refused(root, root / "bolt", message, f"bolt/{folder}/")


def test_no_defects_is_an_error(root):
    (root / "bolt/test/hole").rename(root / "hole")
    (root / "bolt/test/bent").rename(root / "bent")
    refused(root, root / "bolt", "no anomalous test images", "bolt/test/<defect>/")


def test_an_anomalous_image_without_mask_is_an_error(root):
    (root / "bolt/ground_truth/hole/001_mask.png").unlink()
    refused(root, root / "bolt/test/hole/001.png", "ground_truth/hole/001_mask.")


def test_an_empty_mask_is_an_error(root):
    path = mask(root / "bolt/ground_truth/hole/001_mask.png", empty=True)
    refused(root, path, "empty mask")


def test_a_mask_of_another_size_is_an_error(root):
    path = mask(root / "bolt/ground_truth/hole/001_mask.png", (10, 12))
    refused(root, path, "10x12", "12x10")


def test_a_corrupt_image_is_an_error(root):
    path = root / "bolt/test/good/001.png"
    path.write_bytes(path.read_bytes()[:40])
    refused(root, path, "copy it again")


def test_an_empty_image_file_is_an_error(root):
    path = root / "bolt/train/good/001.png"
    path.write_bytes(b"")
    refused(root, path, "0 bytes")


def test_manifest_with_other_columns(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,split\na.png,train\n")
    with pytest.raises(UserError, match="no column label, defect"):
        read_manifest(tmp_path / "manifest.csv")


def test_manifest_with_a_bad_number(root, tmp_path):
    prepare("own", "bolt", root, tmp_path / "out")
    path = tmp_path / "out" / "manifest.csv"
    path.write_text(path.read_text().replace(",12,10,", ",twelve,10,", 1))
    with pytest.raises(UserError, match=r"manifest.csv, line 2: .*twelve"):
        read_manifest(path)


def test_manifest_without_rows(tmp_path):
    (tmp_path / "manifest.csv").write_text(",".join(FIELDS) + "\n")
    with pytest.raises(UserError, match="no rows"):
        read_manifest(tmp_path / "manifest.csv")


def test_known_categories_need_no_data(root):
    assert list_categories(root, "own") == ["bolt"]
    assert list_categories(root / "nowhere", "own") == []
    assert list(DEMO_CATEGORIES) == sorted(DEMO_CATEGORIES)
    published = [KNOWN_CATEGORIES[name] for name in ("mvtec_ad", "mpdd", "btad", "visa")]
    assert [len(names) for names in published] == [15, 6, 3, 12]
    assert all(list(names) == sorted(names) for names in published)


def test_prepare_by_command(root, tmp_path):
    from realnet.cli import app

    arguments = ["data", "prepare", "--dataset", "own", "--category", "bolt"]
    arguments += ["--root", str(root), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 8


# --- without masks, with other counts ------------------------------------------------------------


def test_own_data_need_no_masks(root, tmp_path):
    shutil.rmtree(root / "bolt/ground_truth")
    assert prepare("own", "bolt", root, tmp_path / "out")["masks"] is False
    items = read_manifest(tmp_path / "out" / "manifest.csv")
    assert sum(item.label for item in items) == 3
    assert all(item.mask_path is None and item.mask_sha256 == "" for item in items)


def test_published_data_need_their_masks(root):
    shutil.rmtree(root / "bolt/ground_truth")
    (root / "bolt").rename(root / "screw")
    settings = Prepare(allow_partial=True, layouts={})
    with pytest.raises(UserError, match=r"bent/000.png: no mask for this image"):
        prepare("mvtec_ad", "screw", root, root.parent / "out", settings)


def test_other_counts_than_published_are_listed(root, tmp_path):
    (root / "bolt").rename(root / "toothbrush")
    refused(
        root, "toothbrush", "train/good 3 instead of 60", "test/good 2 instead of 12",
        "test/bent 1 instead of 0", "test/defective 0 instead of 30", "allow_partial",
        dataset="mvtec_ad", category="toothbrush",
    )  # fmt: skip
    settings = Prepare(allow_partial=True, layouts={})
    summary = prepare("mvtec_ad", "toothbrush", root, tmp_path / "out", settings)
    assert "train/good 3 instead of 60" in summary["differs_from_published"]


def test_a_single_defect_type_may_have_another_name():
    expected = {"train": {"good": 2}, "test": {"good": 1, "bad": 3}}
    assert differences({"train": {"good": 2}, "test": {"good": 1, "ko": 3}}, expected) == []
    found = {"train": {"good": 2}, "test": {"good": 1, "ko": 2}}
    assert differences(found, expected) == ["test/bad 2 instead of 3"]
    found = {"train": {"good": 2}, "test": {"good": 1, "ko": 2, "nok": 1}}
    assert len(differences(found, expected)) == 3


def test_every_known_category_has_published_counts():
    for dataset in ("mvtec_ad", "mpdd", "btad", "visa"):
        for category in KNOWN_CATEGORIES[dataset]:
            counts = published(dataset, category)
            assert counts["train"]["good"] > 0 and counts["test"]["good"] > 0
    assert published("own", "bolt") is None
