"""Intervals and tests against recomputed resamples, simulations, and manual calculations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import plain_metrics as plain
from scipy import ndimage
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from realnet.evaluation.stored import load_per_image, save_per_image
from realnet.metrics import (
    BOOTSTRAPPED,
    PerImage,
    bootstrap,
    holm,
    interval,
    mean_samples,
    per_image,
    two_sided_p,
)
from realnet.metrics.uncertainty import metric_of, resample

IMAGE, PIXEL = BOOTSTRAPPED[:2], BOOTSTRAPPED[2:]


def small_set(seed: int, lift: float = 1.2, levels: int = 0, images: int = 20, side: int = 24):
    """Margins, masks, scores, labels, strata of a small test set with two defect types.

    ``levels``: round to so few scores that each is a threshold of the statistics.
    """
    rng = np.random.default_rng(seed)
    strata = np.array(["good", "hole", "cut", "good", "cut"])[np.arange(images) % 5]
    labels = strata != "good"
    margins = ndimage.gaussian_filter(rng.normal(size=(images, side, side)), (0, 1, 1)) * 2
    masks = ndimage.gaussian_filter(rng.normal(size=margins.shape), (0, 2, 2)) > 0.13
    masks &= labels[:, None, None]
    masks[labels, 3:6, 3:6] = True
    margins += masks * rng.uniform(0, 2 * lift, (images, 1, 1))
    if levels:
        margins = np.floor(levels * norm.cdf(margins / 2))
    margins = margins.astype(np.float32)
    scores = margins.max((1, 2)) + rng.normal(size=images)
    return margins, masks, np.round(scores, 1), labels, strata


def recomputed(metric: str, made, weights: np.ndarray) -> float:
    """The metric of the set in which image i occurs weights[i] times."""
    margins, masks, scores, labels, _ = (np.repeat(values, weights, axis=0) for values in made)
    if metric == "pro":
        curve = plain.pro_curve(margins.astype(np.float64), masks)
        return plain.area_below(*curve, 0.3)
    truth, values = (masks, margins) if metric.startswith("pixel") else (labels, scores)
    score = average_precision_score if metric.endswith("ap") else roc_auc_score
    return score(truth.ravel(), values.ravel())


# --- samples equal the metrics of resampled images ------------------------------------------------


@pytest.mark.parametrize("metric", IMAGE)
def test_resampled_image_metrics_are_exact(metric: str):
    made = small_set(0)
    samples = bootstrap(per_image(*made), metric, count=60, seed=5, name="nut")
    weights = resample(made[4], 60, 5, "nut")
    expected = [recomputed(metric, made, w) for w in weights]
    np.testing.assert_allclose(samples, expected, atol=1e-12)
    assert np.std(samples) > 0.01


@pytest.mark.parametrize(
    ("metric", "tolerance"), [("pixel_auroc", 5e-4), ("pixel_ap", 1e-3), ("pro", 5e-4)]
)
def test_resampled_pixel_metrics_are_accurate(metric: str, tolerance: float):
    made = small_set(1)
    samples = bootstrap(per_image(*made), metric, count=20, seed=5, name="nut")
    expected = [recomputed(metric, made, w) for w in resample(made[4], 20, 5, "nut")]
    np.testing.assert_allclose(samples, expected, atol=tolerance)
    assert np.abs(samples - expected).max() < np.std(expected) / 10


@pytest.mark.parametrize(("metric", "tolerance"), [("pixel_auroc", 1e-12), ("pro", 1e-6)])
def test_resampled_pixel_metrics_are_exact_with_all_thresholds(metric: str, tolerance: float):
    made = small_set(2, levels=20)
    samples = bootstrap(per_image(*made), metric, count=20)
    expected = [recomputed(metric, made, w) for w in resample(made[4], 20)]
    np.testing.assert_allclose(samples, expected, atol=tolerance)


@pytest.mark.parametrize("limit", [0.05, 1.0])
def test_resampled_pro_uses_its_limit(limit: float):
    made = small_set(3)
    ones = np.ones((1, len(made[0])), np.int64)
    found = metric_of(per_image(*made, pro_limit=limit), "pro", ones)[0]
    curve = plain.pro_curve(made[0].astype(np.float64), made[1])
    assert found == pytest.approx(plain.area_below(*curve, limit), abs=5e-4)


@pytest.mark.parametrize("metric", BOOTSTRAPPED)
def test_the_order_of_images_changes_no_value_and_no_distribution(metric: str):
    made = small_set(4)
    order = np.random.default_rng(0).permutation(len(made[0]))
    here, there = per_image(*made), per_image(*(values[order] for values in made))
    weights = resample(made[4], 50)
    values = metric_of(here, metric, weights)
    np.testing.assert_allclose(values, metric_of(there, metric, weights[:, order]), atol=1e-6)
    first, second = (bootstrap(stats, metric, count=4000) for stats in (here, there))
    assert first.mean() == pytest.approx(second.mean(), abs=4 * first.std() / np.sqrt(2000))
    assert first.std() == pytest.approx(second.std(), rel=0.1)


# --- resampled images -----------------------------------------------------------------------------


def test_strata_keep_their_sizes_and_images_are_sampled_uniformly():
    strata = np.array(["good"] * 6 + ["cut"] * 3 + ["hole"])
    weights = resample(strata, 5000, seed=1, name="nut")
    assert weights.shape == (5000, 10)
    for stratum, size in (("good", 6), ("cut", 3), ("hole", 1)):
        own = weights[:, strata == stratum]
        assert (own.sum(1) == size).all()
        np.testing.assert_allclose(own.mean(0), 1, atol=5 / np.sqrt(5000))
        # Multinomial: `size` draws, each with probability 1 / size.
        np.testing.assert_allclose(own.var(0), 1 - 1 / size, atol=0.1)


def test_resamples_depend_only_on_seed_name_and_strata():
    first, second = small_set(5), small_set(6, lift=0.4)
    assert np.array_equal(first[4], second[4])
    one, two = per_image(*first), per_image(*second)
    assert np.array_equal(bootstrap(one, "pro", 50, 3, "nut"), bootstrap(one, "pro", 50, 3, "nut"))
    for other in ({"seed": 4}, {"name": "cable"}):
        options = {"seed": 3, "name": "nut"} | other
        assert not np.array_equal(
            bootstrap(one, "pro", 50, 3, "nut"), bootstrap(one, "pro", 50, **options)
        )
    # So a difference of two variants is on the same images.
    difference = bootstrap(two, "image_auroc", 30, 3, "nut") - bootstrap(
        one, "image_auroc", 30, 3, "nut"
    )
    for sample, weights in zip(difference, resample(first[4], 30, 3, "nut"), strict=True):
        expected = recomputed("image_auroc", second, weights) - recomputed(
            "image_auroc", first, weights
        )
        assert sample == pytest.approx(expected, abs=1e-12)


def test_paired_differences_have_less_variance():
    made = small_set(7)
    worse = (made[0], made[1], made[2] - 0.3 * made[3], *made[3:])
    one, two = per_image(*made), per_image(*worse)
    paired = bootstrap(one, "image_auroc") - bootstrap(two, "image_auroc")
    unpaired = bootstrap(one, "image_auroc") - bootstrap(two, "image_auroc", seed=1)
    assert paired.std() < unpaired.std() / 3
    assert (paired >= 0).all()


@pytest.mark.parametrize("metric", BOOTSTRAPPED)
def test_mean_over_seeds_then_categories_on_common_images(metric: str):
    def seeds(first: int, images: int) -> list[PerImage]:
        return [per_image(*small_set(first + k, images=images)) for k in range(3)]

    groups = {"nut": seeds(10, 20), "cable": seeds(20, 30)}
    found = mean_samples(groups, metric, count=25, seed=9)
    means = []
    for name, stats in groups.items():
        means.append(np.mean([bootstrap(one, metric, 25, 9, name) for one in stats], axis=0))
    np.testing.assert_allclose(found, (means[0] + means[1]) / 2, atol=1e-12)


# --- coverage of the intervals --------------------------------------------------------------------


def test_coverage_of_the_image_auroc():
    """The true AUROC of two normal distributions 1.5 apart is Phi(1.5 / sqrt 2)."""
    truth, rng = norm.cdf(1.5 / math.sqrt(2)), np.random.default_rng(0)
    labels = np.arange(90) >= 40
    strata = np.where(labels, "bad", "good")
    hits = 0
    for trial in range(100):
        scores = rng.normal(size=90) + 1.5 * labels
        samples = bootstrap(
            per_image(None, None, scores, labels, strata), "image_auroc", 300, trial
        )
        low, high = interval(samples)
        hits += low <= truth <= high
    assert 90 <= hits <= 99


def population(rng, images: int):
    """Defects of many strengths: the variance between images exceeds that between pixels."""
    margins = rng.normal(size=(images, 12, 12)).astype(np.float32)
    masks = np.zeros(margins.shape, bool)
    for index in range(images // 4, images):
        top, left = rng.integers(0, 8, 2)
        masks[index, top : top + 4, left : left + 4] = True
    margins += masks * rng.gamma(2, 1, (images, 1, 1)).astype(np.float32)
    labels = masks.any((1, 2))
    return margins, masks, margins.max((1, 2)), labels, np.where(labels, "bad", "good")


@pytest.mark.slow
def test_coverage_of_pixel_metrics():
    """The reference value is computed from 8000 images."""
    made = population(np.random.default_rng(1), 8000)
    truth = {metric: recomputed(metric, made, 1) for metric in PIXEL}
    rng, hits = np.random.default_rng(2), dict.fromkeys(PIXEL, 0)
    for trial in range(120):
        stats = per_image(*population(rng, 40))
        for metric in PIXEL:
            low, high = interval(bootstrap(stats, metric, 200, trial))
            hits[metric] += low <= truth[metric] <= high
    assert all(0.85 * 120 <= hit <= 0.99 * 120 for hit in hits.values()), hits


@pytest.mark.slow
def test_false_positive_rate_of_the_paired_test():
    """Two equally good variants: at 5 % about 10 of 200 trials are false positives."""
    labels = np.arange(80) >= 30
    strata, rng, alarms = np.where(labels, "bad", "good"), np.random.default_rng(3), 0
    for trial in range(200):
        common = rng.normal(size=80) + labels
        pair = [common + rng.normal(size=80) for _ in range(2)]
        one, two = (
            bootstrap(per_image(None, None, scores, labels, strata), "image_auroc", 300, trial)
            for scores in pair
        )
        alarms += two_sided_p(one - two) <= 0.05
    assert 2 <= alarms <= 22


# --- manual calculations --------------------------------------------------------------------------


def test_interval_matches_percentiles():
    samples = np.random.default_rng(0).permutation(1001) / 1000
    assert interval(samples) == pytest.approx((0.025, 0.975), abs=1e-12)
    assert interval(samples, level=0.8) == pytest.approx((0.1, 0.9), abs=1e-12)
    assert np.isnan(interval(np.r_[samples, np.nan])).all()


def test_two_sided_p_by_hand():
    assert two_sided_p(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert two_sided_p(np.full(999, -0.1)) == pytest.approx(2 / 1000)
    mixed = np.r_[np.full(960, 0.1), np.full(39, -0.1)]
    assert two_sided_p(mixed) == pytest.approx(2 * 40 / 1000)
    assert two_sided_p(-mixed) == two_sided_p(mixed)
    assert two_sided_p(np.r_[mixed, 0.0]) == pytest.approx(2 * 40.5 / 1001)
    assert two_sided_p(np.zeros(999)) == 1
    assert math.isnan(two_sided_p(np.array([0.1, np.nan])))


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    with_nan = holm([0.01, math.nan, 0.04])
    assert math.isnan(with_nan[1])
    assert (with_nan[0], with_nan[2]) == pytest.approx((0.02, 0.04))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_matches_the_step_down_procedure(p: list[float]):
    """The procedure: from the smallest p until one exceeds level / number of remaining tests."""
    corrected = holm(p)
    for level in (0.01, 0.05, 0.2, 0.9):
        rejected = set()
        for step, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[k] * (len(p) - step) > level:
                break
            rejected.add(k)
        assert {k for k, value in enumerate(corrected) if value <= level} == rejected


# --- undefined and stored statistics --------------------------------------------------------------


def test_undefined_samples_are_nan():
    margins, masks, scores, labels, strata = small_set(8)
    without = per_image(margins, None, scores, labels, strata)
    assert all(np.isnan(bootstrap(without, metric, 10)).all() for metric in PIXEL)
    assert not any(np.isnan(bootstrap(without, metric, 10)).any() for metric in IMAGE)
    for kept in (labels, ~labels):  # one class of images
        part = per_image(margins[kept], masks[kept], scores[kept], labels[kept], strata[kept])
        assert all(np.isnan(bootstrap(part, metric, 10)).all() for metric in IMAGE)
    normal = per_image(margins, masks & False, scores, labels, strata)
    assert all(np.isnan(bootstrap(normal, metric, 10)).all() for metric in PIXEL)
    assert np.isnan(interval(bootstrap(normal, "pro", 10))).all()
    assert math.isnan(two_sided_p(bootstrap(normal, "pro", 10)))


def test_stored_statistics_give_the_same_resamples(tmp_path):
    stats = per_image(*small_set(9))
    save_per_image(tmp_path / "per_image.npz", stats)
    again = load_per_image(tmp_path / "per_image.npz")
    assert again.key == stats.key
    for metric in BOOTSTRAPPED:
        assert np.array_equal(bootstrap(again, metric, 30), bootstrap(stats, metric, 30))


def test_intervals_of_pixel_metrics_are_those_of_the_images_with_ground_truth():
    margins, masks, scores, labels, strata = made = small_set(10)
    labelled = np.ones(len(labels), bool)
    labelled[[1, 2, 9]] = False
    masks[~labelled] = False
    stats = per_image(*made, pixel_labelled=labelled)
    alone = per_image(*(values[labelled] for values in made))
    for metric in PIXEL:
        found, expected = (bootstrap(each, metric, 20, seed=3) for each in (stats, alone))
        np.testing.assert_array_equal(found, expected)
    assert not (stats.normal_pixels[~labelled].any() or stats.false[~labelled].any())
    weights = np.ones((1, len(labels)), int)
    everything = per_image(margins, None, scores, labels, strata)
    for metric in IMAGE:
        assert metric_of(stats, metric, weights) == metric_of(everything, metric, weights)
