"""PatchCore: its parts against plain implementations, and the stage on a small drawn dataset."""

import math

import numpy as np
import pytest
import torch
from builders import evaluate, fit_patchcore
from builders import params_for as stage
from PIL import Image, ImageDraw
from sklearn.neighbors import NearestNeighbors

from realnet.compute.runtime import start
from realnet.config.params import PROJECT
from realnet.config.params import load as load_params
from realnet.core.errors import UserError
from realnet.core.io import read_json, write_csv, write_json
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.detectors.loading import load
from realnet.detectors.patch_memory import (
    CANDIDATES,
    PENDING,
    Memory,
    distance_maps,
    greedy_coreset,
    patch_features,
    random_projection,
)
from realnet.detectors.patchcore import FILE, PatchCoreDetector
from realnet.evaluation.predict import PredictOptions, predict
from realnet.models.features import build_network, write_backbone


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- features ------------------------------------------------------------------------------------


def test_patch_features_are_neighbourhood_means_on_the_finest_grid():
    maps = [drawn(2, 3, 16, 16), drawn(2, 5, 8, 8, seed=1), drawn(2, 7, 4, 4, seed=2)]
    features = patch_features(maps, [1, 2], 3)
    assert features.shape == (2, 8, 8, 12) and features.dtype == torch.float32
    inside = maps[1][1, :, 2:5, 3:6].mean((1, 2))
    torch.testing.assert_close(features[1, 3, 4, :5], inside)
    corner = maps[1][0, :, :2, :2].sum((1, 2)) / 9  # zero padding
    torch.testing.assert_close(features[0, 0, 0, :5], corner)


def test_the_order_of_layers_changes_columns_and_not_the_grid():
    maps = [drawn(1, 2, 8, 8), drawn(1, 3, 4, 4, seed=1)]
    fine, coarse = patch_features(maps, [0, 1], 3), patch_features(maps, [1, 0], 3)
    assert fine.shape == coarse.shape == (1, 8, 8, 5)
    assert torch.equal(fine[..., :2], coarse[..., 3:])


def test_patch_size_one_keeps_the_feature_map():
    maps = [drawn(2, 4, 6, 6)]
    assert torch.equal(patch_features(maps, [0], 1), maps[0].permute(0, 2, 3, 1))


# --- coreset -------------------------------------------------------------------------------------


def plain_greedy(points, count, first):
    """Greedy farthest point sampling, all distances in float64."""
    distances = torch.cdist(points.double(), points.double()).numpy()
    chosen = [first]
    while len(chosen) < count:
        chosen.append(int(distances[:, chosen].min(1).argmax()))
    return chosen, distances[:, chosen].min(1).max()


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_coreset_matches_plain_greedy_selection(offset):
    """Also far from the origin, where float32 products lose most digits."""
    points = drawn(300, 16) + offset
    chosen, radius = greedy_coreset(points, 60, 7)
    expected, largest = plain_greedy(points, 60, 7)
    assert chosen.tolist() == expected
    assert radius == pytest.approx(largest, rel=1e-3)


def test_coreset_matches_plain_selection_beyond_its_candidates():
    """More points than are updated at each choice, and more choices than between full updates."""
    points = drawn(CANDIDATES + 700, 6)
    chosen, radius = greedy_coreset(points, 3 * PENDING + 5, 7)
    expected, largest = plain_greedy(points, len(chosen), 7)
    assert chosen.tolist() == expected
    assert radius == pytest.approx(largest, rel=1e-3)


def test_coreset_takes_the_first_of_equally_far_points():
    """Equal distances of more points than candidates: all but one are copies of one point."""
    points = torch.zeros(CANDIDATES + 50, 3)
    points[5] = 1.0
    chosen, radius = greedy_coreset(points, 4, 5)
    assert chosen.tolist() == [5, 0, 1, 2] and radius == 0


def test_coreset_has_no_duplicates_even_with_equal_points():
    points = drawn(5, 4).repeat(4, 1)
    chosen, radius = greedy_coreset(points, 20, 3)
    assert sorted(chosen.tolist()) == list(range(20)) and radius == 0
    few, radius = greedy_coreset(points, 5, 3)
    assert sorted((few % 5).tolist()) == list(range(5)) and radius < 1e-2


def test_projection_approximately_keeps_distances():
    points = drawn(40, 600)
    matrix = random_projection(600, 128, torch.Generator().manual_seed(1))
    ratio = torch.pdist(points @ matrix) / torch.pdist(points)
    assert ratio.mean() == pytest.approx(1, abs=0.03) and ratio.std() < 0.1


# --- nearest neighbours --------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize("count", [1, 5])
def test_nearest_neighbours_match_sklearn(monkeypatch, count, offset):
    monkeypatch.setattr("realnet.detectors.patch_memory.BLOCK", 64)  # several blocks
    rows, queries = drawn(300, 24) + offset, drawn(50, 24, seed=1) + offset
    distances, places = Memory(rows).nearest(queries, count)
    plain = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(rows.double().numpy())
    expected, where = plain.kneighbors(queries.double().numpy())
    assert np.array_equal(places.numpy(), where)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-5)


def test_a_memory_patch_has_distance_zero():
    rows = drawn(100, 32) + 30
    distances, places = Memory(rows).nearest(rows)
    assert places[:, 0].tolist() == list(range(100)) and distances.max() == 0


def test_masked_rows_are_not_found():
    rows = drawn(60, 8)
    without = torch.arange(60) < 30
    distances, places = Memory(rows).nearest(rows[:5], 3, without)
    assert places.min() >= 30 and distances.min() > 0


def test_no_more_neighbours_than_rows():
    distances, places = Memory(drawn(3, 4)).nearest(drawn(2, 4, seed=1), 9)
    assert distances.shape == places.shape == (2, 3)


# --- image score and map -------------------------------------------------------------------------


def test_image_score_matches_equation_7():
    rows, patches = drawn(40, 6), drawn(3, 10, 6, seed=1)
    memory = Memory(rows)
    found = [memory.nearest(one) for one in patches]
    distances = torch.stack([d[:, 0] for d, _ in found])
    places = torch.stack([p[:, 0] for _, p in found])
    scores = memory.image_scores(patches, distances, places, 4)
    for image, score in zip(patches.double(), scores.tolist(), strict=True):
        every = torch.cdist(image, rows.double())
        nearest, row = every.min(1)
        worst = int(nearest.argmax())
        around = torch.cdist(rows.double()[row[worst], None], rows.double())[0].argsort()[:4]
        exponents = [math.exp(every[worst, k]) for k in around]
        weight = 1 - math.exp(nearest[worst]) / sum(exponents)
        assert score == pytest.approx(weight * float(nearest[worst]), rel=1e-4)
    assert torch.equal(memory.image_scores(patches, distances, places, 1), distances.max(1).values)


def test_a_large_distance_does_not_overflow_the_weight():
    memory = Memory(drawn(20, 4))
    patches = torch.full((1, 2, 4), 1e4)
    distances, places = (v[None, :, 0] for v in memory.nearest(patches[0]))
    score = memory.image_scores(patches, distances, places, 9)
    assert torch.isfinite(score).all() and 0 < score < distances.max()


def test_maps_are_upsampled_and_smoothed_with_the_size():
    grid = torch.zeros(1, 8, 8)
    grid[0, 3, 3] = 1
    sharp = distance_maps(grid, 64, 0.0)
    smooth = distance_maps(grid, 64, 8.0)
    assert sharp.shape == smooth.shape == (1, 64, 64) and sharp.dtype == torch.float32
    assert smooth.max() < sharp.max()
    torch.testing.assert_close(smooth.sum(), sharp.sum(), rtol=1e-3, atol=0)
    constant = distance_maps(torch.full((1, 4, 4), 2.5), 32, 4.0)
    torch.testing.assert_close(constant, torch.full((1, 32, 32), 2.5))


# --- the stage -----------------------------------------------------------------------------------

SIZE = 32


def picture(path, seed, blot):
    """Write an image of stripes; with ``blot`` add a defect and return its mask."""
    rng = np.random.default_rng(seed)
    level = 120 + 50 * np.sin(np.arange(SIZE) * 0.8 + rng.uniform(0, 0.5))
    image = Image.fromarray(
        np.clip(level[None, :, None] + rng.normal(0, 4, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    )
    mask = Image.new("L", (SIZE, SIZE))
    if blot:
        box = (8, 10, 17, 19)
        ImageDraw.Draw(image).ellipse(box, fill=(230, 20, 20))
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        mask.save(path.with_name(f"{path.stem}_mask.png"))
    image.save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A drawn dataset, a backbone of random weights, and a fitted PatchCore."""
    root = tmp_path_factory.mktemp("patchcore")
    rows = []
    for k in range(14):
        split = "train" if k < 8 else "test"
        blot = k >= 11
        path = root / f"{k:02}.png"
        picture(path, k, blot)
        rows.append(
            {"path": path, "split": split, "label": int(blot), "defect": "blot" if blot else "good"}
            | {"mask_path": root / f"{k:02}_mask.png" if blot else "", "sha256": ""}
            | {"mask_sha256": "", "width": SIZE, "height": SIZE}
        )
    write_csv(root / "manifest.csv", rows, list(rows[0]))
    params = load_params(PROJECT / "params.yaml", {"preset": "smoke"})
    torch.manual_seed(0)
    network = build_network(params.backbone)
    write_backbone(root / "backbone", network, params.backbone, source="random")
    fit(root, root / "model")
    return root


def fit(root, out, seed=0, **changed):
    given = stage("patchcore")
    given = given.model_copy(update={"patchcore": given.patchcore.model_copy(update=changed)})
    fit_patchcore(given, root / "manifest.csv", root / "backbone", "own", "stripes", seed, out)


def detector(folder):
    runtime = start(stage("evaluate").compute)
    return load(folder, runtime), runtime


def held_out(root):
    items = [item for item in read_manifest(root / "manifest.csv") if item.split == "test"]
    return load_images(items, SIZE), np.array([item.label for item in items])


def test_fits_are_reproducible_and_depend_on_the_seed(made, tmp_path):
    fit(made, tmp_path / "again")
    fit(made, tmp_path / "other", seed=1)
    first, again, other = (
        (folder / FILE).read_bytes()
        for folder in (made / "model", tmp_path / "again", tmp_path / "other")
    )
    assert first == again and first != other
    assert read_json(made / "model/model.json")["threshold"] == pytest.approx(
        read_json(tmp_path / "again/model.json")["threshold"], abs=0
    )


def test_memory_has_the_configured_share_of_patches(made, tmp_path):
    config = read_json(made / "model/model.json")["memory"]
    share = stage("patchcore").patchcore.coreset_fraction
    assert config["rows"] == int(config["patches"] * share)
    fit(made, tmp_path / "all", coreset_fraction=1.0)
    config = read_json(tmp_path / "all/model.json")["memory"]
    assert config["rows"] == config["patches"] and config["radius"] == 0


def test_defects_score_higher_and_are_localised(made):
    found, runtime = detector(made / "model")
    images, labels = held_out(made)
    margins, scores = found.predict(images, runtime, 4, 1)
    assert margins.shape == (6, SIZE, SIZE) and margins.dtype == torch.float32
    assert scores.dtype == np.float64 and scores[labels == 1].min() > scores[labels == 0].max()
    for margin in margins[labels == 1]:
        y, x = divmod(int(margin.argmax()), SIZE)
        assert 6 <= x <= 19 and 8 <= y <= 21
    # The threshold is a quantile of normal pixels: few of them exceed it, defects do.
    assert (margins[labels == 0] > found.threshold).float().mean() < 0.1
    assert (margins[labels == 1] > found.threshold).flatten(1).any(1).all()


def test_the_batch_size_changes_only_rounding(made):
    found, runtime = detector(made / "model")
    images, _ = held_out(made)
    margins, scores = found.predict(images, runtime, 6, 1)
    for size in (1, 4):
        other, others = found.predict(images, runtime, size, 1)
        torch.testing.assert_close(other, margins, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(others, scores, rtol=1e-4)
    again, same = found.predict(images, runtime, 6, 1)
    assert torch.equal(again, margins) and np.array_equal(same, scores)


def test_evaluation_has_exact_metrics_and_no_official_ones(made, tmp_path):
    where = (made / "manifest.csv", made / "model", "own", "stripes", 0, "patchcore")
    evaluate(stage("evaluate"), *where, tmp_path)
    measured = read_json(tmp_path / "metrics.json")
    assert measured["image_auroc"] == 1 and measured["pixel_auroc"] > 0.9
    official = measured["protocols"]["official_last"]
    assert not official or all(official[k] is None for k in official if k.endswith("_official"))
    assert measured["protocols"]["strict_best"] is None
    stored = np.load(tmp_path / "scores.npz")
    found, runtime = detector(made / "model")
    images, _ = held_out(made)
    size = stage("evaluate").evaluate.batch_size
    assert np.array_equal(stored["image_scores"], found.predict(images, runtime, size, 1)[1])
    assert (tmp_path / "qualitative.png").is_file() and not (tmp_path / "residuals.npz").exists()


def test_predict_with_a_patchcore_model(made, tmp_path):
    given = [made / "08.png", made / "13.png"]
    compute = stage("evaluate").compute
    done = predict(
        made / "model", given, tmp_path, compute, PredictOptions(raw=True, default_pool=4)
    )
    (_, normal), (_, defective) = done.scores
    assert defective > normal
    found, _ = detector(made / "model")
    assert isinstance(found, PatchCoreDetector)
    level = np.load(tmp_path / "13.npy")
    assert level.shape == (SIZE, SIZE) and level.max() > found.threshold
    assert (tmp_path / "13_heatmap.png").is_file()


# --- errors --------------------------------------------------------------------------------------


def copied(made, tmp_path):
    """A copy of the model and its backbone, to be damaged."""
    for name in ("model", "backbone"):
        for file in (made / name).iterdir():
            target = tmp_path / name / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path / "model"


def error_message(folder, checkpoint="last"):
    with pytest.raises(UserError) as error:
        load(folder, start(stage("evaluate").compute), checkpoint)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_corrupted_memory_is_one_line(made, tmp_path):
    model = copied(made, tmp_path)
    content = bytearray((model / FILE).read_bytes())
    content[-1] ^= 1
    (model / FILE).write_bytes(content)
    assert "not the file of model.json" in error_message(model)
    (model / FILE).unlink()
    assert "missing" in error_message(model)


def test_a_missing_or_different_backbone_is_one_line(made, tmp_path):
    model = copied(made, tmp_path)
    saved = read_json(model / "model.json")
    write_json(model / "model.json", saved | {"backbone": saved["backbone"] | {"sha256": "0" * 64}})
    assert "not the backbone" in error_message(model)
    write_json(model / "model.json", saved | {"backbone": saved["backbone"] | {"path": "../gone"}})
    assert "needs its backbone" in error_message(model)


def test_other_user_errors_are_one_line(made, tmp_path):
    model = copied(made, tmp_path)
    assert "PatchCore is not trained" in error_message(model, "best")
    saved = read_json(model / "model.json")
    write_json(model / "model.json", {k: v for k, v in saved.items() if k != "threshold"})
    assert "not of this program" in error_message(model)
    with pytest.raises(UserError, match=r"patchcore\.layers is \[1, 4\].*layers 0 to 3"):
        fit(made, tmp_path / "none", layers=[1, 4])
