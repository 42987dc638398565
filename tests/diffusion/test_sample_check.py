"""The check of a diffusion model's s = 0 samples: what is flagged, and in which words."""

import numpy as np
import pytest

from realnet.core.seeds import SeedPath
from realnet.diffusion.sample_check import LIMITS, SPLITS, advice, check_samples, halves_of

SEEDS = SeedPath(0, ("test",))
SIZE, COUNT = 32, 40


def textures(count, seed=0):
    """Products of one kind: a bright square of varying place and level, with fine texture."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 3, SIZE, SIZE), 90.0)
    for image in images:
        top, left = rng.integers(6, 12, 2)
        image[:, top : top + 14, left : left + 14] += rng.uniform(45, 55)
    images += rng.normal(0, 12, (count, 1, SIZE, SIZE))
    return images.clip(0, 255).astype(np.uint8)


def features(images):
    """Stand-in of a backbone: two layers of pooled pixels."""
    grey = images.mean(1)
    blocks = grey.reshape(len(grey), 8, SIZE // 8, 8, SIZE // 8)
    return [blocks.mean((2, 4)).reshape(len(grey), -1), blocks.std((2, 4)).reshape(len(grey), -1)]


def check(samples, normal):
    return check_samples(samples, normal, (features(samples), features(normal)), SEEDS)


NORMAL = textures(COUNT)


def test_halves_of_the_same_normal_images_pass():
    """Ratios are near 1, far below the limits."""
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(COUNT)
        found = check(NORMAL[order[:13]], NORMAL[order[13:]])
        assert not found.faults and not found.findings()
        assert all(each.ratio < 3 for each in found.compared.values())


def test_brighter_samples_are_flagged_with_the_number_of_grey_levels():
    found = check(textures(16, 1) + np.uint8(34), NORMAL)
    assert "grey_levels" in found.faults
    assert found.findings()[0].startswith("they are brighter by 34 grey levels (distance ")
    assert "spectrum" not in found.faults


def test_noise_and_smooth_samples_are_flagged():
    noise = np.random.default_rng(1).integers(0, 256, (16, 3, SIZE, SIZE), dtype=np.uint8)
    assert "grey_levels" in check(noise, NORMAL).faults
    smooth = textures(16, 1).astype(float)
    spectrum = np.fft.fft2(smooth)
    low = np.abs(np.fft.fftfreq(SIZE)) < 0.12
    smooth = np.fft.ifft2(spectrum * low[:, None] * low[None, :]).real.clip(0, 255)
    words = check(smooth.astype(np.uint8), NORMAL).findings()
    assert any("they lack fine texture (-" in each for each in words)


def test_a_small_distance_is_no_fault_however_alike_the_normal_images_are():
    same = np.repeat(NORMAL[:1], COUNT, axis=0)
    found = check(same[:8] + np.uint8(2), same)
    assert found.compared["grey_levels"].ratio == float("inf")
    assert found.compared["grey_levels"].distance == pytest.approx(2)
    assert LIMITS["grey_levels"].distance > 2 and "grey_levels" not in found.faults


def test_halves_are_disjoint_and_depend_on_the_seed_alone():
    halves = halves_of(11, 5, SEEDS)
    assert len(halves) == SPLITS
    assert all(len({*one, *other}) == 10 for one, other in halves)
    again = halves_of(11, 5, SEEDS)
    assert all(np.array_equal(a, b) for a, b in zip(halves, again, strict=True))


def test_advice_names_the_parameters_that_the_run_has():
    ddpm = {"steps": 50, "epochs": None, "init": None, "ema": {"warmup": True}}
    noise = {"start": "noise", "start_fraction": 1.0}
    assert advice(ddpm, noise) == (
        "raise ddpm.steps (it was 50); or set sdas.start: image with sdas.start_fraction below 1"
    )
    image = {"start": "image", "start_fraction": 0.5}
    assert advice(ddpm, image).endswith("; or lower sdas.start_fraction (it is 0.5)")
    cold = ddpm | {"steps": None, "epochs": 3, "ema": {"warmup": False}}
    assert advice(cold, noise).startswith("set ddpm.ema.warmup: true")
    assert "raise ddpm.epochs (it was 3)" in advice(cold, noise)
