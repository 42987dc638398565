"""The qualitative figure: which images it shows, for any test set."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from realnet.metrics import image_separation
from realnet.plots.qualitative import ScoredImages, _choose, heat_scale, qualitative
from realnet.plots.style import save_figure


def test_best_median_worst_by_separation_and_alarms_by_score():
    separation = np.array([np.nan, 0.9, 0.5, 0.7, 0.8, 0.6, 0.4, np.nan, 0.3, 1.0])
    scores = np.array([0.2, 0, 0, 0, 0, 0, 0, 0.7, 0, 0])
    defective = np.isfinite(separation)
    assert _choose(separation, scores, defective, 2) == {
        "Best": [9, 1],
        "Median": [3, 5],
        "Worst": [8, 6],
        "Nearest false alarms": [7, 0],
    }


@pytest.mark.parametrize("defects", range(8))
def test_no_image_is_shown_twice(defects: int):
    separation = np.where(np.arange(9) < defects, np.linspace(1, 0, 9), np.nan)
    groups = _choose(separation, np.zeros(9), np.arange(9) < defects, 3)
    shown = [index for chosen in groups.values() for index in chosen]
    assert len(shown) == len(set(shown))
    assert sum(index < defects for index in shown) == min(defects, 9)


def test_a_defect_lost_in_resizing_is_among_the_worst():
    separation = np.array([0.9, np.nan, 0.8])
    assert _choose(separation, np.zeros(3), np.ones(3, bool), 1)["Worst"] == [1]


def test_images_without_ground_truth_are_a_group_of_their_own():
    labels = np.array([0, 1, 1, 1, 1, 1])
    labelled = np.array([True, True, False, True, False, True])
    masks = np.zeros((6, 8, 8), bool)
    masks[[1, 3, 5], 2:4, 2:4] = True
    rng = np.random.default_rng(0)
    margins = (rng.normal(size=masks.shape) + masks).astype(np.float32)
    images = np.zeros((6, 8, 8, 3), np.uint8)
    given = (images, masks, margins, np.arange(6.0), labels, list("abcdef"))
    separation = image_separation(margins, masks, labelled)
    figure = qualitative(ScoredImages(*given, separation, labelled), 1)
    words = [text.get_text() for text in figure.texts]
    assert "No mask" in words
    shown = [word for word in words if len(word) == 1]
    assert sorted(shown[:3]) == ["b", "d", "f"]  # best, median, worst
    assert shown[3:] == ["e", "a"]  # without mask, of the highest score; nearest false alarm


def test_heat_scale_ignores_a_hot_pixel_and_constants():
    margins = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    scale = heat_scale(margins)
    margins[0, 0, 0] = 1e6
    assert heat_scale(margins).vmax == pytest.approx(scale.vmax, abs=0.2)
    flat = heat_scale(np.zeros((1, 4, 4), np.float32))
    assert flat.vmin < flat.vmax


@pytest.mark.parametrize("anomalous", [0, 1, 5])
def test_figure_is_reproducible(tmp_path: Path, anomalous: int):
    generator = np.random.default_rng(0)
    labels = np.arange(5) < anomalous
    masks = np.zeros((5, 16, 16), bool)
    masks[labels, 4:8, 4:8] = True
    margins = (generator.normal(size=masks.shape) + 4 * masks).astype(np.float32)
    images = generator.integers(0, 256, (5, 16, 16, 3), np.uint8)
    digests = []
    for _ in range(2):
        names = [f"x_{i}" for i in range(5)]
        separation = image_separation(margins, masks)
        given = (images, masks, margins, np.arange(5.0), labels, names, separation)
        figure = qualitative(ScoredImages(*given), 1)
        save_figure(tmp_path / "f.png", figure, dpi=40)
        digests.append(hashlib.sha256((tmp_path / "f.png").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    tiles = len(_choose(np.where(labels, 0.5, np.nan), np.arange(5.0), labels, 1))
    (sheet,) = (axes for axes in figure.axes if axes.images and len(axes.images) > 1)
    assert len(sheet.images) == 2 * tiles  # the image and its heat map
    outlined = min(anomalous, 3)  # best, median, worst
    assert len(sheet.collections) >= 2 * 2 * outlined  # a white and a blue line on both


def test_mismatched_lengths_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        ScoredImages(
            *(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4))),
            *(np.zeros(2), np.zeros(2), ["a"]),
        )
