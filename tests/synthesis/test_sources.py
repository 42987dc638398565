"""Sources of anomalies: pools, DTD and its augmentations, opacities, random choices."""

import numpy as np
import pytest
import torch

from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import sha256, write_csv, write_png
from realnet.core.seeds import torch_generator
from realnet.synthesis import sources
from realnet.synthesis.pools import build_pools, training_foregrounds
from realnet.synthesis.sources import AUGMENTATIONS, augment_texture, dtd_pool, resized, sdas_pool
from realnet.synthesis.synthesiser import MAX_DRAWS, AnomalySynthesiser, blend


def params(**changes):
    values = {"sources": {"sdas": 1.0}, "empty_masks": "redraw"} | changes
    return load().synthesis.model_copy(update=values)


def picture(seed, height=32, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise_pool(count, size=32):
    draw = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)


def drawn(params, pools, count, seed=0, level=100, foreground=None, **options):
    images = torch.full((count, 3, 32, 32), level, dtype=torch.uint8)
    foreground = torch.ones(count, 32, 32, dtype=torch.bool) if foreground is None else foreground
    return AnomalySynthesiser(params, pools, seed, "x", **options)(images, foreground, 0)


# --- pools ---------------------------------------------------------------------------------------


@pytest.fixture
def dtd(tmp_path):
    for folder, name, shape in (("woven", "b", (40, 60)), ("banded", "z", (32, 32))):
        write_png(tmp_path / f"images/{folder}/{name}.png", picture(ord(name), *shape))
    (tmp_path / "images/woven/notes.txt").write_text("no image")
    return tmp_path


def test_dtd_images_are_sorted_by_name(dtd):
    pool = dtd_pool(str(dtd), 32)
    assert pool.shape == (2, 3, 32, 32) and pool.dtype == torch.uint8
    assert torch.equal(pool[0], torch.from_numpy(picture(ord("z"))).permute(2, 0, 1))


def test_resizing_is_bilinear_and_ignores_the_aspect():
    ramp = np.repeat(np.arange(0, 200, 5, dtype=np.uint8)[None, :, None], 20, 0).repeat(3, 2)
    small = resized(ramp, 10)
    assert small.shape == (3, 10, 10)
    assert (small[0, 0].diff().float() - 20).abs().max() <= 3
    assert torch.equal(resized(picture(0), 32), torch.from_numpy(picture(0)).permute(2, 0, 1))


def test_sdas_pool_is_checked_against_its_manifest(tmp_path):
    rows = []
    for index in range(3):
        write_png(tmp_path / f"images/{index}.png", picture(index))
        path = f"images/{index}.png"
        rows.append({"path": path, "sha256": sha256(tmp_path / path)})
    write_csv(tmp_path / "manifest.csv", rows, ["path", "sha256"])
    pool = sdas_pool(tmp_path, 32)
    assert all(torch.equal(pool[i], resized(picture(i), 32)) for i in range(3))
    write_png(tmp_path / "images/1.png", picture(9))
    with pytest.raises(UserError, match=r"images/1\.png: missing, or changed"):
        sdas_pool(tmp_path, 32)
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(UserError, match=r"images/1\.png: missing, or changed"):
        sdas_pool(tmp_path, 32)
    write_csv(tmp_path / "manifest.csv", [], ["path", "sha256"])
    with pytest.raises(UserError, match="lists no image"):
        sdas_pool(tmp_path, 32)


def test_only_pools_with_positive_weight_are_built(dtd, monkeypatch):
    monkeypatch.setattr(sources, "TEXTURE_POOL", 5)
    chosen = params(
        sources={"normal": 0.5, "texture": 0.5, "dtd": 0.5, "sdas": 0.0}, dtd_root=str(dtd)
    )
    pools = build_pools(chosen, None, 0, "d", "c", 32)
    assert {name: len(pool) for name, pool in pools.items()} == {"texture": 5, "dtd": 2}
    with pytest.raises(UserError, match="give --sdas"):
        build_pools(params(), None, 0, "d", "c", 32)
    other = [
        build_pools(chosen, None, *key, 32)["texture"] for key in ((1, "d", "c"), (0, "d", "e"))
    ]
    assert not any(torch.equal(pools["texture"], pool) for pool in other)


def test_foregrounds_depend_on_the_category():
    images = noise_pool(2)
    images[:, :, 8:24, 8:24] = 255
    images[:, :, :8] = images[:, :, 24:] = 0
    images[:, :, :, :8] = images[:, :, :, 24:] = 0
    rules = params(foreground="rules")
    assert training_foregrounds(images, rules, "mvtec_ad", "carpet").all()
    pill = training_foregrounds(images, rules, "mvtec_ad", "pill")
    assert pill[0, 16, 16] and not pill[0, 2, 2]
    assert training_foregrounds(images, params(foreground="none"), "mvtec_ad", "pill").all()


# --- augmentations -------------------------------------------------------------------------------


def test_every_augmentation_changes_the_image_within_its_range():
    image = resized(picture(3), 32) // 2 + 40
    before = image.clone()
    for index, operation in enumerate(AUGMENTATIONS):
        got = operation(image, [0.2, 0.9, 0.4])
        assert got.shape == image.shape and got.dtype == torch.uint8, index
        assert not torch.equal(got, image), index
    assert torch.equal(image, before)


def test_augmentations_match_their_formulas():
    image = resized(picture(4), 32)
    x = image.double()
    gamma = AUGMENTATIONS[0](image, [0.0, 1 / 3, 1.0])  # exponents 0.5, 1 and 2
    for plane, exponent, source in zip(gamma.double(), (0.5, 1, 2), x, strict=True):
        assert (plane - 255 * (source / 255) ** exponent).abs().max() <= 1
    bright = AUGMENTATIONS[1](image, [1.0, 0.0, 0.5])  # times 1.2, minus 30
    assert (bright.double() - (x * 1.2 - 30).clamp(0, 255)).abs().max() <= 0.51
    assert torch.equal(AUGMENTATIONS[4](image, [0.6, 0.5, 0]), image)  # solarise: p = 0.5
    solar = AUGMENTATIONS[4](image, [0.4, 0.5, 0])
    assert torch.equal(solar, torch.where(image >= 80, 255 - image, image))
    assert torch.equal(AUGMENTATIONS[5](image, [0, 0, 0]), image & 0xF0)
    assert torch.equal(AUGMENTATIONS[6](image, [0, 0, 0]), 255 - image)


def test_three_distinct_augmentations_are_sampled():
    image = resized(picture(5), 32)
    results = [augment_texture(image, torch_generator(0, i)) for i in range(20)]
    assert len({r.numpy().tobytes() for r in results}) >= 18
    assert torch.equal(augment_texture(image, torch_generator(0, 3)), results[3])
    chosen = torch.randperm(10, generator=torch_generator(0, 7))
    draw = torch_generator(0, 7)
    torch.randperm(10, generator=draw)
    expected = image
    for index in chosen[:3].tolist():
        expected = AUGMENTATIONS[index](expected, torch.rand(3, generator=draw).tolist())
    assert torch.equal(results[7], expected)


# --- random choices and blending -----------------------------------------------------------------


def test_blend_matches_its_formula():
    image, patch = noise_pool(2)
    for delta in (0.0, 0.25, 0.9, 1.0):
        got = blend(image, patch, torch.tensor(delta))
        exact = delta * patch.double() + (1 - delta) * image.double()
        assert got.dtype == torch.uint8 and (got.double() - exact).abs().max() <= 0.5 + 1e-4


def test_the_official_blend_truncates():
    """0.25 x 10 + 0.75 x 13 = 12.25 and 0.25 x 13 + 0.75 x 10 = 10.75 would round to 12 and 11."""
    one, other = (
        torch.tensor([10, 13], dtype=torch.uint8),
        torch.tensor([13, 10], dtype=torch.uint8),
    )
    assert blend(other, one, torch.tensor(0.25), "truncate").tolist() == [12, 10]
    assert blend(other, one, torch.tensor(0.25)).tolist() == [12, 11]
    image = torch.full((8, 3, 32, 32), 100, dtype=torch.uint8)
    pool = {"sdas": torch.full((1, 3, 32, 32), 101, dtype=torch.uint8)}
    whole = torch.ones(8, 32, 32, dtype=torch.bool)
    changed = {}
    for rounding in ("round", "truncate"):
        settings = params(opacity={"sdas": [0.9, 0.9]}, rounding=rounding)
        made = AnomalySynthesiser(settings, pool, 0, "x")(image, whole, 0)
        changed[rounding] = (made.images == 101).any().item()
    assert changed == {"round": True, "truncate": False}  # 100.9


def test_opacities_cover_their_range_uniformly():
    """With image 0 and patch 255 the grey level inside the mask is the opacity."""
    white = {"sdas": torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)}
    batch = drawn(params(opacity={"sdas": [0.4, 0.8]}), white, 300, level=0)
    levels = torch.stack([
        i[:, m].unique() for i, m in zip(batch.images, batch.masks, strict=True) if m.any()
    ])  # fmt: skip
    assert levels.shape == (300, 1)  # one opacity for all channels and pixels of an image
    found = levels.float() / 255
    assert 0.398 < found.min() < 0.42 and 0.78 < found.max() < 0.802
    assert found.mean().item() == pytest.approx(0.6, abs=0.03)


def test_pool_images_are_sampled_uniformly():
    pool = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 32, 32).contiguous()
    batch = drawn(params(opacity={"sdas": [1.0, 1.0]}), {"sdas": pool}, 500, level=0)
    used = batch.images.flatten(1).amax(1)
    counts = torch.bincount(used.long(), minlength=6)
    assert counts[0] <= 2 and counts[1:].min() > 60 and counts.sum() == 500


def test_opacity_is_independent_of_image_and_mask():
    """Each pool image has one grey level; with image 0 the level inside is opacity x level."""
    pool = torch.arange(55, 256, 50, dtype=torch.uint8).view(5, 1, 1, 1)
    pools = {"sdas": pool.expand(5, 3, 32, 32).contiguous()}
    chosen = drawn(params(opacity={"sdas": [1.0, 1.0]}), pools, 400, level=0)
    faded = drawn(params(opacity={"sdas": [0.5, 1.0]}), pools, 400, level=0)
    assert torch.equal(chosen.masks, faded.masks)
    which = chosen.images.flatten(1).amax(1).double()
    opacity = faded.images.flatten(1).amax(1).double() / which
    area = chosen.masks.double().mean((1, 2))
    table = torch.corrcoef(torch.stack([which, opacity, area]))
    assert (table - torch.eye(3)).abs().max() < 0.2


def test_patches_keep_their_position():
    """P is not shifted: with opacity 1 the masked pixels are P's at the same position."""
    pool = noise_pool(1)
    batch = drawn(params(opacity={"sdas": [1.0, 1.0]}), {"sdas": pool}, 20)
    inside = batch.masks[:, None].expand_as(batch.images)
    assert torch.equal(batch.images[inside], pool.expand_as(batch.images)[inside])


MIXED = {
    "sources": {"normal": 0.2, "sdas": 0.3, "dtd": 0.3, "texture": 0.2},
    "opacity": {name: [0.2, 1.0] for name in ("sdas", "dtd", "texture")},
}


def test_splitting_a_batch_changes_no_item():
    pools = {"sdas": noise_pool(3), "dtd": noise_pool(4), "texture": noise_pool(5)}
    images = noise_pool(40)
    foreground = torch.rand(40, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.1
    make = AnomalySynthesiser(params(**MIXED), pools, 0, "x")
    whole = make(images, foreground, 0)
    for size in (1, 7):
        parts = [
            make(images[i : i + size], foreground[i : i + size], i) for i in range(0, 40, size)
        ]
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert torch.equal(torch.cat([p.masks for p in parts]), whole.masks)
    other = AnomalySynthesiser(params(**MIXED), pools, 1, "x")(images, foreground, 0)
    named = AnomalySynthesiser(params(**MIXED), pools, 0, "y")(images, foreground, 0)
    later = make(images, foreground, 40)
    for different in (other, named, later):
        assert not torch.equal(different.masks, whole.masks)


def test_dtd_patches_are_augmented_per_item():
    pool = noise_pool(1)
    chosen = params(sources={"dtd": 1.0}, opacity={"dtd": [1.0, 1.0]})
    batch = drawn(chosen, {"dtd": pool}, 12)
    for item in (0, 5, 11):
        mask = batch.masks[item]
        expected = augment_texture(pool[0], torch_generator(0, "x", "dtd", item))
        assert mask.any() and torch.equal(batch.images[item][:, mask], expected[:, mask])


def test_anomalous_only_samples_the_sources_uniformly():
    pools = {
        name: torch.full((1, 3, 32, 32), value, dtype=torch.uint8)
        for name, value in (("sdas", 255), ("texture", 0))
    }
    weights = {"sources": {"normal": 0.5, "sdas": 0.4, "texture": 0.1}}
    weights["opacity"] = {name: [1.0, 1.0] for name in pools}
    batch = drawn(params(**weights), pools, 400, anomalous_only=True)
    assert batch.masks.flatten(1).any(1).all()
    bright = (batch.images == 255).flatten(1).any(1).float().mean()
    assert bright.item() == pytest.approx(0.5, abs=0.08)
    ordinary = drawn(params(**weights), pools, 400)
    shares = [(ordinary.images == v).flatten(1).any(1).float().mean().item() for v in (255, 0)]
    assert shares == pytest.approx([0.4, 0.1], abs=0.07)
    normal = ~ordinary.masks.flatten(1).any(1)
    assert normal.float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert (ordinary.images[normal] == 100).all()


def test_an_empty_foreground_ends_the_redraws():
    foreground = torch.ones(6, 32, 32, dtype=torch.bool)
    foreground[2] = False
    batch = drawn(params(), {"sdas": noise_pool(2)}, 6, foreground=foreground)
    assert batch.masks.flatten(1).any(1).tolist() == [True, True, False, True, True, True]
    assert (batch.images[2] == 100).all() and MAX_DRAWS > 1


def test_inputs_are_not_modified():
    images, foreground = noise_pool(8), torch.ones(8, 32, 32, dtype=torch.bool)
    pools = {"sdas": noise_pool(2)}
    copies = images.clone(), foreground.clone(), pools["sdas"].clone()
    AnomalySynthesiser(params(), pools, 0, "x")(images, foreground, 0)
    assert all(
        torch.equal(a, b) for a, b in zip(copies, (images, foreground, pools["sdas"]), strict=True)
    )
