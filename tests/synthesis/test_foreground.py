"""The table of foreground rules against the published one, and the masks of the rules."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from trees import pictures

from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.synthesis.foreground import (
    AUTO,
    describe,
    foreground,
    foregrounds,
    morph,
    rule_for,
)

# (method, side, channel, closing, opening) of the official loader; None: the whole image.
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


def test_all_36_categories_and_the_demo_are_listed():
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


def stack(images):
    """uint8 [N, H, W, 3] to the tensor [N, 3, H, W] that the training uses."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def test_sides_are_complements_and_channels_are_selected():
    bright = foreground(disc(), {"method": "otsu", "side": "bright"})
    dark = foreground(disc(), {"method": "otsu", "side": "dark"})
    assert bright[32, 32] and not bright[2, 2] and np.array_equal(dark, ~bright)
    image = np.full((64, 64, 3), 30, np.uint8)
    for index in range(3):
        image[20 * index : 20 * index + 10, :, index] = 250
    for index, channel in enumerate(("red", "green", "blue")):
        rows = foreground(image, {"method": "otsu", "side": "bright", "channel": channel})
        assert np.flatnonzero(rows.any(1)).tolist() == list(range(20 * index, 20 * index + 10))


def test_triangle_finds_a_small_product_where_otsu_fails():
    rng = np.random.default_rng(0)
    plane = np.clip(rng.normal(40, 12, (128, 128)), 0, 255)
    plane[60:66, 60:66] = 130
    image = np.repeat(plane.astype(np.uint8)[..., None], 3, 2)
    small = foreground(image, {"method": "triangle", "side": "bright"})
    split = foreground(image, {"method": "otsu", "side": "bright"})
    assert small[62, 62] and small.mean() < 0.1 < split.mean()


def otsu(histogram):
    """The threshold with the largest variance between classes, by exhaustive search."""
    values, best = np.arange(256), (-1.0, 0)
    for threshold in range(255):
        low, high = histogram[: threshold + 1], histogram[threshold + 1 :]
        if low.sum() and high.sum():
            means = np.average(values[: threshold + 1], weights=low)
            means -= np.average(values[threshold + 1 :], weights=high)
            best = max(best, (low.sum() * high.sum() * means**2, -threshold))
    return -best[1]


def triangle(histogram):
    """The bin farthest from the line between the peak and the end of the longer tail."""
    filled = np.flatnonzero(histogram)
    first, last, peak = max(filled[0] - 1, 0), min(filled[-1] + 1, 255), histogram.argmax()
    mirrored = peak - first > last - peak
    if mirrored:
        histogram, peak, last = histogram[::-1], 255 - peak, 255 - first
    x = np.arange(peak, last + 1)
    drop = (x - peak) * histogram[peak] + (last - peak) * (histogram[x] - histogram[peak])
    found = x[drop.argmin()]
    return 255 - found if mirrored else found


@pytest.mark.parametrize(("method", "threshold"), [("otsu", otsu), ("triangle", triangle)])
@pytest.mark.parametrize("seed", range(6))
def test_thresholds_match_their_definitions(method, threshold, seed):
    """Random images: a mixture of two populations of grey values."""
    rng = np.random.default_rng(seed)
    share, low, high = rng.uniform(0.05, 0.9), rng.uniform(20, 90), rng.uniform(120, 220)
    values = np.where(
        rng.random((96, 96)) < share, rng.normal(high, 12, (96, 96)), rng.normal(low, 9, (96, 96))
    )
    plane = np.clip(values, 0, 255).astype(np.uint8)
    found = foreground(
        np.repeat(plane[..., None], 3, 2), {"method": method, "side": "bright", "channel": "red"}
    )
    wanted = threshold(np.bincount(plane.ravel(), minlength=256).astype(float))
    # OpenCV's triangle method is that of Zack et al. except for one bin at the end of the tail.
    slack = 1 if method == "triangle" else 0
    assert (plane > wanted + slack)[~found].sum() == 0 and (plane <= wanted - slack)[
        found
    ].sum() == 0


def test_closing_and_opening_scale_with_the_image_size():
    for size in (64, 256):
        image, unit = disc(size), size // 64
        image[size // 2 : size // 2 + unit, size // 2 : size // 2 + unit] = 30  # a hole
        image[2 * unit : 3 * unit, 2 * unit : 3 * unit] = 220  # a speck
        rule = {"method": "otsu", "side": "bright"}
        speck = (2 * unit, 2 * unit)
        plain = foreground(image, rule)
        assert not plain[size // 2, size // 2] and plain[speck]
        closed = foreground(image, rule | {"close": 12})
        assert closed[size // 2, size // 2] and closed[speck]
        both = foreground(image, rule | {"close": 12, "open": 12})
        assert both[size // 2, size // 2] and not both[speck]


@pytest.mark.parametrize("side", [2, 3, 6, 8, 15])
@pytest.mark.parametrize("name", ["close", "open"])
def test_closing_and_opening_match_scikit_image(side, name):
    """scikit-image pads images for even squares and otherwise calls SciPy."""
    masks = [
        np.random.default_rng(side).random((96, 96)) > 0.7,
        pictures("mvtec_ad", "grid", "train", "good", [0], (96, 96)).products[0],
    ]
    operation = ndimage.grey_closing if name == "close" else ndimage.grey_opening
    pad = side - 1 if side % 2 == 0 else 0
    for mask in masks:
        wide = operation(np.pad(mask.astype(np.uint8), pad, mode="edge"), size=(side, side))
        assert np.array_equal(
            morph(mask.astype(np.uint8), side, name), wide[pad : -pad or None, pad : -pad or None]
        )


def test_the_mask_is_not_shifted_at_any_size():
    for size in (64, 128, 256):
        for close, opened in ((12, 8), (6, 6), (15, 6)):
            image = disc(size)
            mask = foreground(
                image, {"method": "otsu", "side": "bright", "close": close, "open": opened}
            )
            found = [np.argwhere(m).mean(0) for m in (mask, image[..., 0] > 128)]
            assert np.abs(found[0] - found[1]).max() < 0.1


@pytest.mark.parametrize(
    ("dataset", "category", "words"),
    [
        ("mvtec_ad", "bottle", "Otsu, dark side, close 6, open 6"),
        ("mvtec_ad", "hazelnut", "Triangle, bright side, close 6, open 6"),
        ("mpdd", "connector", "Otsu, dark side, G channel, close 6"),
        ("visa", "pcb1", "Triangle, bright side, B channel, close 8, open 3"),
        ("mvtec_ad", "carpet", "whole image"),
        ("bolts", "m8", "automatic: unlike the background at the border"),
    ],
)
def test_rules_in_words(dataset, category, words):
    assert describe(rule_for("rules", dataset, category)) == words


# --- the automatic rule --------------------------------------------------------------------------

ON_GROUND = {
    "bright on dark": ("mvtec_ad", "pill"), "dark on bright": ("mvtec_ad", "bottle"),
    "two colours": ("mvtec_ad", "capsule"), "with a hole": ("mvtec_ad", "metal_nut"),
    "to the border": ("mvtec_ad", "zipper"), "thin parts": ("mpdd", "connector"),
    "clouded ground": ("mpdd", "bracket_brown"), "several": ("visa", "macaroni2"),
    "bright and dark parts": ("visa", "pcb4"),
}  # fmt: skip
TEXTURES = [("mvtec_ad", name) for name in ("carpet", "leather", "tile", "wood", "grid")]


def overlap(found, product):
    return (found & product).sum() / (found | product).sum()


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("which", ON_GROUND)
def test_automatic_finds_a_product_on_plain_background(which, size):
    made = pictures(*ON_GROUND[which], "train", "good", range(3), (size, size))
    found = foregrounds(stack(made.images), AUTO).numpy()
    assert min(map(overlap, found, made.products)) > (0.97 if size == 256 else 0.93)


@pytest.mark.parametrize(("dataset", "category"), [*TEXTURES, ("btad", "02")])
def test_automatic_takes_the_whole_image_of_a_texture(dataset, category):
    made = pictures(dataset, category, "train", "good", range(12), (128, 128))
    assert foregrounds(stack(made.images), AUTO).all()


@pytest.mark.parametrize("light", ["vignette", "slope"])
@pytest.mark.parametrize("which", ["bright on dark", "dark on bright", "several", "clouded ground"])
def test_automatic_ignores_uneven_light(which, light):
    made = pictures(*ON_GROUND[which], "train", "good", range(2), (256, 256))
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    factor = 1 - 0.3 * (x * x + y * y) if light == "vignette" else 0.75 + 0.2 * x + 0.1 * y
    images = (made.images * factor[None, ..., None]).astype(np.uint8)
    for image, product in zip(images, made.products, strict=True):
        assert overlap(foreground(image, AUTO), product) > 0.97
    if which == "clouded ground":  # a single threshold for the whole image fails here
        otsu = foreground(images[0], {"method": "otsu", "side": "dark"})
        assert overlap(otsu, made.products[0]) < 0.8


def test_automatic_uses_colour_where_grey_is_equal():
    image = np.full((64, 64, 3), 128, np.uint8)
    image[20:40, 20:40] = (200, 108, 50)
    assert len(np.unique(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))) == 2
    found = foreground(image, AUTO)
    assert found[22:38, 22:38].all() and found.mean() < 0.13


def test_automatic_takes_the_whole_image_where_nothing_stands_out():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    plain = np.full((64, 64, 3), 200, np.uint8)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    gradient = np.repeat((120 + 60 * x - 40 * y * y)[..., None], 3, 2).astype(np.uint8)
    speck = plain.copy()
    speck[30:33, 30:33] = 255  # too small to be the product
    for image in (noise, plain, gradient, speck):
        assert foreground(image, AUTO).all()


def test_automatic_decides_once_for_all_images():
    product = disc(128)
    nothing = np.full((128, 128, 3), 30, np.uint8)
    mostly = foregrounds(stack(np.stack([product, product, nothing])), AUTO).numpy()
    assert mostly[0].mean() < 0.3 and mostly[2].all()
    rarely = foregrounds(stack(np.stack([product, nothing, nothing])), AUTO).numpy()
    assert rarely.all()


def test_stack_of_images():
    images = torch.from_numpy(np.stack([disc(), disc(inside=30, outside=220)])).permute(0, 3, 1, 2)
    found = foregrounds(images, {"method": "otsu", "side": "bright"})
    assert found.dtype == torch.bool and found.shape == (2, 64, 64)
    assert found[0, 32, 32] and not found[0, 0, 0]
    assert not found[1, 32, 32] and found[1, 0, 0]
