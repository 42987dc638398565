"""Perlin masks, foregrounds and blending."""

import math

import cv2
import numpy as np
import pytest
import torch

from realnet.config.params import load
from realnet.config.sections import Perlin
from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.synthesis.foreground import foreground, rule_for
from realnet.synthesis.perlin import (
    perlin_field,
    perlin_masks,
    rotate,
    rotate_field,
    uniforms_needed,
)
from realnet.synthesis.sources import dtd_pool, sdas_pool, texture_pool
from realnet.synthesis.synthesiser import AnomalySynthesiser

OFFICIAL = Perlin(min_exponent=0, max_exponent=5, threshold=0.5, rotation=90.0, turn="field")


def plain_field(uniforms, size, params):
    """Perlin noise, pixel by pixel from the definition."""
    span = params.max_exponent - params.min_exponent + 1
    rows, columns = (2 ** (params.min_exponent + int(u * span)) for u in uniforms[:2])
    side = 2**params.max_exponent + 1
    angle = 2 * np.pi * uniforms[3:].reshape(side, side)
    field = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            v, u = y / size * rows, x / size * columns
            r, c = int(v), int(u)
            fade = [t**3 * (t * (6 * t - 15) + 10) for t in (v - r, u - c)]
            for down in (0, 1):
                for right in (0, 1):
                    a = angle[r + down, c + right]
                    dot = math.cos(a) * (u - c - right) + math.sin(a) * (v - r - down)
                    weight = (fade[0] if down else 1 - fade[0]) * (
                        fade[1] if right else 1 - fade[1]
                    )
                    field[y, x] += math.sqrt(2) * weight * dot
    return field


def test_perlin_noise_matches_its_definition():
    params = OFFICIAL.model_copy(update={"max_exponent": 3})
    rows = torch.rand(3, uniforms_needed(params), generator=torch.Generator().manual_seed(1))
    fields = perlin_field(rows, 24, params)
    for row, field in zip(rows.double().numpy(), fields, strict=True):
        assert np.abs(plain_field(row, 24, params) - field.numpy()).max() < 1e-5


@pytest.mark.parametrize("turn", ["mask", "field"])
def test_masks_have_the_official_statistics(turn):
    rows = torch.rand(600, uniforms_needed(OFFICIAL), generator=torch.Generator().manual_seed(2))
    params = OFFICIAL.model_copy(update={"turn": turn})
    areas = perlin_masks(rows, 128, params).float().mean((1, 2))
    assert 0.035 < areas.mean() < 0.065  # 5.0 % measured for the official procedure
    assert 0.02 < (areas == 0).float().mean() < 0.09  # 4.6 %


def test_rotation_is_about_the_centre():
    masks = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.5
    quarter = rotate(masks, torch.tensor([90.0, -90.0]))
    assert torch.equal(quarter[0], masks[0].rot90(1))
    assert torch.equal(quarter[1], masks[1].rot90(-1))
    assert torch.equal(rotate(masks, torch.zeros(2)), masks)
    corner = rotate(torch.ones(1, 9, 9, dtype=torch.bool), torch.tensor([45.0]))
    assert not corner[0, 0, 0] and corner[0, 4, 4]


def test_the_official_rotation_precedes_the_threshold():
    """Bilinear with zero padding, as OpenCV, which rounds positions to 1/32 of a pixel."""
    rows = torch.rand(8, uniforms_needed(OFFICIAL), generator=torch.Generator().manual_seed(3))
    fields, degrees = perlin_field(rows, 64, OFFICIAL), (2 * rows[:, 2] - 1) * 90
    turned = rotate_field(fields, degrees)
    for field, angle, found in zip(fields.numpy(), degrees.tolist(), turned, strict=True):
        matrix = cv2.getRotationMatrix2D((31.5, 31.5), angle, 1.0)
        expected = cv2.warpAffine(field, matrix, (64, 64), flags=cv2.INTER_LINEAR)
        steepest = max(np.abs(np.diff(np.pad(field, 1), axis=a)).max() for a in (0, 1))
        assert np.abs(found.numpy() - expected).max() <= 2 * steepest / 32 + 1e-4
    assert torch.equal(perlin_masks(rows, 64, OFFICIAL), turned > 0.5)


def test_both_rotations_give_similar_masks():
    rows = torch.rand(60, uniforms_needed(OFFICIAL), generator=torch.Generator().manual_seed(3))
    field = perlin_masks(rows, 256, OFFICIAL)
    mask = perlin_masks(rows, 256, OFFICIAL.model_copy(update={"turn": "mask"}))
    assert 0.85 < ((field & mask).sum() / (field | mask).sum()).item() < 1


def test_anomalies_match_the_formula_inside_and_the_image_outside():
    params = load().synthesis.model_copy(
        update={"sources": {"sdas": 1.0}, "opacity": {"sdas": [0.3, 0.3]}}
    )
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=draw, dtype=torch.uint8)
    patch = torch.randint(0, 256, (1, 3, 32, 32), generator=draw, dtype=torch.uint8)
    foregrounds = torch.rand(6, 32, 32, generator=draw) > 0.3
    drawn = AnomalySynthesiser(params, {"sdas": patch}, 0, "x")(images, foregrounds, 0)
    inside = drawn.masks[:, None].expand_as(images)
    assert not (drawn.masks & ~foregrounds).any() and inside.any()
    assert torch.equal(drawn.images[~inside], images[~inside])
    expected = (0.3 * patch.float() + 0.7 * images.float()).expand_as(images)
    assert (drawn.images.float() - expected)[inside].abs().max() <= 0.51


@pytest.fixture
def synthesis():
    return load().synthesis


def make(params, **options):
    pools = {"sdas": torch.full((4, 3, 32, 32), 200, dtype=torch.uint8)}
    pools["texture"] = torch.full((4, 3, 32, 32), 30, dtype=torch.uint8)
    return AnomalySynthesiser(params, pools, 0, "test", **options)


def batch(count):
    images = torch.full((count, 3, 32, 32), 100, dtype=torch.uint8)
    return images, torch.ones(count, 32, 32, dtype=torch.bool)


@pytest.mark.parametrize("turn", ["mask", "field"])
def test_items_do_not_depend_on_their_batch(synthesis, turn):
    perlin = synthesis.perlin.model_copy(update={"turn": turn})
    synthesis = synthesis.model_copy(update={"perlin": perlin})
    images, foregrounds = batch(12)
    whole = make(synthesis)(images, foregrounds, 5)
    parts = [make(synthesis)(images[:4], foregrounds[:4], 5 + i) for i in (0, 4, 8)]
    assert torch.equal(whole.images, torch.cat([p.images for p in parts]))
    assert torch.equal(whole.masks, torch.cat([p.masks for p in parts]))


def test_sources_have_their_proportions(synthesis):
    images, foregrounds = batch(600)
    drawn = make(synthesis)(images, foregrounds, 0)
    brighter = (drawn.images > 100).flatten(1).any(1).float().mean()
    darker = (drawn.images < 100).flatten(1).any(1).float().mean()
    assert brighter == pytest.approx(0.25, abs=0.06) and darker == pytest.approx(0.25, abs=0.06)
    only = make(synthesis, anomalous_only=True)(images, foregrounds, 0)
    assert only.masks.flatten(1).any(1).float().mean() > 0.99


def test_empty_masks_are_resampled_unless_kept(synthesis):
    images, foregrounds = batch(400)
    keep = synthesis.model_copy(update={"empty_masks": "keep", "perlin": OFFICIAL})
    redraw = keep.model_copy(update={"empty_masks": "redraw"})
    empty = [
        (~make(p, anomalous_only=True)(images, foregrounds, 0).masks.flatten(1).any(1)).sum().item()
        for p in (keep, redraw)
    ]
    assert empty[0] > 5 and empty[1] == 0


def test_every_published_category_has_a_rule():
    for dataset in ("mvtec_ad", "mpdd", "btad", "visa"):
        for category in KNOWN_CATEGORIES[dataset]:
            assert rule_for("rules", dataset, category)["method"] in ("otsu", "triangle", "none")
    assert rule_for("rules", "mvtec_ad", "grid")["side"] == "dark"
    assert rule_for("rules", "visa", "pcb1")["channel"] == "blue"
    assert rule_for("rules", "mine", "part") == {"method": "auto"}


def test_foreground_finds_the_product():
    image = np.full((64, 64, 3), 30, np.uint8)
    image[20:40, 20:40] = 220
    for rule in ({"method": "auto"}, {"method": "otsu", "side": "bright"}):
        assert foreground(image, rule)[25, 25] and not foreground(image, rule)[5, 5]
    assert foreground(255 - image, {"method": "auto"})[25, 25]
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert foreground(texture, {"method": "auto"}).all()


def test_pools(tmp_path):
    from realnet.core.errors import UserError
    from realnet.core.io import sha256, write_csv, write_png

    write_png(tmp_path / "images/banded/a.png", np.zeros((40, 50, 3), np.uint8))
    assert dtd_pool(str(tmp_path), 16).shape == (1, 3, 16, 16)
    with pytest.raises(UserError, match="no images under"):
        dtd_pool(str(tmp_path / "nowhere"), 16)
    row = {"path": "images/banded/a.png", "sha256": sha256(tmp_path / "images/banded/a.png")}
    write_csv(tmp_path / "manifest.csv", [row], ["path", "sha256"])
    assert len(sdas_pool(tmp_path, 16)) == 1
    write_png(tmp_path / "images/banded/a.png", np.ones((40, 50, 3), np.uint8))
    with pytest.raises(UserError, match="changed since"):
        sdas_pool(tmp_path, 16)
    assert torch.equal(texture_pool(0, "d", "c", 16), texture_pool(0, "d", "c", 16))
