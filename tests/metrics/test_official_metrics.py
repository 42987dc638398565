"""The official metrics against a plain implementation with loops over thresholds and regions."""

import numpy as np
import pytest
from reference import plain_metrics as plain
from scipy import ndimage
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from realnet.metrics import MetricInputError, UndefinedMetricWarning, pixel_metrics
from realnet.metrics.official import key_metric, official_metrics, pro_official


def case(seed, saturated=False):
    """Four images of 40 px with a ring, a diagonal scratch, a blob, and no defect."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 40, 40), bool)
    y, x = np.mgrid[:40, :40]
    radius = np.hypot(y - 20, x - 20)
    masks[0] = (radius < 12) & (radius > 8)
    masks[1][np.arange(5, 30), np.arange(5, 30)] = True
    masks[2, 4:9, 20:33] = True
    margins = rng.normal(size=masks.shape) + 1.5 * ndimage.gaussian_filter(masks * 4.0, (0, 2, 2))
    return expit(margins * (6 if saturated else 1) - (4 if saturated else 0)).astype(
        np.float32
    ), masks


def odd_shapes(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed ring, one that is open diagonally, a scratch, and blobs."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((5, 32, 32), bool)
    y, x = np.mgrid[:32, :32]
    radius = np.hypot(y - 16, x - 14)
    masks[0] = (radius < 11) & (radius > 6)
    masks[1] = np.abs(y - 16) + np.abs(x - 16) == 9  # a diamond of diagonal steps
    masks[2][np.arange(4, 28), np.arange(4, 28)] = True
    masks[3] = ndimage.gaussian_filter(rng.normal(size=(32, 32)), 2) > 0.15
    margins = rng.normal(size=masks.shape) + 1.2 * ndimage.gaussian_filter(masks * 4.0, (0, 1, 1))
    if kind == "saturated":
        return expit(9 * margins - 6).astype(np.float32), masks
    if kind == "grid":  # every score is a threshold, up to rounding in float32
        scores = np.round(expit(margins) * 1000) / 1000
        scores.flat[:2] = 0, 1
        return scores.astype(np.float32), masks
    return expit(margins).astype(np.float32), masks


@pytest.mark.parametrize("kind", ["plain", "saturated", "grid"])
@pytest.mark.parametrize("seed", range(2))
def test_official_pro_matches_the_plain_implementation(kind: str, seed: int):
    maps, masks = odd_shapes(kind, seed)
    assert pro_official(maps, masks) == pytest.approx(plain.official_pro(maps, masks), abs=1e-6)


def test_a_false_positive_in_a_hole_exceeds_one():
    _, masks = case(0)
    maps = (ndimage.binary_fill_holes(masks[0]) * 0.9).astype(np.float32)[None]
    maps += np.linspace(0, 0.1, maps.size, dtype=np.float32).reshape(maps.shape)
    assert pro_official(maps, masks[:1]) > 1.2
    assert pixel_metrics(maps, masks[:1])["pro"] < 1


def test_image_and_pixel_auroc_are_flipped_and_labels_come_from_masks():
    maps, masks = case(0)
    right, wrong = official_metrics(maps, masks, 4), official_metrics(1 - maps, masks, 1)
    assert right["pixel_auroc_official"] == pytest.approx(
        roc_auc_score(masks.ravel(), maps.ravel())
    )
    assert wrong["pixel_auroc_official"] == pytest.approx(right["pixel_auroc_official"], abs=1e-3)
    assert pixel_metrics(1 - maps, masks)["pixel_auroc"] < 0.5
    pooled = [np.lib.stride_tricks.sliding_window_view(m, (4, 4)).mean((2, 3)).max() for m in maps]
    labels = masks.any((1, 2))
    assert right["image_auroc_official"] == pytest.approx(roc_auc_score(labels, pooled))
    expected = (right["image_auroc_official"] + right["pixel_auroc_official"]) / 2
    assert key_metric(right) == expected
    assert "pro_official" not in official_metrics(maps, masks, 4, pro=False)


def test_undefined_metrics_are_nan_and_named():
    maps, masks = case(0)
    with pytest.warns(UndefinedMetricWarning, match="no region"):
        assert np.isnan(pro_official(maps, np.zeros_like(masks)))
    with pytest.warns(UndefinedMetricWarning, match="one false positive rate"):
        assert np.isnan(pro_official(masks.astype(np.float32), masks))
    with pytest.raises(MetricInputError, match="pool 99"):
        official_metrics(maps, masks, 99)
    with pytest.raises(MetricInputError, match="expected equal"):
        official_metrics(maps[:2], masks, 4)
