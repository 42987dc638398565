"""CutPaste and NSA: changed pixels and masks, and reproducible items."""

import cv2
import numpy as np
import pytest
import torch
from builders import job, prepare

from realnet.config.params import load, stage_params
from realnet.core.errors import UserError
from realnet.core.io import read_csv
from realnet.core.seeds import numpy_generator
from realnet.datasets.demo.demo_dataset import make_demo
from realnet.datasets.images import load_images, read_image, read_mask
from realnet.datasets.items import read_manifest
from realnet.interop.export_pairs import export_pairs
from realnet.registry import params_of
from realnet.synthesis.patch_anomalies import LEAST, RIM, clone, cutpaste, nsa
from realnet.synthesis.pools import NormalImages, build_pools, training_foregrounds
from realnet.synthesis.synthesiser import AnomalySynthesiser

SIZE = 64
RUN = ("demo", "hex_nut")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("patches")
    small = {"demo": {"train": 12, "test_good": 1, "test_defective": 1}}
    make_demo(load(overrides={"data": small}).data.demo, root / "raw")
    prepare(*RUN, root / "raw", root, load().prepare)
    return root


@pytest.fixture(scope="module")
def nuts(root):
    """(normal images uint8 [12, 3, 64, 64], their foregrounds)."""
    items = [item for item in read_manifest(root / "manifest.csv") if item.split == "train"]
    normal = load_images(items, SIZE)
    return normal, training_foregrounds(normal, load().synthesis, *RUN)


def params(section=None, source="cutpaste", **changes):
    synthesis = load().synthesis
    if section:
        changes = {section: getattr(synthesis, section).model_copy(update=changes)}
    return synthesis.model_copy(update={"sources": {source: 1.0}} | changes)


def pictures(nuts, index):
    return nuts[0][index].permute(1, 2, 0).contiguous().numpy(), nuts[1][index].numpy()


def drawn(nuts, source, count=12, first=0, seed=0, **changes):
    settings = params(source, source, **changes)
    pools = build_pools(settings, None, seed, *RUN, SIZE, NormalImages(*nuts))
    make = AnomalySynthesiser(settings, pools, seed, "x")
    return make(nuts[0][:count], nuts[1][:count], first)


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["cutpaste", "nsa"])
def test_items_change_only_on_the_foreground(nuts, source):
    made = drawn(nuts, source)
    changed = (made.images != nuts[0]).any(1)
    assert made.masks.flatten(1).any(1).all() and changed.flatten(1).any(1).all()
    assert not (changed & ~nuts[1]).any() and not (made.masks & ~nuts[1]).any()
    assert made.images.dtype == torch.uint8 and made.masks.dtype == torch.bool
    assert 0.002 < made.masks.float().mean() < 0.2


@pytest.mark.parametrize("source", ["cutpaste", "nsa"])
def test_items_depend_only_on_seed_and_index(nuts, source):
    whole = drawn(nuts, source, first=5)
    settings = params(source, source)
    pools = build_pools(settings, None, 0, *RUN, SIZE, NormalImages(*nuts))
    make = AnomalySynthesiser(settings, pools, 0, "x")
    parts = [make(nuts[0][i : i + 4], nuts[1][i : i + 4], 5 + i) for i in (8, 0, 4)]
    assert torch.equal(whole.images, torch.cat([parts[i].images for i in (1, 2, 0)]))
    assert torch.equal(whole.masks, torch.cat([parts[i].masks for i in (1, 2, 0)]))
    for other in (drawn(nuts, source, first=6), drawn(nuts, source, first=5, seed=1)):
        same = (other.masks == whole.masks).flatten(1).all(1)
        assert not same.any()


def test_a_mixture_uses_all_its_sources_and_keeps_normal_items(nuts):
    sources = {"normal": 0.25, "texture": 0.25, "cutpaste": 0.25, "nsa": 0.25}
    settings = load().synthesis.model_copy(update={"sources": sources})
    pools = build_pools(settings, None, 0, *RUN, SIZE, NormalImages(*nuts))
    make = AnomalySynthesiser(settings, pools, 0, "x")
    alone = {
        name: AnomalySynthesiser(
            settings.model_copy(update={"sources": {name: 1.0}}), pools, 0, "x"
        )
        for name in sources
        if name != "normal"
    }
    seen = set()
    for first in range(0, 60, 12):
        mixed = make(*nuts, first)
        pure = {name: source(*nuts, first) for name, source in alone.items()}
        for row in range(12):
            if torch.equal(mixed.images[row], nuts[0][row]):
                assert not mixed.masks[row].any()
                seen.add("normal")
                continue
            fits = [n for n, p in pure.items() if torch.equal(p.images[row], mixed.images[row])]
            assert len(fits) == 1 and torch.equal(pure[fits[0]].masks[row], mixed.masks[row])
            seen.add(fits[0])
    assert seen == set(sources)


def test_without_a_foreground_there_is_no_anomaly(nuts):
    image, _ = pictures(nuts, 0)
    nothing = np.zeros((SIZE, SIZE), bool)
    rng = numpy_generator(0, "x")
    assert cutpaste(image, nothing, params().cutpaste, rng) is None
    assert nsa(image, nothing, image, nothing, params().nsa, rng) is None
    empty = AnomalySynthesiser(params(), {}, 0, "x")(nuts[0], torch.zeros_like(nuts[1]), 0)
    assert torch.equal(empty.images, nuts[0]) and not empty.masks.any()


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("cutpaste", {"area": [0.2, 0.1]}, "area must be"),
        ("cutpaste", {"area": [0.1, 1.5]}, "area must be within 0 and 1"),
        ("cutpaste", {"aspect": [0.0, 2.0]}, "aspect above 0"),
        ("nsa", {"resize": [1.3, 0.7]}, "resize must be"),
        ("nsa", {"smallest": 0.6, "largest": 0.5}, "smallest must not exceed"),
        ("nsa", {"gradients": "none"}, "gradients"),
    ],
)
def test_wrong_values_are_one_line(section, changes, message):
    with pytest.raises(UserError, match=message):
        load(overrides={"synthesis": {section: changes}})


@pytest.mark.parametrize("size", ["model", "original"])
def test_exported_pairs_record_their_sources(root, tmp_path, size):
    values = {"synthesis": {"sources": {"cutpaste": 0.5, "nsa": 0.5}}}
    stage = stage_params(load(overrides=values).section_json("realnet"), params_of("realnet"))
    inputs = {"manifest": root / "manifest.csv"}
    export_pairs(job(stage, inputs, *RUN, 0, tmp_path / size), 12, size)
    rows = read_csv(tmp_path / size / "manifest.csv")
    assert {row["source"] for row in rows} == {"cutpaste", "nsa"}
    for row in rows:
        own = row["source_path"] == row["normal"]
        assert own == (row["source"] == "cutpaste") and row["opacity"] == "1.0"
        mask = read_mask(tmp_path / size / row["mask"])
        image = read_image(tmp_path / size / row["path"])
        before = read_image(row["normal"])
        if size == "original":
            assert np.array_equal(image[~mask], before[~mask])
            assert (image != before).any()


# --- CutPaste ------------------------------------------------------------------------------------


def test_cutpaste_moves_pixels_within_the_image(nuts):
    """All pixels differ and there is no jitter, so the patch is the shifted image."""
    settings = params(scars=0.0, jitter=0.0, section="cutpaste").cutpaste
    codes = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    image = np.stack([codes // 256, codes % 256, 0 * codes], 2).astype(np.uint8)
    foreground = np.ones((SIZE, SIZE), bool)
    for number in range(20):
        made, mask = cutpaste(image, foreground, settings, numpy_generator(0, number))
        assert np.array_equal((made != image).any(2), mask)
        rows, columns = np.nonzero(mask)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width  # a rectangle, possibly cropped at the border
        assert mask.mean() < 0.16
        source = made[mask].astype(int) @ (256, 1, 0)
        shift = np.unique(np.stack([source // SIZE - rows, source % SIZE - columns]), axis=1)
        assert shift.shape == (2, 1) and np.abs(shift).max() > 0


def test_rectangles_have_the_configured_areas_and_aspects():
    settings = params("cutpaste", scars=0.0, area=[0.05, 0.06], aspect=[0.25, 0.25]).cutpaste
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    foreground = np.zeros((128, 128), bool)
    foreground[64, 64] = True  # the centre; then the whole patch is inside
    whole = np.ones_like(foreground)
    found = 0
    for number in range(30):
        made = cutpaste(image, foreground, settings, numpy_generator(0, number))
        if made is not None:
            assert made[1].sum() == 1 and made[1][64, 64]
        mask = cutpaste(image, whole, settings, numpy_generator(0, number))[1]
        rows, columns = np.nonzero(mask)
        if min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 127:
            assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(0.25, abs=0.02)
            assert 0.048 < mask.mean() < 0.062
            found += 1
    assert found > 5


def test_scars_are_thin_and_rotated():
    settings = params(
        "cutpaste", scars=1.0, scar_width=[8, 8], scar_length=[60, 60], scar_rotation=45.0
    ).cutpaste
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    whole = np.ones((256, 256), bool)
    tilts = []
    for number in range(40):
        mask = cutpaste(image, whole, settings, numpy_generator(0, number))[1]
        rows, columns = np.nonzero(mask)
        if min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 255:
            assert mask.sum() == pytest.approx(8 * 60, rel=0.08)
            axes = np.linalg.eigvalsh(np.cov(np.stack([rows, columns])))
            assert axes[1] / axes[0] > 25  # (60 / 8)^2 = 56
            tilts.append(np.ptp(columns))
    assert len(tilts) > 20 and min(tilts) < 20 and max(tilts) > 40


def test_jitter_changes_colours_and_not_the_position(nuts):
    image, foreground = pictures(nuts, 0)
    plain, strong = (params("cutpaste", jitter=j).cutpaste for j in (0.0, 0.3))
    a, b = (cutpaste(image, foreground, p, numpy_generator(0, 1)) for p in (plain, strong))
    assert np.array_equal(a[1], b[1])
    assert np.abs(a[0].astype(int) - b[0])[a[1]].mean() > 3


# --- NSA -----------------------------------------------------------------------------------------


def soft(seed, size=SIZE):
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.mark.parametrize("gradients", ["source", "mixed"])
def test_seamless_cloning_keeps_the_outside_and_has_no_seam(gradients):
    image, patch = soft(0), soft(1)
    patch = np.clip(patch.astype(int) + 60, 0, 255).astype(np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = (y - 30) ** 2 + (x - 28) ** 2 < 15**2
    made = clone(image, patch, mask, gradients)
    assert np.array_equal(made[~mask], image[~mask])
    assert np.abs(made.astype(int) - image)[mask].mean() > 1
    # Poisson: the patch's brightness, 60 levels higher, is not transferred; there is no edge.
    assert np.abs(made.astype(int) - patch)[mask].mean() > 30
    rim = mask & ~np.roll(mask, 1, 0)
    step = np.abs(made.astype(int) - np.roll(made.astype(int), 1, 0))[rim].mean()
    assert step < 12 < np.abs(patch.astype(int) - np.roll(image.astype(int), 1, 0))[rim].mean()


def test_cloning_an_image_into_itself_changes_nothing():
    """So the patch is not shifted by a pixel."""
    image = soft(2)
    for top, left in ((RIM, RIM), (10, 20), (SIZE - RIM - 21, SIZE - RIM - 14)):
        mask = np.zeros((SIZE, SIZE), bool)
        mask[top : top + 21, left : left + 14] = True
        assert np.abs(clone(image, image, mask, "source").astype(int) - image).max() <= 1


def test_the_nsa_mask_is_where_grey_levels_differ(nuts):
    image, foreground = pictures(nuts, 0)
    other, other_foreground = pictures(nuts, 1)
    areas = []
    for threshold in (4.0, 16.0):
        settings = params("nsa", "nsa", threshold=threshold).nsa
        made = [
            nsa(image, foreground, other, other_foreground, settings, numpy_generator(0, number))
            for number in range(30)
        ]
        found = [pair for pair in made if pair is not None]
        assert len(found) > 10
        for result, mask in found:
            difference = np.abs(result.astype(int) - image).mean(2)
            assert mask.sum() >= LEAST and not difference[~foreground].any()
            assert (difference[mask] > threshold).mean() > 0.8  # the rest: the median filter
            assert (difference > threshold)[~mask].sum() <= 0.5 * mask.sum() + 12
        areas.append(np.mean([0 if pair is None else pair[1].mean() for pair in made]))
    assert areas[0] > 1.2 * areas[1] > 0


def test_nsa_sources_are_other_images_if_there_are_any(nuts):
    settings = params(source="nsa")
    pools = build_pools(settings, None, 0, *RUN, SIZE, NormalImages(*nuts))
    make = AnomalySynthesiser(settings, pools, 0, "x")
    rows = torch.linspace(0, 0.999, 25)[:, None].expand(-1, 3)
    for number in range(12):
        chosen = [make.other(nuts[0][number], row) for row in rows]
        assert number not in chosen and len(set(chosen)) == 11
    alone = {"nsa": nuts[0][:1], "nsa_foregrounds": nuts[1][:1]}
    assert AnomalySynthesiser(settings, alone, 0, "x").other(nuts[0][0], rows[3]) == 0


def test_nsa_patches_have_the_configured_sizes():
    """With one patch, no resizing and threshold zero the mask is the patch without its rim."""
    image, other = soft(0, 128), soft(1, 128)
    whole = np.ones((128, 128), bool)
    fixed = {"patches": 1, "gamma_shape": 1e4, "gamma_scale": 1e-5, "smallest": 0.2}
    sides = []
    for largest, expected in ((1.0, 0.3), (0.25, 0.25)):
        settings = params(
            "nsa", "nsa", **fixed, largest=largest, resize=[1.0, 1.0], threshold=0.0
        ).nsa
        for number in range(8):
            _, mask = nsa(image, whole, other, whole, settings, numpy_generator(0, number))
            sides = [np.ptp(i) + 1 for i in np.nonzero(mask)]
            assert all(expected * 128 - 6 <= side <= expected * 128 + 2 for side in sides)
