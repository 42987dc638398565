"""Files for the figures: example anomalies of the training, and residuals that RRS selects."""

import numpy as np
import pytest
import torch

from realnet.compute.runtime import start
from realnet.config.params import load, stage_params
from realnet.detectors.realnet_detector import Detector
from realnet.evaluation.residuals import (
    MAPS,
    PER_CLASS,
    _spaced,
    residual_statistics,
    save_residuals,
)
from realnet.models.afs import Selection
from realnet.models.features import FeatureExtractor, build_network
from realnet.models.realnet import FeatureSelector, RealNet
from realnet.registry import params_of
from realnet.synthesis.examples import KEPT, save_examples
from realnet.synthesis.pools import NormalImages, build_pools

SIZE = 64  # smaller ones leave the deepest maps a single pixel


def smoke(**overrides):
    return load(overrides={"preset": "smoke", **overrides})


# --- example anomalies ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(60, 200, (5, 3, SIZE, SIZE), np.uint8))


def examples(path, normal, seed=0, **sources):
    text = smoke(synthesis={"sources": {"normal": 0.5, **sources}, "foreground": "none"})
    params = stage_params(text.section_json("realnet"), params_of("realnet")).synthesis
    whole = NormalImages(normal, torch.ones(len(normal), SIZE, SIZE, dtype=torch.bool))
    pools = build_pools(params, None, 3, "mine", "cloth", SIZE, normal=whole)
    save_examples(path, params, pools, whole, seed, "mine", "cloth")
    with np.load(path) as file:
        return dict(file)


def test_examples_are_anomalies_inside_their_masks_of_every_source(normal, tmp_path):
    found = examples(tmp_path / "a.npz", normal, texture=0.25, cutpaste=0.25, sdas=0.0)
    assert sorted(found["sources"].tolist()) == ["cutpaste"] * 4 + ["texture"] * 4
    assert found["normal"].dtype == found["anomalous"].dtype == np.uint8
    assert found["masks"].dtype == bool and found["masks"].any((1, 2)).all()
    changed = (found["normal"] != found["anomalous"]).any(3)
    assert not (changed & ~found["masks"]).any() and changed.any((1, 2)).all()
    originals = {image.tobytes() for image in normal.permute(0, 2, 3, 1).numpy()}
    assert all(image.tobytes() in originals for image in found["normal"])


def test_examples_are_reproducible_and_keep_the_global_generator(normal, tmp_path):
    before = torch.get_rng_state()
    one = examples(tmp_path / "a.npz", normal, texture=0.5)
    assert torch.equal(before, torch.get_rng_state())
    examples(tmp_path / "b.npz", normal, texture=0.5)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert len(one["items"]) == KEPT
    other = examples(tmp_path / "c.npz", normal, seed=1, texture=0.5)
    assert not np.array_equal(one["masks"], other["masks"])


def test_variants_show_their_sources_on_the_same_images(normal, tmp_path):
    one = examples(tmp_path / "a.npz", normal, texture=0.5)
    other = examples(tmp_path / "b.npz", normal, cutpaste=0.5)
    shared = sorted(set(one["items"]) & set(other["items"]))
    assert len(shared) >= 2
    for item in shared:
        a, b = (int(np.flatnonzero(f["items"] == item)[0]) for f in (one, other))
        assert np.array_equal(one["normal"][a], other["normal"][b])


# --- residuals -----------------------------------------------------------------------------------


def detector(mode="max_mean", kept=6, norm=True):
    params = smoke(model={"rrs": {"mode": mode, "channels": kept, "ranking_norm": norm}})
    torch.manual_seed(0)
    extractor = FeatureExtractor(build_network(params.backbone), [0.5] * 3, [0.25] * 3)
    counts = [c for c, _ in extractor.shapes(SIZE)]
    indices = [sorted(torch.randperm(c)[:4].tolist()) for c in counts]
    selection = Selection(indices, [[1.0] * 4 for _ in counts])
    selector = FeatureSelector(params.model.blocks, selection, SIZE, False)
    model = RealNet(selector.channels, params.model, SIZE).eval()
    if norm:  # as after a training: no two channels alike
        model.select.norm.running_mean.uniform_(0, 1)
        model.select.norm.running_var.uniform_(0.1, 4)
    return Detector(extractor, selector, model, SIZE), start(params.compute)


def statistics(found, images, labels, batch=4):
    one, runtime = found
    return residual_statistics(one, images, runtime, batch, labels)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.integers(0, 255, (9, 3, SIZE, SIZE), np.uint8))


LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0], np.uint8)


def ranked(found, images):
    """Residuals and their ranking, image by image, computed by the model."""
    model = found[0].model
    features = found[0].selector(found[0].extractor(images.float() / 255))
    with torch.no_grad():
        rebuilt = [net(f) for net, f in zip(model.reconstruct, features, strict=True)]
        residual = model.residuals(features, rebuilt)
        return residual, model.select.ranking(residual).numpy()


@pytest.mark.parametrize("mode", ["max_mean", "max", "mean"])
def test_counts_match_the_ranking_of_the_model(images, mode):
    found = detector(mode)
    got = statistics(found, images, LABELS)
    _, order = ranked(found, images)
    by_max = {"max_mean": 3, "max": 6, "mean": 0}[mode]
    for row in (0, 1):
        part = order[row == LABELS]
        for name, slots in (("kept_max", part[:, :by_max]), ("kept_mean", part[:, by_max:])):
            counts = np.bincount(slots.ravel(), minlength=len(got["layers"]))
            assert got[name][row].tolist() == counts.tolist()
    assert got["counted"].tolist() == [4, 5]
    assert sorted(got["layers"].tolist()) == [k for k in range(4) for _ in range(4)]
    for layer in range(4):
        own = got["channels"][got["layers"] == layer].tolist()
        assert own == getattr(found[0].selector, f"index{layer}").tolist()


def test_examples_are_kept_and_dropped_maps_as_ranked(images):
    found = detector()
    got = statistics(found, images, LABELS)
    residual, order = ranked(found, images)
    with torch.no_grad():
        standard = found[0].model.select.norm(residual).numpy()
    assert got["examples"].tolist() == [3, 5, 7]
    assert got["pictures"].shape == (3, SIZE, SIZE, 3)
    for k, image in enumerate(got["examples"]):
        kept, dropped = got["kept_slots"][k].tolist(), got["dropped_slots"][k].tolist()
        assert len(kept) == len(dropped) == MAPS
        assert set(kept[kept.index(-1) :] if -1 in kept else []) <= {-1}
        kept = [slot for slot in kept if slot >= 0]
        assert len(set(kept)) == len(kept) and set(kept) <= set(order[image].tolist())
        assert not set(dropped) & set(order[image].tolist())
        peaks = standard[image].max((1, 2))
        left = [s for s in range(len(peaks)) if s not in order[image]]
        assert dropped == sorted(left, key=lambda s: peaks[s])[:MAPS]
        for column, slot in enumerate(kept):
            assert np.allclose(
                got["kept_maps"][k, column], standard[image, slot], rtol=2e-3, atol=1e-3
            )


def test_counts_do_not_depend_on_the_batch_size(images):
    found = detector(norm=False)
    one, other = (statistics(found, images, LABELS, batch) for batch in (1, 9))
    assert all(np.array_equal(one[k], other[k]) for k in ("kept_max", "kept_mean", "kept_slots"))
    assert _spaced(np.arange(1000), PER_CLASS).tolist()[:: PER_CLASS - 1] == [0, 999]
    assert len(set(_spaced(np.arange(1000), PER_CLASS).tolist())) == PER_CLASS


def test_no_examples_without_selection_or_anomalies(images, tmp_path):
    found = statistics(detector("all"), images, LABELS)
    assert found["counted"].tolist() == [0, 0] and found["kept_max"].sum() == 0
    assert found["pictures"].shape == (0, SIZE, SIZE, 3)
    calm = statistics(detector(), images, np.zeros(9, np.uint8))
    assert calm["counted"].tolist() == [9, 0] and len(calm["examples"]) == 0
    file = tmp_path / "residuals.npz"
    one, runtime = detector()
    save_residuals(file, one, images, runtime, 4, LABELS)
    with np.load(file) as stored:
        assert stored["counted"].tolist() == [4, 5]
    save_residuals(file, object(), images, runtime, 4, LABELS)  # another method in its place
    assert not file.exists()
