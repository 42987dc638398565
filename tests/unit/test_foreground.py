"""The table of foreground rules against the published one, and what the rules do."""

import cv2
import numpy as np
import pytest
import torch

from realnet.data.categories import KNOWN_CATEGORIES
from realnet.synthesis.foreground import foreground, foregrounds, rule_for

# Method, side, channel, closing and opening of the official loader; None: the whole image.
OTSU, TRIANGLE = "otsu", "triangle"
MVTEC = {
    "bottle": (OTSU, "dark"), "cable": None, "capsule": (OTSU, "dark"), "carpet": None,
    "grid": (OTSU, "dark"), "hazelnut": (TRIANGLE, "bright"), "leather": None,
    "metal_nut": (TRIANGLE, "bright"), "pill": (OTSU, "bright"), "screw": (OTSU, "dark"),
    "tile": None, "toothbrush": (TRIANGLE, "bright"), "transistor": None, "wood": None,
    "zipper": (OTSU, "dark"),
}  # fmt: skip
MPDD = {
    "bracket_black": ("green", "dark"), "bracket_brown": ("green", "dark"),
    "bracket_white": ("blue", "bright"), "connector": ("green", "dark"),
    "metal_plate": ("grey", "dark"), "tubes": ("blue", "bright"),
}  # fmt: skip
GREY, BOARD = (OTSU, "bright", "grey", 3, 3), (TRIANGLE, "bright", "blue", 8, 3)
OFFICIAL = {
    "mvtec_ad": {k: v and (v[0], v[1], "grey", 6, 6) for k, v in MVTEC.items()},
    "mpdd": {k: (OTSU, side, channel, 6, 0) for k, (channel, side) in MPDD.items()},
    "btad": dict.fromkeys(("01", "03"), (OTSU, "bright", "grey", 15, 6)) | {"02": None},
    "visa": {
        **dict.fromkeys(("candle", "cashew", "chewinggum", "fryum", "pipe_fryum"), GREY),
        **dict.fromkeys(("macaroni1", "macaroni2"), GREY),
        **dict.fromkeys(("pcb1", "pcb2", "pcb3", "pcb4"), BOARD),
        "capsules": None,
    },
}


@pytest.mark.parametrize("dataset", OFFICIAL)
def test_table_is_the_published_one(dataset):
    assert set(KNOWN_CATEGORIES[dataset]) == set(OFFICIAL[dataset])
    for category, expected in OFFICIAL[dataset].items():
        rule = rule_for("rules", dataset, category)
        if expected is None:
            assert rule == {"method": "none"}, category
            continue
        found = (rule["method"], rule["side"], rule.get("channel", "grey"))
        assert (*found, rule.get("close", 0), rule.get("open", 0)) == expected, category


def test_all_36_categories_and_the_demo_s_are_there():
    assert sum(map(len, OFFICIAL.values())) == 36
    for dataset, categories in KNOWN_CATEGORIES.items():
        for category in categories:
            assert rule_for("rules", dataset, category)["method"] in (OTSU, TRIANGLE, "none")


def test_modes_override_the_table():
    assert rule_for("none", "mvtec_ad", "bottle") == {"method": "none"}
    assert rule_for("auto", "mvtec_ad", "carpet") == {"method": "auto"}
    assert rule_for("rules", "mine", "bottle") == {"method": "auto"}


def disc(size=64, inside=220, outside=30):
    image = np.full((size, size, 3), outside, np.uint8)
    cv2.circle(image, (size // 2, size // 2), size // 4, (inside,) * 3, -1)
    return image


def test_sides_are_complements_and_channels_are_theirs():
    bright = foreground(disc(), {"method": "otsu", "side": "bright"})
    dark = foreground(disc(), {"method": "otsu", "side": "dark"})
    assert bright[32, 32] and not bright[2, 2] and np.array_equal(dark, ~bright)
    image = np.full((64, 64, 3), 30, np.uint8)
    for index in range(3):
        image[20 * index : 20 * index + 10, :, index] = 250
    for index, channel in enumerate(("red", "green", "blue")):
        rows = foreground(image, {"method": "otsu", "side": "bright", "channel": channel})
        assert np.flatnonzero(rows.any(1)).tolist() == list(range(20 * index, 20 * index + 10))


def test_triangle_finds_a_small_product_where_otsu_splits_the_background():
    rng = np.random.default_rng(0)
    plane = np.clip(rng.normal(40, 12, (128, 128)), 0, 255)
    plane[60:66, 60:66] = 130
    image = np.repeat(plane.astype(np.uint8)[..., None], 3, 2)
    small = foreground(image, {"method": "triangle", "side": "bright"})
    split = foreground(image, {"method": "otsu", "side": "bright"})
    assert small[62, 62] and small.mean() < 0.1 < split.mean()


def test_closing_fills_holes_and_opening_removes_specks_in_proportion_to_the_size():
    for size in (64, 256):
        image, unit = disc(size), size // 64
        image[size // 2 : size // 2 + unit, size // 2 : size // 2 + unit] = 30  # a hole
        image[2 * unit : 3 * unit, 2 * unit : 3 * unit] = 220  # a speck
        rule = {"method": "otsu", "side": "bright"}
        speck = (2 * unit + unit // 2,) * 2  # its middle: OpenCV's even kernels shift by a pixel
        plain = foreground(image, rule)
        assert not plain[size // 2, size // 2] and plain[speck]
        closed = foreground(image, rule | {"close": 12})
        assert closed[size // 2, size // 2] and closed[speck]
        both = foreground(image, rule | {"close": 12, "open": 12})
        assert both[size // 2, size // 2] and not both[speck]


def test_automatic_rule():
    auto = {"method": "auto"}
    for image in (disc(), disc(inside=30, outside=220)):
        found = foreground(image, auto)
        truth = foreground(disc(), {"method": "otsu", "side": "bright"})
        assert (found != truth).mean() < 0.02
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert foreground(texture, auto).all()
    filling = np.full((64, 64, 3), 200, np.uint8)
    filling[:, :20] = 40  # the border is on both sides
    assert foreground(filling, auto).all()
    speck = np.full((64, 64, 3), 30, np.uint8)
    speck[30:33, 30:33] = 255  # too small to be the product
    assert foreground(speck, auto).all()


def test_stack_of_images():
    images = torch.from_numpy(np.stack([disc(), disc(inside=30, outside=220)])).permute(0, 3, 1, 2)
    found = foregrounds(images, {"method": "otsu", "side": "bright"})
    assert found.dtype == torch.bool and found.shape == (2, 64, 64)
    assert found[0, 32, 32] and not found[0, 0, 0]
    assert not found[1, 32, 32] and found[1, 0, 0]
