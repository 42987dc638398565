"""Metrics against independent, slow second implementations, and the properties they promise."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from realnet.metrics import (
    MetricInputError,
    UndefinedMetricWarning,
    image_ap,
    image_auroc,
    image_score,
    image_separation,
    pixel_metrics,
    pooled_maximum,
)

# --- oracles: nothing shared with the implementation ----------------------------------------------


def regions_by_flood_fill(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected regions, by walking."""
    open_pixels = set(zip(*np.nonzero(mask), strict=True))
    regions = []
    while open_pixels:
        frontier = [open_pixels.pop()]
        region = []
        while frontier:
            y, x = frontier.pop()
            region.append((y, x))
            for dy, dx in itertools.product((-1, 0, 1), repeat=2):
                if (y + dy, x + dx) in open_pixels:
                    open_pixels.remove((y + dy, x + dx))
                    frontier.append((y + dy, x + dx))
        regions.append(region)
    return regions


def curve_pro(margins: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """AU-PRO from its definition: the curve at every distinct score, cut and interpolated."""
    regions = [(i, r) for i, mask in enumerate(masks) for r in regions_by_flood_fill(mask)]
    normal = margins[~masks]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(margins)[::-1]:
        found = margins >= threshold
        rates.append(float(np.mean(normal >= threshold)))
        overlaps.append(
            float(np.mean([np.mean([found[i, y, x] for y, x in r]) for i, r in regions]))
        )
    area = 0.0
    for k in range(1, len(rates)):
        (x0, x1), (y0, y1) = rates[k - 1 : k + 1], overlaps[k - 1 : k + 1]
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def pair_count_auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    wins = 0.0
    for positive in scores[truth]:
        for negative in scores[~truth]:
            wins += 1.0 if positive > negative else 0.5 if positive == negative else 0.0
    return wins / (truth.sum() * (~truth).sum())


def pair_count_pro(margins: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """The rank form, one defect pixel and one comparison with all normals at a time, O(P n)."""
    regions = [(i, r) for i, mask in enumerate(masks) for r in regions_by_flood_fill(mask)]
    normal = margins[~masks]
    total = 0.0
    for i, region in regions:
        for y, x in region:
            before = sum(v > margins[i, y, x] for v in normal) / len(normal)
            after = sum(v >= margins[i, y, x] for v in normal) / len(normal)
            if after <= limit:
                height = limit - (before + after) / 2
            elif before < limit:
                height = (limit - before) ** 2 / (2 * (after - before))
            else:
                height = 0.0
            total += height / len(region) / len(regions)
    return total / limit


def case(seed: int, ties: bool, images: int = 4, side: int = 10) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    masks = generator.random((images, side, side)) < 0.18
    margins = generator.normal(size=masks.shape) + masks * generator.uniform(0, 3)
    return (np.round(margins * 2) if ties else margins).astype(np.float32), masks


# --- against the oracles --------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pixel_metrics_equal_their_definitions(seed: int, ties: bool, limit: float):
    margins, masks = case(seed, ties)
    result = pixel_metrics(margins, masks, limit)
    assert result["pro"] == pytest.approx(curve_pro(margins, masks, limit), abs=1e-12)
    assert result["pro"] == pytest.approx(pair_count_pro(margins, masks, limit), abs=1e-12)
    flat, truth = margins.ravel(), masks.ravel()
    assert result["pixel_auroc"] == pytest.approx(pair_count_auroc(flat, truth), abs=1e-12)
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(truth, flat), abs=1e-12)
    assert result["pixel_ap"] == pytest.approx(average_precision_score(truth, flat), abs=1e-12)
    best = max(f1_score(truth, flat >= threshold) for threshold in np.unique(flat))
    assert result["pixel_f1_max"] == pytest.approx(best, abs=1e-12)
    assert result["regions"] == sum(len(regions_by_flood_fill(mask)) for mask in masks)
    assert (result["defect_pixels"], result["normal_pixels"]) == (truth.sum(), (~truth).sum())


@pytest.mark.parametrize("ties", [False, True])
def test_image_metrics_equal_sklearn(ties: bool):
    generator = np.random.default_rng(1)
    labels = generator.random(60) < 0.4
    scores = generator.normal(size=60) + labels
    scores = np.round(scores) if ties else scores
    assert image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert image_ap(scores, labels) == pytest.approx(expected, abs=1e-12)


_levels = hnp.arrays(np.int8, (2, 5, 5), elements=st.integers(-4, 4))
_masks = hnp.arrays(np.bool_, (2, 5, 5)).filter(lambda m: m.any() and not m.all())


@settings(max_examples=60, deadline=None)
@given(_levels, _masks, st.floats(0.01, 1.0))
def test_any_small_case_equals_the_curve(levels: np.ndarray, masks: np.ndarray, limit: float):
    result = pixel_metrics(levels, masks, limit)
    assert result["pro"] == pytest.approx(curve_pro(levels, masks, limit), abs=1e-9)
    truth = masks.ravel()
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(truth, levels.ravel()), abs=1e-12)


# --- cases with an answer known by hand -----------------------------------------------------------


def test_perfect_and_inverted_scores_are_one_and_zero():
    masks = case(0, ties=False)[1]
    assert pixel_metrics(masks.astype(float), masks)["pro"] == 1
    assert pixel_metrics(masks.astype(float), masks)["pixel_auroc"] == 1
    inverted = pixel_metrics(-masks.astype(float), masks)
    assert inverted["pixel_auroc"] == 0  # never flipped
    assert inverted["pro"] == 0


@pytest.mark.parametrize("limit", [0.1, 0.3, 1.0])
def test_all_ties_are_the_diagonal(limit: float):
    masks = case(2, ties=False)[1]
    result = pixel_metrics(np.zeros(masks.shape), masks, limit)
    assert result["pixel_auroc"] == 0.5
    assert result["pro"] == pytest.approx(limit / 2)
    assert result["pixel_ap"] == pytest.approx(masks.mean())


def test_every_region_weighs_the_same_whatever_its_area():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :4, :4] = True  # 16 pixels, found
    masks[0, 9, 9] = True  # 1 pixel, below all normal ones
    margins = np.where(masks, 2.0, 1.0)
    margins[0, 9, 9] = 0.0
    assert pixel_metrics(margins, masks)["pro"] == pytest.approx(0.5)


def test_annulus_counts_its_hole_as_normal():
    radius = np.hypot(*np.mgrid[-7:8, -7:8])[None]
    disc, masks = radius < 6, (radius < 6) & (radius >= 3)
    hole = disc & ~masks
    margins = disc.astype(float)  # the hole is a false alarm
    rate = hole.sum() / (~masks).sum()
    assert 0 < rate < 0.3
    result = pixel_metrics(margins, masks)
    assert result["regions"] == 1
    # From (0, 0) straight to (rate, 1), then along 1.
    assert result["pro"] == pytest.approx((0.3 - rate / 2) / 0.3)


def test_diagonal_neighbours_are_one_region():
    masks = np.eye(8, dtype=bool)[None]
    assert pixel_metrics(np.zeros(masks.shape), masks)["regions"] == 1
    masks = np.concatenate([masks, masks])  # but images never touch
    assert pixel_metrics(np.zeros(masks.shape), masks)["regions"] == 2


def test_ring_at_the_border_and_neighbouring_images_stay_apart():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 3], masks[1, 0] = True, True
    assert pixel_metrics(np.zeros(masks.shape), masks)["regions"] == 2


def test_a_tie_that_ends_exactly_at_the_limit():
    # 10 normal pixels, 3 of them at 1: the false positive rate jumps to 0.3 at the threshold 1.
    margins = np.array([[[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]]], float)
    masks = np.zeros((1, 1, 12), bool)
    masks[0, 0, 10:] = True
    # Overlap rises from 0 to 1/2 over [0, 0.3].
    assert pixel_metrics(margins, masks, 0.3)["pro"] == pytest.approx(0.25)
    # Just above the limit, the curve is interpolated: half of the way up at half of the step.
    assert pixel_metrics(margins, masks, 0.15)["pro"] == pytest.approx(0.125)


def test_infinities_are_scores():
    margins = np.array([[[-np.inf, 0.0, np.inf, np.inf]]])
    masks = np.array([[[False, False, True, True]]])
    assert pixel_metrics(margins, masks)["pro"] == 1


# --- undefined ------------------------------------------------------------------------------------


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


# --- invariances ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform",
    [lambda v: v * 3 - 100, np.exp, np.arctan, lambda v: 1 / (1 + np.exp(-v)), lambda v: v**3],
)
def test_strictly_monotone_maps_change_nothing(transform):
    margins, masks = case(3, ties=True)
    assert pixel_metrics(transform(margins.astype(np.float64)), masks) == pixel_metrics(
        margins, masks
    )


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)))
def test_order_of_images_changes_nothing(order: list[int]):
    margins, masks = case(4, ties=True, images=6)
    expected, found = pixel_metrics(margins, masks), pixel_metrics(margins[order], masks[order])
    assert found.pop("pro") == pytest.approx(expected.pop("pro"), abs=1e-14)
    assert found.pop("pixel_ap") == pytest.approx(expected.pop("pixel_ap"), abs=1e-14)
    assert found == expected


def test_torch_and_every_dtype_agree():
    margins, masks = case(5, ties=True)
    expected = pixel_metrics(margins, masks)
    assert pixel_metrics(torch.from_numpy(margins), torch.from_numpy(masks)) == expected
    assert pixel_metrics(torch.from_numpy(margins).bfloat16(), masks) == expected
    for dtype in (np.float16, np.float64, np.int32):
        assert pixel_metrics(margins.astype(dtype), masks.astype(np.uint8) * 255) == expected
    assert pixel_metrics(margins[:, ::-1, ::-1], masks[:, ::-1, ::-1])["pro"] == pytest.approx(
        expected["pro"]
    )


def test_separation_averages_to_the_pixel_auroc():
    margins, masks = case(6, ties=True)
    masks[1] = False
    separation = image_separation(margins, masks)
    assert np.isnan(separation[1])
    assert not np.isnan(separation[[0, 2, 3]]).any()
    for index in (0, 2, 3):
        values = np.concatenate([margins[index][masks[index]], margins[~masks]])
        truth = np.arange(len(values)) < masks[index].sum()
        assert separation[index] == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    weights = masks.sum(axis=(1, 2))
    assert np.nansum(separation * weights) / weights.sum() == pytest.approx(
        pixel_metrics(margins, masks)["pixel_auroc"], abs=1e-12
    )


# --- image score ----------------------------------------------------------------------------------


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


def test_equal_windows_score_equally_wherever_they_are():
    """A running sum would drift along the row and break the tie."""
    maps = np.full((2, 64, 64), 0.1)
    maps[0, :, :8] = 0.7
    maps[1, :, -8:] = 0.7
    first, second = pooled_maximum(maps, 8)
    assert first == second


def test_confident_margins_still_rank_in_float64():
    margins = np.array([20.0, 25.0, 30.0], np.float32).reshape(3, 1, 1)
    assert len(set(image_score(margins, 1))) == 3
    assert len(set(image_score(margins, 1).astype(np.float32))) == 1  # why float64 is asked for


# --- bad input ------------------------------------------------------------------------------------


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


def test_nothing_warns_when_everything_is_defined():
    margins, masks = case(7, ties=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixel_metrics(margins, masks)
        image_separation(margins, masks)
