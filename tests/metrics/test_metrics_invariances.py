"""Transformations that must not change any metric, and the dtypes and values of scores."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import plain_metrics as plain

from realnet.metrics import (
    DefectPixels,
    Localisation,
    MetricInputError,
    NormalCounts,
    UndefinedMetricWarning,
    localise,
)

SIDE = 6
TINY = np.float32(1e-45)  # the smallest subnormal
HUGE = np.finfo(np.float32).max


def everything(found: Localisation) -> tuple:
    """All results, for exact comparison; NaN equals NaN."""
    arrays = (found.per_region, found.aupimo, found.separation, found.regions.areas)
    numbers = (found.auroc, found.ap, found.f1_max, *found.pro.values())
    return *(float(value).hex() for value in numbers), *(array.tobytes() for array in arrays)


def measured(margins, masks, **options) -> Localisation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return localise(margins, masks, **options)


def sets(images: int):
    """Score levels with many ties, and masks with at least one pixel of each class."""
    shape = (images, SIDE, SIDE)
    levels = hnp.arrays(np.int16, shape, elements=st.integers(-9, 9))
    masks = hnp.arrays(np.bool_, shape).filter(lambda m: m.any() and not m.all())
    return st.tuples(levels, masks)


# --- only the order of scores matters -------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(sets(3), st.lists(st.floats(-1e300, 1e300), min_size=19, max_size=19, unique=True))
def test_metrics_are_invariant_to_strictly_monotone_maps(made, ladder: list[float]):
    """Any 19 ascending numbers may replace the 19 levels."""
    levels, masks = made
    steps = np.sort(np.array(ladder))
    assume((np.diff(steps) > 0).all())
    expected = everything(measured(levels, masks))
    assert everything(measured(steps[levels + 9], masks)) == expected


@pytest.mark.parametrize(
    "change",
    [np.arctan, np.cbrt, np.exp, lambda v: 1 / (1 + np.exp(-v)), lambda v: 5 - 3 / (v + 99)],
)
def test_metrics_are_invariant_to_smooth_monotone_maps(change):
    rng = np.random.default_rng(0)
    margins, masks = rng.normal(size=(4, 20, 20)).astype(np.float32), rng.random((4, 20, 20)) < 0.2
    changed = change(margins.astype(np.float64))
    assert len(np.unique(changed)) == len(np.unique(margins))
    assert everything(measured(changed, masks)) == everything(measured(margins, masks))


# --- neither the order of images nor batches matter -----------------------------------------------


@settings(max_examples=30, deadline=None)
@given(sets(6), st.permutations(range(6)))
def test_metrics_are_invariant_to_the_order_of_images(made, order: list[int]):
    levels, masks = made
    here, there = measured(levels, masks), measured(levels[order], masks[order])
    assert [value.hex() for value in (here.auroc, here.ap, here.f1_max, *here.pro.values())] == [
        value.hex() for value in (there.auroc, there.ap, there.f1_max, *there.pro.values())
    ]
    assert here.aupimo[order].tobytes() == there.aupimo.tobytes()
    assert here.separation[order].tobytes() == there.separation.tobytes()


@st.composite
def cuts(draw, count: int) -> list[list[int]]:
    """Consecutive batches of images, in any order."""
    inner = draw(st.sets(st.integers(1, count - 1)))
    edges = [0, *sorted(inner), count]
    runs = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
    return draw(st.permutations(runs))


@settings(max_examples=30, deadline=None)
@given(sets(6), cuts(6), cuts(6), st.data())
def test_batches_and_merging_equal_one_pass(made, first_cuts, second_cuts, data):
    """Each pass has its own batches, distributed to three workers and merged in any order."""
    levels, masks = made
    labels = masks.any((1, 2)) | data.draw(hnp.arrays(np.bool_, 6))  # some have no mask
    labelled = data.draw(hnp.arrays(np.bool_, 6))

    def worked(fresh, runs) -> object:
        workers = [fresh() for _ in range(3)]
        for run in runs:
            worker = workers[data.draw(st.integers(0, 2))]
            of_images = {} if fresh is DefectPixels else {"labels": labels[run]}
            of_images["pixel_labelled"] = labelled[run]
            worker.add(levels[run], masks[run], run[0], **of_images)
        merged, *others = data.draw(st.permutations(workers))
        for other in others:
            merged.merge(other)
        return merged

    defects = worked(DefectPixels, first_cuts)
    counts = worked(lambda: NormalCounts(defects), second_cuts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        found = counts.localisation()
    expected = measured(levels, masks, labels=labels, pixel_labelled=labelled)
    assert everything(found) == everything(expected)


@settings(max_examples=20, deadline=None)
@given(sets(4))
def test_torch_equals_numpy(made):
    levels, masks = made
    margins = levels.astype(np.float32) / 3
    expected = everything(measured(margins, masks))
    tensors = torch.from_numpy(margins), torch.from_numpy(masks)
    assert everything(measured(*tensors)) == expected
    assert everything(measured(*tensors, on="torch")) == expected


def test_a_large_category_in_one_pass_in_batches_and_by_torch():
    """Continuous scores, many regions; large enough for several chunks and threads."""
    rng = np.random.default_rng(1)
    margins = rng.normal(size=(23, 64, 64)).astype(np.float32)
    masks = rng.random(margins.shape) < 0.1
    masks[::4] = False
    expected = everything(measured(margins, masks))
    defects, cut = DefectPixels(), [(0, 5), (5, 6), (6, 23)]
    for first, end in cut:
        defects.add(margins[first:end], masks[first:end], first)
    counts = NormalCounts(defects)
    for first, end in reversed(cut):
        counts.add(margins[first:end], masks[first:end], first)
    assert everything(counts.localisation()) == expected
    assert everything(measured(torch.from_numpy(margins), masks, on="torch")) == expected
    half = torch.from_numpy(margins).bfloat16()
    assert everything(measured(half, masks)) == everything(measured(half.float(), masks))
    mirrored = measured(margins[:, ::-1, :].copy()[:, ::-1, :], masks)  # a view with odd strides
    assert everything(mirrored) == expected


# --- numerical edge cases -------------------------------------------------------------------------


def exact(margins: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> tuple[float, float]:
    areas = plain.pair_pro(margins, masks, limit)
    return float(plain.pair_auroc(margins.ravel(), masks.ravel())), float(sum(areas) / len(areas))


@pytest.mark.parametrize("on", ["numpy", "torch"])
@pytest.mark.parametrize(
    "ladder",
    [
        [-np.inf, -HUGE, -1, -TINY, 0, TINY, 1, HUGE, np.inf],
        [-4 * TINY, -3 * TINY, -2 * TINY, -TINY, 0, TINY, 2 * TINY, 3 * TINY, 4 * TINY],
        [1 + k * 2**-23 for k in range(9)],  # neighbours in float32
    ],
)
def test_adjacent_float32_are_distinct_scores(on: str, ladder: list[float]):
    rng = np.random.default_rng(2)
    levels, masks = rng.integers(0, 9, (3, 8, 8)), rng.random((3, 8, 8)) < 0.25
    margins = np.array(ladder, np.float32)[levels]
    assert len(np.unique(margins)) == 9
    found = measured(torch.from_numpy(margins) if on == "torch" else margins, masks, on=on)
    assert everything(found) == everything(measured(levels, masks))
    assert (found.auroc, found.pro[0.3]) == pytest.approx(exact(levels, masks), abs=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("on", ["numpy", "torch"])
def test_minus_zero_equals_zero(dtype, on: str):
    rng = np.random.default_rng(3)
    levels, masks = rng.integers(-1, 2, (3, 8, 8)), rng.random((3, 8, 8)) < 0.25
    margins = levels.astype(dtype)
    signs = (margins == 0) & (rng.random(margins.shape) < 0.5)
    margins[signs] = -0.0
    assert np.signbit(margins[signs]).all()
    given_as = torch.from_numpy(margins) if on == "torch" else margins
    assert everything(measured(given_as, masks, on=on)) == everything(measured(levels, masks))


@pytest.mark.parametrize(
    "dtype",
    [bool, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64, np.float16, np.float64],
)
def test_dtypes(dtype):
    rng = np.random.default_rng(4)
    levels, masks = rng.integers(0, 2, (3, 8, 8)), rng.random((3, 8, 8)) < 0.25
    levels = levels if dtype is bool else levels + rng.integers(0, 60, levels.shape)
    assert everything(measured(levels.astype(dtype), masks)) == everything(measured(levels, masks))
    for mask in (masks.astype(np.uint8) * 255, masks.astype(np.float32) * 0.2, masks.astype(int)):
        assert everything(measured(levels, mask)) == everything(measured(levels, masks))


def test_int64_and_float64_are_not_rounded():
    rng = np.random.default_rng(5)
    levels, masks = rng.integers(0, 9, (3, 8, 8)), rng.random((3, 8, 8)) < 0.25
    expected = everything(measured(levels, masks))
    large = 2**53 + levels.astype(np.int64)
    assert len(np.unique(large.astype(np.float64))) < 9
    assert everything(measured(large, masks)) == expected
    assert everything(measured(-large[:, ::-1], masks[:, ::-1])) == everything(
        measured(-levels[:, ::-1], masks[:, ::-1])
    )
    close = 1 + levels * 2.0**-40
    assert len(np.unique(close.astype(np.float32))) == 1
    assert everything(measured(close, masks)) == expected


@pytest.mark.parametrize("on", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("among", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_nan_is_an_error(on: str, dtype, among: bool, sign: int):
    rng = np.random.default_rng(6)
    margins, masks = rng.normal(size=(3, 8, 8)).astype(dtype), rng.random((3, 8, 8)) < 0.25
    margins[0, 0, 0] = np.inf
    places = np.argwhere(masks == among)
    margins[tuple(places[rng.integers(len(places))])] = math.copysign(math.nan, sign)
    with pytest.raises(MetricInputError, match="NaN"):
        measured(torch.from_numpy(margins) if on == "torch" else margins, masks, on=on)
    defects = DefectPixels()
    with pytest.raises(MetricInputError, match="NaN"):
        defects.add(margins, masks, 0)
        NormalCounts(defects).add(margins, masks, 0)
