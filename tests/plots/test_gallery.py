"""The figure of the foreground rules."""

from pathlib import Path

import numpy as np
import pytest
from builders import prepare
from PIL import Image
from trees import make_tree
from typer.testing import CliRunner

from realnet.cli import app
from realnet.config.sections import Prepare
from realnet.core.errors import UserError
from realnet.plots.foreground_rules import draw, example, keep, run
from realnet.synthesis.foreground import foreground

PARAMS = '{"prepare": {"allow_partial": true, "layouts": {}}}'


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Some categories of three datasets, and an own one."""
    root = tmp_path_factory.mktemp("raw")
    few = {"counts": 2, "size": (72, 64)}
    make_tree("mvtec_ad", root / "mvtec_ad", ["bottle", "carpet"], **few)
    make_tree("mpdd", root / "mpdd", ["connector"], **few)
    make_tree("visa", root / "visa", ["pcb1"], **few)
    make_tree("mpdd", root / "bolts", ["tubes"], **few)
    return root


def words(figure):
    return [text.get_text() for text in figure.texts]


def test_every_category_with_its_rule_in_words(raw, tmp_path):
    targets = [
        *[("mvtec_ad", "bottle"), ("mvtec_ad", "carpet"), ("mpdd", "connector")],
        *[("visa", "pcb1"), ("bolts", "tubes")],
    ]
    figure = draw([example(*target, raw, tmp_path, {}) for target in targets])
    assert len(figure.axes) == 2 * len(targets)
    texts = words(figure)
    for _, category in targets:
        assert category in texts
    assert {"MVTec-AD", "MPDD", "VisA", "bolts", "100 %"} <= set(texts)
    assert {
        "Otsu, dark side\nclose 6, open 6", "whole image", "Otsu, dark side, G channel\nclose 6",
        "Triangle, bright side, B channel\nclose 8, open 3",
        "automatic:\nunlike the background at the border",
    } <= set(texts)  # fmt: skip


def test_an_example_is_the_first_training_image_under_its_rule(raw, tmp_path):
    shown = example("mvtec_ad", "bottle", raw, tmp_path, {})
    with Image.open(raw / "mvtec_ad/bottle/train/good/000.png") as first:
        resized = np.asarray(first.resize((256, 256), Image.Resampling.BILINEAR))
    assert np.array_equal(shown.image, resized)
    assert np.array_equal(shown.mask, foreground(shown.image, shown.rule))
    kept = keep(shown.image, shown.mask)
    assert np.array_equal(kept[shown.mask], shown.image[shown.mask])
    assert kept[~shown.mask].min() > 180 and np.ptp(kept[~shown.mask], axis=-1).max() == 0


def test_manifests_take_precedence_over_folders(raw, tmp_path):
    out = tmp_path / "data" / "mvtec_ad" / "bottle"
    prepare("mvtec_ad", "bottle", raw / "mvtec_ad", out, Prepare(allow_partial=True, layouts={}))
    rows = (out / "manifest.csv").read_text().splitlines()
    kept = [row for row in rows if "train/good/000.png" not in row]
    (out / "manifest.csv").write_text("\n".join(kept) + "\n")
    found = example("mvtec_ad", "bottle", Path("nowhere"), tmp_path / "data", {})
    other = example("mvtec_ad", "bottle", raw, tmp_path, {})
    assert not np.array_equal(found.image, other.image)


def test_the_command_draws_all_datasets_reproducibly(raw, tmp_path):
    call = ["data", "foregrounds", "--root", raw, "--manifests", tmp_path, "--params", PARAMS]
    pictures = []
    for name in ("a.png", "b.png"):
        done = CliRunner().invoke(app, [*map(str, call), "--out", str(tmp_path / name)])
        assert done.exit_code == 0 and done.stdout.startswith("5 categories"), done.output
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    one = [*call, "--out", tmp_path / "c.png", "--dataset", "visa/pcb1", "--dataset", "mpdd"]
    done = CliRunner().invoke(app, [*map(str, one)])
    assert done.stdout.startswith("2 categories")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.height < Image.open(tmp_path / "a.png").height


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["btad"], "btad"),
        (["mvtec_ad/nut"], r"no category 'nut'.*bottle, carpet"),
        (["nowhere/x"], "nowhere"),
    ],
)
def test_missing_categories_are_named(raw, tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        run(names, raw, tmp_path, tmp_path / "f.png", PARAMS)
    assert not (tmp_path / "f.png").exists()


def test_no_dataset_at_all(tmp_path):
    with pytest.raises(UserError, match="realnet data demo"):
        run((), tmp_path / "raw", tmp_path / "data", tmp_path / "f.png", PARAMS)
