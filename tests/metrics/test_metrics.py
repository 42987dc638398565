"""The metrics against independent implementations and manual counts, and invalid input."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import plain_metrics as plain
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from realnet.metrics import (
    LIMITS,
    Localisation,
    MetricInputError,
    UndefinedMetricWarning,
    image_ap,
    image_auroc,
    image_f1_max,
    image_score,
    image_separation,
    label_regions,
    localise,
    pixel_metrics,
    pooled_maximum,
)

SHAPES = ("noise", "coarse", "smooth")


def case(kind: str, seed: int, images: int = 5, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Maps with few or many ties, with regions from one pixel to half an image, or none."""
    rng = np.random.default_rng([seed, SHAPES.index(kind)])
    masks = ndimage.gaussian_filter(rng.normal(size=(images, side, side)), (0, 1, 1)) > 0.35
    masks[0] = False
    masks[1] &= rng.random((side, side)) < 0.3
    margins = rng.normal(size=masks.shape) + masks * rng.uniform(0, 2)
    if kind == "coarse":
        margins = np.round(margins)
    if kind == "smooth":
        margins = ndimage.gaussian_filter(margins, (0, 1, 1))
    return margins.astype(np.float32), masks


def by_pixels(found: Localisation) -> dict[tuple[int, ...], np.ndarray]:
    """Values of each region by its pixels, since the order within an image is unspecified."""
    ends = found.regions.starts + found.regions.areas
    spans = zip(found.regions.starts, ends, strict=True)
    pixels = [tuple(sorted(found.regions.pixels[start:end].tolist())) for start, end in spans]
    return dict(zip(pixels, found.per_region, strict=True))


# --- against independent implementations ----------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_pro_of_every_region_matches_pair_counts(kind: str, seed: int):
    margins, masks = case(kind, seed)
    found = localise(margins, masks)
    values = by_pixels(found)
    regions = plain.all_components(masks)
    assert len(values) == len(regions)
    for column, limit in enumerate(LIMITS):
        exact = plain.pair_pro(margins, masks, limit)
        assert found.pro[limit] == pytest.approx(float(sum(exact) / len(exact)), abs=1e-14)
        for (index, region), area in zip(regions, exact, strict=True):
            key = tuple((np.flatnonzero(region) + index * region.size).tolist())
            assert values[key][column] == pytest.approx(float(area), abs=1e-14)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_pro_matches_the_area_under_the_sorted_curve(kind: str, seed: int):
    margins, masks = case(kind, seed, images=8, side=40)
    limits = (*LIMITS, 0.002, 0.77)
    found = localise(margins, masks, limits)
    curve = plain.pro_curve(margins.astype(np.float64), masks)
    for limit in limits:
        assert found.pro[limit] == pytest.approx(plain.area_below(*curve, limit), abs=1e-12)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_pixel_metrics_match_pair_counts_and_sklearn(kind: str, seed: int):
    margins, masks = case(kind, seed)
    found = localise(margins, masks)
    truth, scores = masks.ravel(), margins.ravel()
    exact = plain.pair_auroc(scores, truth)
    assert found.auroc == pytest.approx(float(exact), abs=1e-15)
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-13)
    assert found.ap == pytest.approx(average_precision_score(truth, scores), abs=1e-13)
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    assert found.f1_max == pytest.approx(best, abs=1e-13)
    for index, mask in enumerate(masks):
        if mask.any():
            joined = np.r_[margins[index][mask], margins[~masks]]
            own = plain.pair_auroc(joined, np.arange(len(joined)) < mask.sum())
            assert found.separation[index] == pytest.approx(float(own), abs=1e-14)
        else:
            assert np.isnan(found.separation[index])
    pixels = masks.sum((1, 2))
    mean = np.nansum(found.separation * pixels) / pixels.sum()
    assert mean == pytest.approx(found.auroc, abs=1e-12)
    np.testing.assert_array_equal(image_separation(margins, masks), found.separation)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_image_metrics_match_sklearn(rounded: bool, seed: int):
    rng = np.random.default_rng(seed)
    labels = rng.random(70) < 0.7
    scores = rng.normal(size=70) + labels
    scores = np.round(scores) if rounded else scores
    assert image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    expected = average_precision_score(labels, scores)
    assert image_ap(scores, labels) == pytest.approx(expected, abs=1e-14)
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    assert image_f1_max(scores, labels) == pytest.approx(best, abs=1e-14)


@pytest.mark.parametrize("kind", SHAPES)
def test_metrics_by_defect_and_size_are_means_over_their_regions(kind: str):
    margins, masks = case(kind, 7, images=6)
    defects = ["good", "hole", "cut", "hole", "cut", "cut"]
    found = localise(margins, masks)
    exact = np.array([float(area) for area in plain.pair_pro(margins, masks, 0.3)])
    regions = plain.all_components(masks)
    normal = margins[~masks]
    for name, part in found.by_defect(defects).items():
        chosen = np.array([defects[index] == name for index, _ in regions])
        assert part["regions"] == chosen.sum() > 0
        assert part["pro"] == pytest.approx(exact[chosen].mean(), abs=1e-13)
        own = np.array(defects) == name
        scores = np.r_[margins[own][masks[own]], normal]
        truth = np.arange(len(scores)) < masks[own].sum()
        assert part["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-13)
    share = np.array([region.mean() for _, region in regions])
    small, large = found.by_size(edges=(0.05,)).values()
    assert small["pro"] == pytest.approx(exact[share < 0.05].mean(), abs=1e-13)
    assert large["pro"] == pytest.approx(exact[share >= 0.05].mean(), abs=1e-13)
    assert (small["regions"], large["regions"]) == ((share < 0.05).sum(), (share >= 0.05).sum())


_levels = hnp.arrays(np.int8, (2, 5, 5), elements=st.integers(-4, 4))
_masks = hnp.arrays(np.bool_, (2, 5, 5)).filter(lambda m: m.any() and not m.all())


@settings(max_examples=40, deadline=None)
@given(_levels, _masks, st.floats(0.01, 1.0))
def test_arbitrary_small_cases_match_pair_counts_and_the_curve(levels, masks, limit: float):
    result = pixel_metrics(levels, masks, limit)
    curve = plain.pro_curve(levels.astype(np.float64), masks)
    assert result["pro"] == pytest.approx(plain.area_below(*curve, limit), abs=1e-9)
    areas = plain.pair_pro(levels, masks, limit)
    assert result["pro"] == pytest.approx(float(sum(areas) / len(areas)), abs=1e-12)
    exact = plain.pair_auroc(levels.ravel(), masks.ravel())
    assert result["pixel_auroc"] == pytest.approx(float(exact), abs=1e-15)
    assert result["regions"] == len(areas)
    assert (result["defect_pixels"], result["normal_pixels"]) == (masks.sum(), (~masks).sum())


# --- AUPIMO ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pimo_case() -> tuple[np.ndarray, np.ndarray]:
    """1.2 million normal pixels: 12 false positives at the lowest rate, 118 at the highest."""
    rng = np.random.default_rng(3)
    margins = rng.normal(size=(24, 256, 256)).astype(np.float32)
    masks = np.zeros(margins.shape, bool)
    for index in range(18, 24):
        top, left = rng.integers(0, 200, 2)
        masks[index, top : top + 40, left : left + 40] = True
        margins[index] += masks[index] * np.float32(index - 18 + 0.5)
    return margins, masks


def test_aupimo_matches_the_published_one_up_to_its_thresholds(pimo_case):
    expected = plain.aupimo_of_thresholds(*pimo_case)
    found = localise(*pimo_case).aupimo
    assert np.isnan(found[:18]).all()
    assert np.nanmin(found) < 0.1
    assert np.nanmax(found) > 0.9
    # Rates are 12, 13, ... pixels: the published code starts at the one closest to the bound.
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("coarse", [False, True])
def test_aupimo_is_the_mean_recall_over_log_rates(pimo_case, coarse: bool):
    margins, masks = pimo_case
    margins = np.round(margins * 2) / 2 if coarse else margins  # then steps span the whole range
    expected = plain.aupimo_of_curve(margins, masks)
    np.testing.assert_allclose(localise(margins, masks).aupimo, expected, atol=1e-6)


def test_aupimo_counted_by_hand():
    """100,000 normal pixels, 20 of which score 1, 2, ..., 20; one defect of four pixels."""
    margins = np.zeros((2, 400, 250), np.float32)
    margins[0].flat[:20] = np.arange(1, 21)
    masks = np.zeros(margins.shape, bool)
    masks[1, 0, :4] = True
    margins[1, 0, :4] = 30, 19.5, 17.5, 2.5  # 0, 1, 3 and 18 normal pixels score higher
    margins[1, 5] = 99  # false positives on defective images do not count
    expected = (1 + 1 + (1 - np.log10(3)) + 0) / 4
    assert localise(margins, masks).aupimo[1] == pytest.approx(expected, abs=1e-12)
    # An image that is labelled anomalous but has no mask is not normal.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        assert np.isnan(localise(margins, masks, labels=[1, 1]).aupimo).all()


# --- manually counted cases -----------------------------------------------------------------------


def test_annulus():
    """Ring of 16 pixels around a hole of 9; the hole is normal, and the first false positive."""
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 5:10, 5:10] = True
    masks[0, 6:9, 6:9] = False
    margins = np.zeros(masks.shape, np.float32)
    margins[0, 5:10, 5:10] = 1
    found = localise(margins, masks, limits=(0.3, 9 / 384, 0.01))
    assert (found.regions.count, found.defect_pixels, found.normal_pixels) == (1, 16, 384)
    # The curve rises from (0, 0) to (9 / 384, 1) and is constant afterwards.
    assert found.pro[0.3] == pytest.approx((0.3 - 9 / 384 / 2) / 0.3, abs=1e-15)
    assert found.pro[9 / 384] == pytest.approx(0.5, abs=1e-15)
    assert found.pro[0.01] == pytest.approx(0.01 / (9 / 384) / 2, abs=1e-15)
    assert found.auroc == pytest.approx((375 + 9 / 2) / 384, abs=1e-15)
    assert found.ap == pytest.approx(16 / 25, abs=1e-15)
    assert found.f1_max == pytest.approx(2 * 16 / (16 + 25), abs=1e-15)


@pytest.mark.parametrize("value", [0.0, -3.5, np.inf, -np.inf])
def test_all_ties(value: float):
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 0, :3], masks[1, 4, 4] = True, True
    found = localise(np.full(masks.shape, value), masks)
    for limit in LIMITS:
        assert found.pro[limit] == pytest.approx(limit / 2, abs=1e-15)
    assert found.auroc == 0.5
    assert found.ap == pytest.approx(4 / 50, abs=1e-15)
    assert found.f1_max == pytest.approx(2 * 4 / (4 + 50), abs=1e-15)


def test_limit_on_a_tie():
    """Ten normal pixels; three tie with half of the only region, the other half scores lowest."""
    margins = np.array([[[5, 5, 5, 1, 1, 1, 1, 1, 1, 1, 5, 0]]], np.float32)
    masks = np.zeros(margins.shape, bool)
    masks[0, 0, 10:] = True
    found = localise(margins, masks, limits=(0.3, 0.15, 0.65, 1.0))
    assert found.regions.count == 1
    # Up to 1/2 over [0, 0.3]; constant until 1, where the rest is detected.
    assert found.pro[0.3] == pytest.approx(0.25, abs=1e-15)
    assert found.pro[0.15] == pytest.approx(0.125, abs=1e-15)
    assert found.pro[0.65] == pytest.approx((0.3 * 0.25 + 0.35 * 0.5) / 0.65, abs=1e-15)
    assert found.pro[1.0] == pytest.approx(0.3 * 0.25 + 0.7 * 0.5, abs=1e-15)


def test_one_image_and_a_region_at_its_border():
    masks = np.zeros((1, 6, 6), bool)
    masks[0, 0, :], masks[0, :, 0] = True, True  # an L along two edges, 11 pixels
    masks[0, 5, 5] = True  # the opposite corner: no neighbour across the border
    margins = masks.astype(np.float32)
    margins[0, 5, 5] = -1
    found = localise(margins, masks)
    assert sorted(found.regions.areas.tolist()) == [1, 11]
    assert sorted(found.per_region[:, 0].tolist()) == [0, 1]
    assert found.pro[0.3] == 0.5
    assert found.auroc == pytest.approx(11 / 12, abs=1e-15)


def test_diagonal_scratch_is_one_region():
    masks = np.zeros((2, 50, 50), bool)
    masks[0][np.arange(5, 45), np.arange(5, 45)] = True
    masks[1][np.arange(44, 4, -1), np.arange(5, 45)] = True
    assert label_regions(masks).areas.tolist() == [40, 40]
    # Half of the first and all of the second region score above every normal pixel.
    margins = masks.astype(np.float32)
    margins[0, 25:] = -masks[0, 25:].astype(np.float32)
    assert localise(margins, masks).pro[0.3] == pytest.approx((20 / 40 + 1) / 2, abs=1e-15)


def test_regions_match_plain_connected_components():
    masks = np.random.default_rng(0).random((6, 30, 30)) < 0.33
    regions = label_regions(masks)
    ends = regions.starts + regions.areas
    found = {
        frozenset(regions.pixels[start:end].tolist())
        for start, end in zip(regions.starts, ends, strict=True)
    }
    expected = {
        frozenset((np.flatnonzero(region) + index * region.size).tolist())
        for index, region in plain.all_components(masks)
    }
    assert found == expected
    assert regions.images.tolist() == [index for index, _ in plain.all_components(masks)]


@pytest.mark.parametrize("value", [False, True])
def test_no_defect_and_all_defect(value: bool):
    masks = np.full((2, 4, 4), value)
    with pytest.warns(UndefinedMetricWarning):
        found = localise(np.arange(32.0).reshape(masks.shape), masks)
    values = [found.auroc, found.ap, found.f1_max, *found.pro.values()]
    assert np.isnan(values).all()
    assert np.isnan(found.aupimo).all()
    assert np.isnan(found.separation).all()
    assert found.per_region.shape == (2 * value, len(LIMITS))


def test_perfect_and_inverted_scores_are_one_and_zero():
    masks = case("noise", 0)[1]
    assert pixel_metrics(masks.astype(float), masks)["pro"] == 1
    assert pixel_metrics(masks.astype(float), masks)["pixel_auroc"] == 1
    inverted = pixel_metrics(-masks.astype(float), masks)
    assert inverted["pixel_auroc"] == 0  # never flipped
    assert inverted["pro"] == 0


def test_every_region_has_equal_weight():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :4, :4] = True  # 16 pixels, detected
    masks[0, 9, 9] = True  # 1 pixel, below all normal ones
    margins = np.where(masks, 2.0, 1.0)
    margins[0, 9, 9] = 0.0
    assert pixel_metrics(margins, masks)["pro"] == pytest.approx(0.5)


def test_infinities_are_scores():
    margins = np.array([[[-np.inf, 0.0, np.inf, np.inf]]])
    masks = np.array([[[False, False, True, True]]])
    assert pixel_metrics(margins, masks)["pro"] == 1


def test_neighbouring_images_are_not_connected():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 3], masks[1, 0] = True, True
    assert pixel_metrics(np.zeros(masks.shape), masks)["regions"] == 2


@pytest.mark.parametrize("value", [False, True])
def test_one_class_only_is_undefined_not_zero(value: bool):
    masks = np.full((2, 4, 4), value)
    with pytest.warns(UndefinedMetricWarning, match="no (normal|anomalous) pixels"):
        result = pixel_metrics(np.zeros(masks.shape), masks)
    for key in ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"):
        assert np.isnan(result[key])
    assert result["regions"] == (2 if value else 0)
    with pytest.warns(UndefinedMetricWarning, match="image_auroc"):
        assert np.isnan(image_auroc([0.1, 0.2], [value, value]))
    with pytest.warns(UndefinedMetricWarning, match="image_ap"):
        assert np.isnan(image_ap([0.1, 0.2], [value, value]))


def test_no_warnings_if_everything_is_defined():
    margins, masks = case("coarse", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixel_metrics(margins, masks)
        image_separation(margins, masks)


# --- image score ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [1, 2, 3, 7])
def test_image_score_is_the_maximum_of_average_pooled_probabilities(pool: int):
    margins = np.random.default_rng(0).normal(size=(3, 9, 7)).astype(np.float32) * 5
    probability = torch.sigmoid(torch.from_numpy(margins).double())
    pooled = torch.nn.functional.avg_pool2d(probability[:, None], pool, stride=1)
    expected = pooled.amax(dim=(1, 2, 3)).numpy()
    scores = image_score(margins, pool)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=1e-14)
    np.testing.assert_array_equal(image_score(torch.from_numpy(margins), pool), scores)


def test_equal_windows_have_equal_scores_at_any_position():
    """A running sum would accumulate rounding errors and break the tie."""
    maps = np.full((2, 64, 64), 0.1)
    maps[0, :, :8] = 0.7
    maps[1, :, -8:] = 0.7
    first, second = pooled_maximum(maps, 8)
    assert first == second


def test_saturated_margins_rank_in_float64():
    margins = np.array([20.0, 25.0, 30.0], np.float32).reshape(3, 1, 1)
    assert len(set(image_score(margins, 1))) == 3
    assert len(set(image_score(margins, 1).astype(np.float32))) == 1  # the reason for float64


# --- invalid input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pixel_metrics(np.zeros((4, 4)), np.zeros((4, 4))), "images x height x width"),
        (lambda: pixel_metrics(np.zeros((1, 4, 4)), np.zeros((1, 4, 5))), "resize"),
        (lambda: pixel_metrics(np.zeros((0, 4, 4)), np.zeros((0, 4, 4))), "shape"),
        (lambda: pixel_metrics(np.full((1, 2, 2), np.nan), np.eye(2)[None]), "NaN"),
        (lambda: pixel_metrics(np.zeros((1, 2, 2)), np.full((1, 2, 2), np.nan)), "masks contain"),
        (lambda: pixel_metrics(np.array([[["a"]]]), np.ones((1, 1, 1))), "real numbers"),
        (lambda: pixel_metrics(np.zeros((1, 2, 2)), np.eye(2)[None], 0.0), "pro_limit"),
        (lambda: pixel_metrics(np.zeros((1, 2, 2)), np.eye(2)[None], 1.5), "pro_limit"),
        (lambda: image_auroc([0.1, 0.2], [1]), "one length"),
        (lambda: image_auroc([0.1, np.nan], [1, 0]), "NaN"),
        (lambda: image_auroc([], []), "one length"),
        (lambda: image_score(np.zeros((2, 4, 4)), 5), "pool 5"),
        (lambda: image_score(np.zeros((2, 4, 4)), 0), "pool 0"),
        (lambda: image_score(np.full((2, 4, 4), np.nan), 2), "map 0 contains NaN"),
    ],
)
def test_bad_input_is_one_line(call, message: str):
    with pytest.raises(MetricInputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_single_nan_among_many_scores_is_found():
    for position in (0, 500, 999):
        margins, masks = np.zeros((1, 10, 100)), np.zeros((1, 10, 100), bool)
        masks[0, 0, :3] = True
        margins.flat[position] = np.nan
        with pytest.raises(MetricInputError, match="NaN"):
            pixel_metrics(margins, masks)


# --- 26 million pixels ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 0.01])
def test_counts_are_exact_over_26_million_pixels(step: float):
    rng = np.random.default_rng(0)
    margins = rng.standard_normal((400, 256, 256), dtype=np.float32)
    masks = np.zeros(margins.shape, bool)
    for index in range(100, 400):
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, 240, 2)
            height, width = np.exp(rng.uniform(0, 4.2, 2)).astype(int)
            masks[index, top : top + height, left : left + width] = True
    margins[masks] += np.float32(1.5)
    if step:
        margins = np.round(margins / np.float32(step)).astype(np.int16)
    found = localise(margins, masks)
    curve = plain.pro_curve(margins.astype(np.float64), masks)
    for limit in LIMITS:
        assert found.pro[limit] == pytest.approx(plain.area_below(*curve, limit), abs=1e-12)
    truth, scores = masks.ravel(), margins.ravel()
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found.ap == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


# --- images without pixel ground truth ------------------------------------------------------------

LABELLED = np.array([True, True, False, True, False, True])


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("on", ["numpy", "torch"])
def test_pixel_metrics_leave_out_images_without_ground_truth(kind, on):
    """Whatever their maps and masks say: the metrics are those of the other images alone."""
    margins, masks = case(kind, 5, images=6)
    labels = masks.any((1, 2)) | ~LABELLED
    names = np.array(list("aabbcc"))
    options = {"on": on, "limits": LIMITS}
    found = localise(margins, masks, labels=labels, pixel_labelled=LABELLED, **options)
    alone = localise(margins[LABELLED], masks[LABELLED], labels=labels[LABELLED], **options)
    assert found.auroc == pytest.approx(
        roc_auc_score(masks[LABELLED].ravel(), margins[LABELLED].ravel())
    )
    for name in ("auroc", "ap", "f1_max", "pro", "defect_pixels", "normal_pixels"):
        assert getattr(found, name) == getattr(alone, name), name
    assert found.by_defect(names) == alone.by_defect(names[LABELLED])
    assert found.by_size() == alone.by_size()
    for name in ("aupimo", "separation"):  # the others keep their index
        np.testing.assert_array_equal(getattr(found, name)[LABELLED], getattr(alone, name))
        assert np.isnan(getattr(found, name)[~LABELLED]).all()
    np.testing.assert_array_equal(
        image_separation(margins, masks, LABELLED)[LABELLED], alone.separation
    )


def test_an_image_without_ground_truth_is_no_normal_image_without_labels():
    margins, masks = case("noise", 6, images=6)
    masks[2] = False
    found = localise(margins, masks, pixel_labelled=LABELLED)
    alone = localise(margins[LABELLED], masks[LABELLED])
    np.testing.assert_array_equal(found.aupimo[LABELLED], alone.aupimo)
    assert found.ranks_in_normal.normals == alone.ranks_in_normal.normals


def test_pixel_labelled_has_one_value_per_image():
    margins, masks = case("noise", 7)
    with pytest.raises(MetricInputError, match="pixel_labelled: expected 5, one per image"):
        localise(margins, masks, pixel_labelled=LABELLED)
