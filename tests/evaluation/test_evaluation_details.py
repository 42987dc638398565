"""Further files of an evaluation: regions, curves, per-image statistics for intervals."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.metrics import roc_curve as sklearn_roc

from realnet.evaluation.assemble import Resampling, assemble, localisation
from realnet.evaluation.details import write_curves, write_regions
from realnet.evaluation.stored import load_per_image, save_per_image
from realnet.metrics import (
    localise,
    per_image,
    pixel_metrics,
    pr_curve,
    pro_curve,
    roc_curve,
)

DEFECTS = ["good", "scratch", "good", "dent", "dent", "scratch"] * 4


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    masks = np.zeros((24, 24, 20), bool)
    for index in (k for k, defect in enumerate(DEFECTS) if defect != "good"):
        for _ in range(2):
            y, x = generator.integers(0, 16, 2)
            masks[index, y : y + 6, x : x + 4] = True
    margins = generator.normal(size=masks.shape) + 1.5 * masks
    return margins.astype(np.float32), masks


@pytest.mark.parametrize("points", [30, 10_000])
def test_every_stored_point_lies_on_the_full_curve(maps, points: int):
    margins, masks = maps
    truth, scores = masks.ravel(), margins.ravel()
    x, y = roc_curve(margins, masks, points)
    whole_x, whole_y, _ = sklearn_roc(truth, scores, drop_intermediate=False)
    whole = set(zip(np.round(whole_x, 12), np.round(whole_y, 12), strict=True))
    assert set(zip(np.round(x, 12), np.round(y, 12), strict=True)) <= whole
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    recall, precision = pr_curve(margins, masks, points)
    p, r, _ = precision_recall_curve(truth, scores)
    whole = set(zip(np.round(r, 12), np.round(p, 12), strict=True))
    assert set(zip(np.round(recall[1:], 12), np.round(precision[1:], 12), strict=True)) <= whole


def test_areas_under_the_curves_equal_the_metrics(maps):
    margins, masks = maps
    x, y = roc_curve(margins, masks, 10_000)
    assert np.trapezoid(y, x) == pytest.approx(pixel_metrics(margins, masks)["pixel_auroc"], 1e-3)
    x, y = pro_curve(margins, masks, 10_000)
    assert np.trapezoid(y, x) == pytest.approx(pixel_metrics(margins, masks, 1.0)["pro"], 1e-3)
    recall, precision = pr_curve(margins, masks, 10_000)
    area = np.sum(np.diff(recall) * precision[1:])
    assert area == pytest.approx(average_precision_score(masks.ravel(), margins.ravel()), abs=1e-9)


def test_a_curve_without_both_classes_is_empty():
    for curve in (roc_curve, pr_curve, pro_curve):
        x, y = curve(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))
        assert len(x) == len(y) == 0


def test_regions_match_the_masks(maps, tmp_path: Path):
    margins, masks = maps
    found = localise(margins, masks)
    names = [f"{k}.png" for k in range(24)]
    write_regions(tmp_path / "regions.csv", found, names, DEFECTS)
    with (tmp_path / "regions.csv").open() as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == found.regions.count
    for row in rows:
        image = names.index(row["path"])
        left, top, width, height = (int(row[key]) for key in ("left", "top", "width", "height"))
        box = masks[image, top : top + height, left : left + width]
        assert row["defect"] == DEFECTS[image]
        assert box.sum() >= int(row["area"])
        for edge in (box[0], box[-1], box[:, 0], box[:, -1]):
            assert edge.any()
    assert sum(int(row["area"]) for row in rows) == masks.sum()
    mean = np.mean([float(row["pro@0.05"]) for row in rows])
    assert mean == pytest.approx(pixel_metrics(margins, masks, 0.05)["pro"], abs=1e-12)


def assembled(margins, masks, labels, name: str = "nut"):
    statistics = per_image(margins, masks, margins.max((1, 2)), labels, DEFECTS)
    return assemble(localisation(margins, masks, labels, 0.3), statistics, Resampling(name))


def test_intervals_contain_the_value_and_are_reproducible(maps):
    margins, masks = maps
    labels = masks.any((1, 2))
    first = assembled(margins, masks, labels)
    assert first == assembled(margins, masks, labels)
    for metric in ("pixel_auroc", "pixel_ap", "pro"):
        low, high = first.intervals["intervals"][metric]
        assert low < pixel_metrics(margins, masks)[metric] == first.metrics[metric] < high
    other = assembled(margins, masks, labels, "fabric")
    assert other.intervals["intervals"] != first.intervals["intervals"]  # other resamples


def test_stored_statistics_are_reproducible(maps, tmp_path: Path):
    margins, masks = maps
    statistics = per_image(margins, masks, margins.max((1, 2)), masks.any((1, 2)), DEFECTS)
    for name in ("a.npz", "b.npz"):
        save_per_image(tmp_path / name, statistics)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    for key, value in vars(load_per_image(tmp_path / "a.npz")).items():
        np.testing.assert_array_equal(value, getattr(statistics, key), strict=True)


def test_without_masks_only_image_metrics_have_intervals(maps, tmp_path: Path):
    margins, masks = maps
    labels, scores = masks.any((1, 2)), margins.max((1, 2))
    found = assembled(margins, None, labels)
    assert found.intervals["intervals"]["image_auroc"] is not None
    assert found.intervals["intervals"]["pro"] is None
    assert set(found.details.values()) == {None}
    save_per_image(tmp_path / "p.npz", per_image(margins, None, scores, labels, DEFECTS))
    assert not load_per_image(tmp_path / "p.npz").has_pixels
    write_curves(tmp_path / "curves.npz", margins, None, scores, labels)
    with np.load(tmp_path / "curves.npz") as curves:
        assert len(curves["pro_x"]) == 0 < len(curves["image_roc_x"])
    write_regions(tmp_path / "regions.csv", None, ["a"], ["good"])
    assert (tmp_path / "regions.csv").read_text().startswith("path,defect,area")
