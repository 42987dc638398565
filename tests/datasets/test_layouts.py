"""Layouts: VisA as published, own data by glob patterns, and the errors of wrong layouts."""

from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from realnet.config.sections import OwnLayout, Prepare
from realnet.core.errors import UserError
from realnet.datasets.layouts import list_categories, list_category


def touch(path: Path) -> Path:
    """An image that differs from the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), sum(path.as_posix().encode()) % 255).save(path)
    return path


def kinds(entries) -> set[tuple[str, str, str]]:
    return {(entry.path.name, entry.split, entry.defect) for entry in entries}


HEADER = "object,split,label,image,mask\n"


@pytest.fixture
def visa(tmp_path) -> Path:
    """VisA as published, one category of 2 + 1 normal and 1 anomalous images."""
    root = tmp_path / "visa"
    rows = []
    for index, split in enumerate(("train", "train", "test")):
        path = touch(root / f"candle/Data/Images/Normal/{index:04d}.JPG")
        rows.append(f"candle,{split},normal,{path.relative_to(root).as_posix()},")
    image = touch(root / "candle/Data/Images/Anomaly/000.JPG").relative_to(root).as_posix()
    mask = touch(root / "candle/Data/Masks/Anomaly/000.png").relative_to(root).as_posix()
    rows.append(f"candle,test,anomaly,{image},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return root


def test_visa_is_split_by_its_csv(visa):
    listing = list_category(visa, "visa", "candle")
    assert listing.layout.name == "visa" and listing.has_masks
    assert kinds(listing.entries) == {
        ("0000.JPG", "train", "good"),
        ("0001.JPG", "train", "good"),
        ("0002.JPG", "test", "good"),
        ("000.JPG", "test", "bad"),
    }
    bad = next(entry for entry in listing.entries if entry.label)
    assert bad.mask_path == visa / "candle/Data/Masks/Anomaly/000.png"
    assert list_categories(visa, "visa") == ["candle"]


def test_unused_masks_are_listed(visa):
    extra = touch(visa / "candle/Data/Masks/Anomaly/007.png")
    assert list_category(visa, "visa", "candle").unused_masks == (extra,)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,valid,normal,candle/a.JPG,", "line 2: split 'valid'"),
        ("candle,train,normal,/etc/passwd,", "line 2: image and mask must be paths below"),
        ("candle,train,normal,../x.JPG,", "line 2: image and mask must be paths below"),
        ("candle,train,normal,candle/a.JPG,", "candle has no normal test images"),
    ],
)
def test_errors_in_a_split_table_are_named(visa, row, message):
    (visa / "split_csv/1cls.csv").write_text(HEADER + row + "\n")
    with pytest.raises(UserError, match=message):
        list_category(visa, "visa", "candle")


def test_a_split_table_with_other_columns_is_refused(visa):
    (visa / "split_csv/1cls.csv").write_text("object,set\n")
    with pytest.raises(UserError, match="no column split; found object, set"):
        list_category(visa, "visa", "candle")


# --- own data ------------------------------------------------------------------------------------


def own(**patterns) -> dict[str, OwnLayout]:
    usual = {
        "train": "{category}/normal/*.png",
        "test_good": "{category}/check/fine/*.png",
        "test_defective": "{category}/check/broken/{defect}_*.png",
        "mask": "{category}/truth/{stem}.tif",
    }
    return {"mine": OwnLayout(**(usual | patterns))}


def prepared(layouts: dict[str, OwnLayout]) -> Prepare:
    return Prepare(allow_partial=False, layouts=layouts)


@pytest.fixture
def mine(tmp_path) -> Path:
    root = tmp_path / "mine"
    for part in ("nut [m8]", "bolt"):
        touch(root / part / "normal/a.png")
        touch(root / part / "check/fine/b.png")
        touch(root / part / "check/broken/rust_1.png")
        touch(root / part / "check/broken/bent_1.png")
        touch(root / part / "truth/rust_1.tif")
        touch(root / part / "truth/bent_1.tif")
    return root


@pytest.mark.parametrize("category", ["nut [m8]", "bolt"])
def test_own_patterns(mine, category):
    listing = list_category(mine, "mine", category, prepared(own()))
    assert kinds(listing.entries) == {
        ("a.png", "train", "good"),
        ("b.png", "test", "good"),
        ("rust_1.png", "test", "rust"),
        ("bent_1.png", "test", "bent"),
    }
    masks = {e.path.stem: e.mask_path for e in listing.entries if e.label}
    assert masks == {n: mine / category / f"truth/{n}.tif" for n in ("rust_1", "bent_1")}
    assert list_categories(mine, "mine", own()) == ["bolt", "nut [m8]"]


def test_without_a_category_field_the_dataset_is_one_category(mine):
    layout = own(
        train="bolt/normal/*", test_good="bolt/check/fine/*", test_defective="bolt/**/*_?.png",
        mask=None,
    )  # fmt: skip
    assert list_categories(mine, "mine", layout) == ["mine"]
    listing = list_category(mine, "mine", "mine", prepared(layout))
    assert not listing.has_masks
    assert {e.defect for e in listing.entries if e.label} == {"defective"}
    with pytest.raises(UserError, match="no training images of bolt"):
        list_category(mine, "mine", "bolt", prepared(layout))


def test_an_image_in_two_roles_is_refused(mine):
    layout = own(train="{category}/check/broken/*.png")
    with pytest.raises(UserError, match=r"bent_1.png: listed twice, as .*prepare.layouts.mine"):
        list_category(mine, "mine", "bolt", prepared(layout))


def test_two_masks_for_one_image_are_refused(mine):
    touch(mine / "bolt/truth/rust_1.png")
    with pytest.raises(UserError, match="a second mask beside"):
        settings = prepared(own(mask="{category}/truth/{stem}.*"))
        list_category(mine, "mine", "bolt", settings)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"train": "{part}/*"}, "unknown field {part}"),
        ({"train": "normal/*"}, "{category}: in all of"),
        ({"test_good": "/abs/{category}/*"}, "must stay below"),
        ({"test_good": "{category}/../x/*"}, "must stay below"),
        ({"mask": "{category}/truth/*.png"}, "needs the field {stem}"),
        ({"test_defective": "{category}/{defect}/{defect}_*"}, "once"),
        ({"tests": "x"}, "Extra inputs"),
    ],
)
def test_invalid_patterns_are_refused(patterns, message):
    with pytest.raises(ValidationError) as error:
        own(**patterns)
    assert message in str(error.value)


def test_a_dataset_one_folder_too_deep_is_detected(tmp_path):
    (tmp_path / "mvtec_ad/mvtec_anomaly_detection/bottle").mkdir(parents=True)
    with pytest.raises(UserError, match=r"it is in .*/mvtec_anomaly_detection: move its contents"):
        list_category(tmp_path / "mvtec_ad", "mvtec_ad", "bottle")
