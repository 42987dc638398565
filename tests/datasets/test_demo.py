"""The demo dataset: reproducible files, and masks that equal the changed pixels."""

import hashlib
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from builders import prepare
from PIL import Image

from realnet.config.params import PROJECT, load
from realnet.config.sections import DemoData, Prepare
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.datasets import demo
from realnet.datasets.categories import DEMO_CATEGORIES
from realnet.datasets.demo import demo_dataset as dataset
from realnet.datasets.images import read_image, read_mask
from realnet.datasets.layouts import list_categories

DEFECT_TYPES = [
    (category, defect) for category in DEMO_CATEGORIES for defect in demo.defect_types(category)
]
SETTINGS = DemoData(seed=3, image_size=128, train=2, test_good=1, test_defective=11)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("raw") / "demo"
    dataset.make_demo(SETTINGS, out)
    return out


def test_the_same_parameters_give_the_same_bytes(rendered, tmp_path):
    dataset.make_demo(SETTINGS, tmp_path / "again")
    assert digests(rendered) == digests(tmp_path / "again")


def test_an_image_does_not_depend_on_the_others(rendered, tmp_path):
    more = SETTINGS.model_copy(update={"train": 3, "test_defective": 10})
    dataset.make_demo(more, tmp_path / "more")
    before, after = digests(rendered), digests(tmp_path / "more")
    shared = {name for name in before if name.endswith(".png") and "/" in name} & set(after)
    assert len(shared) == 3 * (2 + 1 + 10 + 10)
    assert all(before[name] == after[name] for name in shared)


def test_another_seed_gives_other_images():
    for category in DEMO_CATEGORIES:
        one, two = (demo.render(category, "train/good", 0, seed=s, size=128) for s in (0, 1))
        assert (one.image != two.image).mean() > 0.5


def test_no_two_images_of_a_set_are_equal(rendered):
    images = [d for name, d in digests(rendered).items() if "/train/" in name or "/test/" in name]
    assert len(images) == len(set(images)) == 3 * 14


def test_counts_sizes_and_layout(rendered, tmp_path):
    assert list_categories(rendered, "demo") == list(DEMO_CATEGORIES)
    record = read_json(rendered / "dataset.json")
    assert (record["name"], record["seed"], record["image_size"]) == ("demo", 3, 128)
    for category in DEMO_CATEGORIES:
        summary = prepare(
            "demo",
            category,
            rendered,
            tmp_path / category,
            Prepare(allow_partial=False, layouts={}),
        )
        assert (summary["train"], summary["test_good"], summary["test_defective"]) == (2, 1, 11)
        assert summary["sizes"] == ["128x128"]
        assert summary["test_images_also_in_train"] == 0
        counts = {k: n for k, n in summary["counts"]["test"].items() if k != "good"}
        assert counts == record["categories"][category]["test_defective"]
        assert sorted(counts.values()) == [1] * 9 + [2]
    assert read_image(rendered / "contact_sheet.png").shape[1] > 10 * 128


@pytest.mark.parametrize(("preset", "each", "good"), [("demo", 10, 50), ("published", 20, 100)])
def test_presets_have_as_many_images_of_each_defect_type(preset, each, good):
    settings = load(overrides={"preset": preset}).data.demo
    for category in DEMO_CATEGORIES:
        counts = dataset.describe(settings)["categories"][category]["test_defective"]
        assert list(counts.values()) == [each] * 10
        folders = Counter(folder for folder, _, _ in dataset.plan(category, settings))
        assert (folders["train/good"], folders["test/good"]) == (80, good)


def test_a_smaller_test_set_is_part_of_a_larger_one():
    for category in DEMO_CATEGORIES:
        few, many = (
            set(dataset.plan(category, SETTINGS.model_copy(update={"test_defective": n})))
            for n in (13, 200)
        )
        assert few < many


def test_every_category_has_a_hard_defect_of_each_difficulty():
    """Hard types: weak contrast, a few pixels, and two of structure."""
    for category in DEMO_CATEGORIES:
        defects = demo.defects(category)
        hard = [defect for defect in defects.values() if defect.difficulty == "hard"]
        assert (len(defects), len(hard)) == (10, 4)
        assert sum(defect.visible < 0.01 for defect in hard) == 1
        assert sum(defect.largest < 0.001 for defect in hard) == 1


@pytest.mark.parametrize(("category", "defect"), DEFECT_TYPES)
def test_images_differ_only_inside_the_mask(category, defect):
    """Outside the mask the image equals the defect-free one, including its noise."""
    split = f"test/{defect}"
    good = demo.render(category, split, 0, seed=5, size=128).image
    bad = demo.render(category, split, 0, seed=5, size=128, defect=defect)
    changed = (good != bad.image).any(axis=-1)
    assert not (changed & ~bad.mask).any()
    assert (changed & bad.mask).sum() > 0.8 * bad.mask.sum()  # the rest: closed pinholes
    step = np.abs(good.astype(int) - bad.image.astype(int)).max(axis=-1)[bad.mask] / 255
    clear = demo.defects(category)[defect].clear
    assert np.quantile(step, 0.75) >= clear - 0.01  # rounding to 8 bits


@pytest.mark.parametrize(("category", "defect"), DEFECT_TYPES)
def test_masks_have_the_size_of_their_defect_type(category, defect):
    limits = demo.defects(category)[defect]
    for index in range(2):
        sample = demo.render(category, f"test/{defect}", index, seed=8, size=128, defect=defect)
        assert limits.smallest <= sample.mask.mean() <= limits.largest


@pytest.mark.parametrize(("category", "defect"), DEFECT_TYPES)
def test_masks_survive_half_the_image_size(category, defect):
    """64 pixels, nearest neighbour, as the stages read masks."""
    for index in range(2):
        mask = demo.render(category, f"test/{defect}", index, seed=8, size=128, defect=defect).mask
        assert np.asarray(Image.fromarray(mask).resize((64, 64), Image.Resampling.NEAREST)).any()


def test_normal_images_have_an_empty_mask_and_little_noise():
    for category in DEMO_CATEGORIES:
        sample = demo.render(category, "train/good", 0, seed=0, size=128)
        assert sample.image.dtype == np.uint8
        assert not sample.mask.any()
        assert 20 < sample.image.mean() < 200
        assert (sample.image == 255).mean() < 0.01  # no overexposed areas


def test_a_larger_image_shows_the_same_scene():
    small = demo.render("circuit_board", "test/burn", 1, seed=0, size=128, defect="burn")
    large = demo.render("circuit_board", "test/burn", 1, seed=0, size=256, defect="burn")
    shrunk = np.asarray(
        Image.fromarray(large.image).resize((128, 128), Image.Resampling.BOX), np.float32
    )
    assert np.abs(shrunk - small.image).mean() < 6
    assert abs(large.mask.mean() - small.mask.mean()) < 0.2 * small.mask.mean()


def test_masks_are_binary(rendered):
    paths = sorted(rendered.glob("*/ground_truth/*/*_mask.png"))
    assert len(paths) == 33
    for path in paths:
        assert set(np.unique(np.asarray(Image.open(path)))) == {0, 255}
        assert read_mask(path).any()


def test_an_existing_dataset_is_replaced_completely(tmp_path):
    out = tmp_path / "demo"
    tiny = SETTINGS.model_copy(update={"test_defective": 1})
    dataset.make_demo(tiny, out)
    fresh = digests(out)
    (out / "dataset.json").unlink()  # as Snakemake does before it reruns a job
    (out / "hex_nut/train/good/099.png").write_bytes(b"left over")
    dataset.make_demo(tiny, out)
    assert digests(out) == fresh
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_an_interrupted_run_leaves_no_files(tmp_path):
    command = [sys.executable, "-m", "realnet", "data", "demo", "--out", str(tmp_path / "demo")]
    run = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 60
        while not list(tmp_path.glob(".demo-*/*/train/good/005.png")):
            assert run.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) != 0
    finally:
        run.kill()
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(UserError, match=r"holds thesis.txt.*not replaced"):
        dataset.make_demo(SETTINGS, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_unknown_names_are_user_errors():
    with pytest.raises(UserError, match="no demo category 'bolt'; known: circuit_board"):
        demo.render("bolt", "train/good", 0, seed=0, size=128)
    with pytest.raises(UserError, match="no defect 'burn'; known: chip"):
        demo.render("hex_nut", "test/burn", 0, seed=0, size=128, defect="burn")
