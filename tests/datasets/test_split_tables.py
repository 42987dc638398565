"""Split tables: magnetic_tile with its two splits, one's own tables, and rules for masks."""

import csv
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from builders import prepare
from PIL import Image
from pydantic import ValidationError

from realnet.config.sections import MaskRule, OwnLayout, Prepare
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json
from realnet.datasets import layouts
from realnet.datasets.images import load_masks
from realnet.datasets.items import OPTIONAL, read_manifest
from realnet.datasets.layouts import list_categories, list_category
from realnet.datasets.manifest import EMPTY
from realnet.datasets.published_counts import published
from realnet.datasets.verify.verify_dataset import verify

SHIPPED = Path(layouts.__file__).parent / "splits/magnetic_tile"
SPLITS = ("random", "by_tile")
EMPTY_MASKS = ("exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057")
CHOICES = ("exclude", "image_only")
DEFAULT = Prepare(allow_partial=False, layouts={})


def save(path: Path, value: int, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), value).save(path)
    return path


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    """Magnetic tiles as published: file names, formats and empty masks; tiny images."""
    root = tmp_path_factory.mktemp("raw") / "magnetic_tile"
    for row in read_csv(SHIPPED / "random.csv"):
        image = root / row["path"]
        save(image, sum(image.name.encode()) % 255)
        marked = row["defect"] != "good" and image.stem not in EMPTY_MASKS
        save(image.with_suffix(".png"), 255 * marked)
    return root


# --- the shipped splits --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPLITS)
def test_a_shipped_table_lists_each_published_image_once(name):
    rows = read_csv(SHIPPED / f"{name}.csv")
    assert len({row["path"] for row in rows}) == len(rows) == 1344
    found = {split: Counter() for split in ("train", "test")}
    for row in rows:
        found[row["split"]][row["defect"]] += 1
        assert bool(row["mask"]) == (row["defect"] != "good")
    assert found == published("magnetic_tile", name)


def test_no_tile_is_on_both_sides_of_the_split_by_tile():
    sides = {}
    for row in read_csv(SHIPPED / "by_tile.csv"):
        sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    both = {}
    for row in read_csv(SHIPPED / "random.csv"):
        both.setdefault(row["group"], set()).add(row["split"])
    assert sum(len(splits) == 2 for splits in both.values()) > 50  # the leak of the random split


def test_exposures_of_a_tile_are_one_group():
    groups = {Path(row["path"]).stem: row["group"] for row in read_csv(SHIPPED / "by_tile.csv")}
    numbers = sorted((int(name.rpartition("_")[2]), name) for name in groups)
    for (low, first), (high, second) in itertools.pairwise(numbers):
        assert high - low > 500 or groups[first] == groups[second]
    # Photographed twice, with numbers far apart.
    assert groups["exp5_num_5874"] == groups["exp6_num_13689"]


def test_the_splits_are_categories(tiles):
    assert list_categories(tiles, "magnetic_tile") == sorted(SPLITS)
    for name in SPLITS:
        listing = list_category(tiles, "magnetic_tile", name)
        assert len(listing.entries) == 1344 and listing.has_masks
    with pytest.raises(UserError, match=r"no category 'by_day'.*known: by_tile, random"):
        list_category(tiles, "magnetic_tile", "by_day")
    with pytest.raises(UserError, match=r"no such folder.*realnet data fetch magnetic_tile"):
        list_category(tiles.parent / "absent", "magnetic_tile", "random")


def test_images_with_an_empty_mask_are_excluded_and_named(tiles, tmp_path, capsys):
    summary = prepare("magnetic_tile", "random", tiles, tmp_path, DEFAULT)
    assert summary["counts"]["test"]["uneven"] == 103 - len(EMPTY_MASKS)
    assert {Path(one["path"]).stem for one in summary["excluded"]} == set(EMPTY_MASKS)
    assert {one["reason"] for one in summary["excluded"]} == {EMPTY}
    assert summary["differs_from_published"] == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"realnet data prepare: magnetic_tile/random: 4 images excluded ({EMPTY}): exp"
    )
    assert len(read_manifest(tmp_path / "manifest.csv")) == 1340
    strict = Prepare(allow_partial=False, layouts={}, masks={"magnetic_tile": MaskRule()})
    with pytest.raises(UserError, match=r"empty mask.*prepare\.masks"):
        prepare("magnetic_tile", "random", tiles, tmp_path / "strict", strict)


def test_verify_accepts_the_published_dataset(tiles, tmp_path):
    (checked,) = verify([("magnetic_tile", "by_tile")], tiles.parent, tmp_path, DEFAULT)
    kinds = Counter(problem.kind for problem in checked.problems)
    assert kinds["excluded"] == len(EMPTY_MASKS)
    assert not [p for p in checked.problems if p.severity == "error" and "leak" not in p.kind]


# --- one's own table -----------------------------------------------------------------------------

HEADER = ("path", "split", "defect", "mask")
ROWS = (
    ("a/1.png", "train", "good", ""),
    ("a/2.png", "train", "good", ""),
    ("a/3.png", "test", "good", ""),
    ("b/4.png", "test", "crack", "masks/4.png"),
    ("b/5.png", "test", "dent", "masks/5.png"),
)


def write_table(path: Path, rows=ROWS, header=HEADER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])


@pytest.fixture
def own(tmp_path) -> Path:
    root = tmp_path / "own"
    for n, (path, _, _, mask) in enumerate(ROWS):
        save(root / path, 40 * n)
        if mask:
            save(root / mask, 255)
    write_table(root / "splits/first.csv")
    write_table(
        root / "splits/second.csv",
        [("a/3.png", "train", "good", ""), ("a/1.png", "test", "good", ""), *ROWS[3:]],
    )
    return root


def by_table(table: str = "splits/{category}.csv", **others) -> Prepare:
    return Prepare(allow_partial=False, layouts={"own": OwnLayout(table=table)}, **others)


def test_each_table_of_an_own_dataset_is_a_category(own, tmp_path):
    settings = by_table()
    assert list_categories(own, "own", settings.layouts) == ["first", "second"]
    summary = prepare("own", "first", own, tmp_path / "out", settings)
    assert summary["counts"] == {"train": {"good": 2}, "test": {"crack": 1, "dent": 1, "good": 1}}
    trained = [
        e.path.name
        for e in list_category(own, "own", "second", settings).entries
        if e.split == "train"
    ]
    assert trained == ["3.png"]


def test_a_single_table_is_a_single_category(own):
    settings = by_table("splits/first.csv")
    assert list_categories(own, "own", settings.layouts) == ["own"]
    assert len(list_category(own, "own", "own", settings).entries) == len(ROWS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((*ROWS, ROWS[0]), r"a/1\.png: listed twice, as train/good and as train/good"),
        (
            (*ROWS, ("a/1.png", "test", "crack", "")),
            "listed twice, as train/good and as test/crack",
        ),
        ((*ROWS, ("b/6.png", "train", "dent", "")), r"b/6\.png is dent and in train; only normal"),
        ((*ROWS, ("b/6.png", "val", "good", "")), "line 7: split 'val' is not train or test"),
        ((*ROWS, ("b/6.png", "test", "", "")), "line 7: no defect type"),
        ((*ROWS, ("/b/6.png", "test", "good", "")), "line 7: image and mask must be paths below"),
        (ROWS[:3], "first has no anomalous test images"),
    ],
)
def test_errors_of_a_table_name_the_line_or_image(own, rows, message):
    write_table(own / "splits/first.csv", rows)
    with pytest.raises(UserError, match=message):
        list_category(own, "own", "first", by_table())


def test_a_table_without_a_column_or_that_does_not_exist_is_named(own):
    write_table(own / "splits/first.csv", [("x",)], ("path",))
    with pytest.raises(UserError, match="no column mask; found path, expected path, mask, split"):
        list_category(own, "own", "first", by_table())
    with pytest.raises(UserError, match=r"expected absent\.csv with its rows"):
        list_category(own, "own", "own", by_table("absent.csv"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"table": "a.csv", "train": "*.png"}, "table: already says"),
        ({"table": "a.csv", "mask": "{stem}.png"}, "table: already says"),
        ({"train": "*.png", "test_good": "x/*"}, "test_defective: missing"),
        ({"table": "../a.csv"}, "table: must stay below"),
        ({"table": "{defect}.csv"}, "table: unknown field {defect}"),
    ],
)
def test_a_layout_is_a_table_or_patterns(keys, message):
    with pytest.raises(ValidationError, match=message):
        OwnLayout(**keys)


# --- rules for masks and images ------------------------------------------------------------------


def test_the_mask_threshold_reaches_the_evaluation(own, tmp_path):
    grey = np.full((8, 8), 0, np.uint8)
    grey[:2], grey[2:4] = 255, 60  # anti-aliased
    Image.fromarray(grey).save(own / "masks/4.png")
    settings = by_table(masks={"own": MaskRule(threshold=127)})
    prepare("own", "first", own, tmp_path / "out", settings)
    prepare("own", "first", own, tmp_path / "default", by_table())
    shares = {}
    for name in ("out", "default"):
        items = read_manifest(tmp_path / name / "manifest.csv")
        (item,) = [one for one in items if one.defect == "crack"]
        shares[name] = load_masks([item], 8).float().mean().item()
    assert shares == {"out": 0.25, "default": 0.5}
    # Without a rule a manifest is as it was, so nothing is retrained.
    assert not OPTIONAL.keys() & read_csv(tmp_path / "default/manifest.csv")[0].keys()
    assert read_json(tmp_path / "out/summary.json")["mask_threshold"] == 127


def test_an_excluded_image_is_not_read_and_is_named(own, tmp_path, capsys):
    (own / "a/2.png").write_bytes(b"corrupt")
    settings = by_table(exclude={"own": {"a/2.png": "out of focus"}})
    summary = prepare("own", "first", own, tmp_path, settings)
    assert summary["counts"]["train"] == {"good": 1}
    assert summary["excluded"] == [{"path": str(own / "a/2.png"), "reason": "out of focus"}]
    assert "own/first: 1 image excluded (out of focus): 2.png" in capsys.readouterr().err
    wrong = by_table(exclude={"own": {"a/9.png": "?"}})
    with pytest.raises(UserError, match=r"prepare\.exclude\.own: .*a/9\.png: no such image"):
        list_category(own, "own", "first", wrong)


@pytest.fixture
def partly(own) -> Path:
    """The mask of own/b/5.png marks nothing."""
    save(own / "masks/5.png", 0)
    return own


def test_an_image_with_an_empty_mask_may_stay_for_image_metrics(partly, tmp_path, capsys):
    settings = by_table(masks={"own": MaskRule(empty="image_only")})
    summary = prepare("own", "first", partly, tmp_path / "data", settings)
    assert summary["counts"]["test"] == {"crack": 1, "dent": 1, "good": 1}
    assert summary["image_only"] == [{"path": str(partly / "b/5.png"), "reason": EMPTY}]
    line = f"own/first: 1 image in image metrics only ({EMPTY}): 5.png"
    assert line in capsys.readouterr().err
    items = {item.path.name: item for item in read_manifest(tmp_path / "data/manifest.csv")}
    assert [name for name, item in items.items() if not item.pixel_labelled] == ["5.png"]
    assert items["5.png"].mask_path == partly / "masks/5.png" and items["5.png"].mask_sha256


def test_verify_compares_the_use_of_images_with_the_manifest(partly, tmp_path):
    kinds = {}
    rules = {choice: by_table(masks={"own": MaskRule(empty=choice)}) for choice in CHOICES}
    for made in CHOICES:
        prepare("own", "first", partly, tmp_path / made / "own/first", rules[made])
        for now in CHOICES:
            (checked,) = verify([("own", "first")], partly.parent, tmp_path / made, rules[now])
            found = [p.kind for p in checked.problems if p.path == partly / "b/5.png"]
            kinds[made, now] = sorted(found)
    assert kinds == {
        ("exclude", "exclude"): ["excluded"],
        ("exclude", "image_only"): ["image-only", "manifest-unlisted"],
        ("image_only", "exclude"): ["excluded", "manifest-differs"],
        ("image_only", "image_only"): ["image-only"],
    }


def test_a_manifest_with_an_unknown_label_of_pixels_is_refused(partly, tmp_path):
    settings = by_table(masks={"own": MaskRule(empty="image_only")})
    prepare("own", "first", partly, tmp_path / "data", settings)
    path = tmp_path / "data/manifest.csv"
    path.write_text(path.read_text().replace(",0\n", ",no\n"))
    with pytest.raises(UserError, match=r"line 6: pixel_labelled 'no' is not 0 or 1"):
        read_manifest(path)
