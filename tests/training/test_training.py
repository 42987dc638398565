"""RealNet's training batches, losses and random numbers, and the evaluation of its models."""

import os
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from builders import evaluate, make_backbone, params_for, select_features, train_realnet
from sklearn.metrics import roc_auc_score

from realnet.compute.runtime import start
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256, write_csv, write_png
from realnet.datasets.images import load_images, load_masks
from realnet.datasets.items import read_manifest
from realnet.detectors.realnet_detector import load_detector
from realnet.metrics import UndefinedMetricWarning
from realnet.models.afs import load_selection
from realnet.models.features import load_backbone
from realnet.models.realnet import FeatureSelector, RealNet
from realnet.stages.realnet import _Data, recompute_activations, steps_of
from realnet.synthesis.pools import NormalImages, build_pools, training_foregrounds
from realnet.synthesis.synthesiser import AnomalySynthesiser
from realnet.training.batches import shuffled_epochs

SIZE = 32
RUN = ("mine", "cloth", 0)
FIELDS = ["path", "split", "label", "defect", "mask_path", "width", "height", "sha256"]
FIELDS += ["mask_sha256"]


def stage(name, **overrides):
    synthesis = {"sources": {"normal": 0.5, "texture": 0.5}, "foreground": "none"}
    synthesis |= overrides.pop("synthesis", {})
    return params_for(name, synthesis=synthesis, **overrides)


def add(rows, root, name, split, defect=None):
    """Add an image of noise; a defect is a white square, with its mask."""
    rng = np.random.default_rng(len(rows))
    pixels = rng.integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8)
    row = dict.fromkeys(FIELDS, "") | {"path": root / name, "split": split, "label": 0}
    row |= {"defect": defect or "good", "width": SIZE, "height": SIZE}
    if defect:
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[4:12, 6:20] = 255
        pixels[mask > 0] = 255
        row |= {"label": 1, "mask_path": root / f"masks/{name}"}
        write_png(row["mask_path"], mask)
        row["mask_sha256"] = sha256(row["mask_path"])
    write_png(row["path"], pixels)
    rows.append(row | {"sha256": sha256(row["path"])})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    rows = []
    for number in range(6):
        add(rows, root, f"train{number}.png", "train")
    write_csv(root / "one.csv", rows[:1], FIELDS)
    for number in range(3):
        add(rows, root, f"good{number}.png", "test")
        add(rows, root, f"spot{number}.png", "test", "spot")
    write_csv(root / "manifest.csv", rows, FIELDS)
    make_backbone(stage("backbone"), root / "backbone")
    folders = root / "manifest.csv", root / "backbone", None
    select_features(stage("afs"), *folders, *RUN, root / "afs")
    fit(root, root / "model")
    return root


def fit(root, out, manifest="manifest.csv", synthesis=None, compute=None, **training):
    overrides = {"training": training, "synthesis": synthesis or {}, "compute": compute or {}}
    params = stage("realnet", **overrides)
    train_realnet(params, root / manifest, root / "backbone", root / "afs", None, *RUN, out)
    return safetensors.torch.load_file(out / "model.safetensors")


def history(out, column):
    return [float(row[column]) for row in read_csv(out / "history.csv")]


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_has_features_of_anomalies_and_originals_and_masks(made):
    params = stage("realnet")
    normal = load_images(
        [i for i in read_manifest(made / "manifest.csv") if i.split == "train"], 32
    )
    foregrounds = training_foregrounds(normal, params.synthesis, "mine", "cloth")
    pools = build_pools(params.synthesis, None, 0, "mine", "cloth", SIZE)
    make = AnomalySynthesiser(params.synthesis, pools, 0, "x")
    extractor = load_backbone(made / "backbone")
    select = FeatureSelector(params.model.blocks, load_selection(made / "afs"), SIZE, True)
    data = _Data(NormalImages(normal, foregrounds), make, extractor, select)
    chosen = torch.tensor([5, 0, 0, 3, 1, 2, 4, 5])
    anomalous, original, masks = data.batch(chosen, 40)
    drawn = make(normal[chosen], foregrounds[chosen], 40)
    assert torch.equal(masks, drawn.masks)
    changed = masks.flatten(1).any(1)
    assert 0 < changed.sum() < 8  # normal and anomalous items
    expected = select(extractor(drawn.images.float() / 255))
    before = select(extractor(normal[chosen].float() / 255))
    for found, kept, a, b in zip(anomalous, original, expected, before, strict=True):
        assert torch.allclose(found, a, atol=1e-4) and torch.allclose(kept, b, atol=1e-4)
        assert torch.equal(found[~changed], kept[~changed])
        assert (found[changed] - kept[changed]).flatten(1).abs().amax(1).min() > 1e-3
    again = data.batch(chosen, 40)[1]
    assert all(
        torch.equal(a, b) for a, b in zip(original, again, strict=True)
    )  # the cache is not modified


def test_each_pass_has_every_image_once_in_another_order():
    batch = shuffled_epochs(8, 4, 0, "x")
    first, second = (torch.cat([batch(2 * k), batch(2 * k + 1)]) for k in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(8))
    assert not torch.equal(first, second)


def test_every_step_has_new_anomalies(made, tmp_path):
    """With one image and nearly constant weights only the anomaly differs between steps."""
    options = {"lr": 1e-12, "warmup_steps": 0, "batch_size": 1}
    fit(made, tmp_path, "one.csv", {"sources": {"texture": 1.0}}, **options)
    losses = history(tmp_path, "loss_segmentation")
    assert len({round(loss, 7) for loss in losses}) == len(losses) == 6
    # The target is phi(I): for a reconstruction of zero the loss is its mean square, for any A.
    image = load_images(read_manifest(made / "one.csv"), SIZE).float() / 255
    select = FeatureSelector(
        stage("realnet").model.blocks, load_selection(made / "afs"), SIZE, True
    )
    squares = sum(f.square().mean().item() for f in select(load_backbone(made / "backbone")(image)))
    assert history(tmp_path, "loss_reconstruction") == pytest.approx([squares] * 6, rel=1e-5)


def test_loss_weights(made, tmp_path):
    plain = {"weight_decay": 0.0, "steps": 2}
    both = fit(made, tmp_path / "both", **plain)
    head = [key for key in both if key.startswith("discriminate.") and key.endswith("weight")]
    only = fit(made, tmp_path / "recon", segmentation_weight=0.0, **plain)
    none = fit(made, tmp_path / "none", segmentation_weight=0.0, reconstruction_weight=0.0, **plain)
    assert head and all(torch.equal(only[key], none[key]) for key in head)
    assert not any(torch.equal(both[key], none[key]) for key in head)
    rebuilt = [key for key in both if key.endswith("out.2.weight")]
    assert len(rebuilt) == 4 and all(none[key].abs().max() == 0 for key in rebuilt)
    assert all(only[key].abs().max() > 0 for key in rebuilt)
    fit(made, tmp_path / "scaled", segmentation_weight=2.0, reconstruction_weight=3.0, **plain)
    total, first, second = (
        history(tmp_path / "scaled", name)[0]
        for name in ("loss", "loss_segmentation", "loss_reconstruction")
    )
    assert total == pytest.approx(2 * first + 3 * second, rel=1e-5)


def test_epochs_end_with_a_short_batch(made, tmp_path):
    """Six images in batches of four: two steps per epoch; batches differ from those of `steps`."""
    epochs = {"steps": None, "epochs": 3, "batch_size": 4}
    by_epochs = fit(made, tmp_path / "epochs", **epochs)
    by_steps = fit(made, tmp_path / "steps", steps=6, batch_size=4)
    assert len(history(tmp_path / "epochs", "loss")) == 6
    assert not all(torch.equal(by_epochs[key], by_steps[key]) for key in by_steps)
    again = fit(made, tmp_path / "whole", steps=6, batch_size=6)
    whole = fit(made, tmp_path / "pass", steps=None, epochs=6, batch_size=6)
    assert all(torch.equal(whole[key], again[key]) for key in again)  # equal if batches fit
    official = stage("realnet", training={"steps": None, "epochs": 1000, "batch_size": 16}).training
    assert [steps_of(official, n) for n in (54, 209, 1000)] == [4000, 14000, 63000]
    for wrong in ({"epochs": 3}, {"steps": None}):
        with pytest.raises(UserError, match="training: give one of steps and epochs"):
            stage("realnet", training=wrong)


def test_activation_checkpointing_gives_the_same_gradients_in_less_memory(made, tmp_path):
    kept = fit(made, tmp_path / "kept")
    again = fit(made, tmp_path / "again", gradient_checkpointing=True)
    assert kept.keys() == again.keys()
    assert all(torch.allclose(kept[key], again[key], atol=1e-6) for key in kept)
    model = RealNet([8, 8, 8, 8], stage("realnet").model, SIZE)
    features = [torch.randn(2, 8, side, side) for side in (16, 8, 4, 2)]
    sizes = []
    for prepare in (lambda _: None, recompute_activations):
        prepare(model)
        seen = []

        def pack(tensor, seen=seen):
            seen.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            rebuilt = [net(f) for net, f in zip(model.reconstruct, features, strict=True)]
        assert all(r.requires_grad for r in rebuilt)
        sizes.append(sum(seen))
    assert 0 < sizes[1] < 0.6 * sizes[0]


def test_bf16_stays_near_fp32_and_channels_last_changes_rounding(made, tmp_path):
    exact = fit(made, tmp_path / "exact")
    for number, (compute, tolerance) in enumerate(
        (({"precision": "bf16"}, 0.02), ({"channels_last": False}, 1e-3))
    ):
        out = tmp_path / str(number)
        other = fit(made, out, compute=compute)
        assert all(other[key].dtype == exact[key].dtype for key in exact)
        assert not all(torch.equal(other[key], exact[key]) for key in exact)
        losses = history(out, "loss"), history(tmp_path / "exact", "loss")
        assert losses[0] == pytest.approx(losses[1], rel=tolerance)


def test_training_lowers_the_loss(made, tmp_path):
    fit(made, tmp_path, steps=40, checkpoint_every=100)
    losses = history(tmp_path, "loss_reconstruction")
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_failed_write_keeps_the_checkpoint(made, tmp_path):
    """With a folder in place of history.csv no model is written either, and a rerun resumes."""
    (tmp_path / "history.csv").mkdir(parents=True)
    with pytest.raises(OSError, match="history"):
        fit(made, tmp_path)
    assert (tmp_path / "checkpoint/last.pt").is_file()
    assert not (tmp_path / "model.safetensors").exists()


# --- models and their evaluation -----------------------------------------------------------------


def test_model_file_describes_itself(made):
    meta = read_json(made / "model/model.json")
    weights = safetensors.torch.load_file(made / "model/model.safetensors")
    assert not any(key.startswith(("extractor", "backbone", "network")) for key in weights)
    trainable = sum(
        v.numel() for k, v in weights.items() if "running" not in k and "num_b" not in k
    )
    assert meta["parameters"] == trainable
    assert meta["selection"]["indices"] == load_selection(made / "afs").indices
    assert meta["backbone"]["path"] == "../backbone" and meta["image_size"] == SIZE
    assert not (made / "model/checkpoint").exists()


def test_margins_do_not_depend_on_the_batch_size(made):
    runtime = start(stage("evaluate").compute)
    detector = load_detector(made / "model", runtime)
    items = [i for i in read_manifest(made / "manifest.csv") if i.split == "test"]
    images = load_images(items, SIZE)
    together = detector.margins(images, runtime, 6)
    assert together.shape == (6, SIZE, SIZE) and together.dtype == torch.float32
    assert torch.allclose(detector.margins(images, runtime, 1), together, atol=1e-4)
    assert not detector.model.training and together.std() > 0


def test_results_folder_can_be_moved(made, tmp_path):
    for name in ("backbone", "model"):
        shutil.copytree(made / name, tmp_path / "elsewhere" / name)
    runtime = start(stage("evaluate").compute)
    images = torch.randint(0, 256, (1, 3, SIZE, SIZE), dtype=torch.uint8)
    moved, here = (
        load_detector(root / "model", runtime).margins(images, runtime, 1)
        for root in (tmp_path / "elsewhere", made)
    )
    assert torch.equal(moved, here)
    with (tmp_path / "elsewhere/model/model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"not the file of model\.json"):
        load_detector(tmp_path / "elsewhere/model", runtime)


def test_metrics_match_the_stored_scores(made, tmp_path):
    manifest = made / "manifest.csv"
    evaluate(stage("evaluate"), manifest, made / "model", *RUN, "base", tmp_path)
    kept, metrics = np.load(tmp_path / "scores.npz"), read_json(tmp_path / "metrics.json")
    wanted = {"image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"}
    identity = {"dataset": "mine", "category": "cloth", "seed": 0, "variant": "base"}
    assert wanted | set(identity) | {"counts", "checkpoint"} <= set(metrics)
    assert {key: metrics[key] for key in identity} == identity
    assert metrics["counts"]["test_normal"] == metrics["counts"]["test_anomalous"] == 3
    assert kept["margins"].dtype == np.float32 and kept["margins"].shape == (6, SIZE, SIZE)
    assert kept["labels"].dtype == np.uint8 and kept["masks"].dtype == bool
    items = [i for i in read_manifest(manifest) if i.split == "test"]
    assert kept["paths"].tolist() == [str(i.path) for i in items]
    assert np.array_equal(kept["masks"], load_masks(items, SIZE).numpy())
    pixel = roc_auc_score(kept["masks"].ravel(), kept["margins"].ravel())
    assert metrics["pixel_auroc"] == pytest.approx(pixel, abs=1e-9)
    image = roc_auc_score(kept["labels"], kept["image_scores"])
    assert metrics["image_auroc"] == pytest.approx(image, abs=1e-9)
    probability = 1 / (1 + np.exp(-kept["margins"].astype(np.float64)))
    pool = stage("evaluate").evaluate.image_score_pool
    windows = np.lib.stride_tricks.sliding_window_view(probability, (pool, pool), (1, 2))
    assert np.allclose(kept["image_scores"], windows.mean((-1, -2)).max((1, 2)), atol=1e-9)
    rows = read_csv(tmp_path / "images.csv")
    assert [float(row["score"]) for row in rows] == pytest.approx(kept["image_scores"].tolist())
    assert [row["defect"] for row in rows] == [i.defect for i in items]


def test_metrics_without_anomalies_are_null(made, tmp_path):
    rows = [row for row in read_csv(made / "manifest.csv") if row["label"] == "0"]
    write_csv(tmp_path / "good.csv", rows, FIELDS)
    out = tmp_path / "out"
    with pytest.warns(UndefinedMetricWarning):
        evaluate(stage("evaluate"), tmp_path / "good.csv", made / "model", *RUN, "base", out)
    metrics = read_json(out / "metrics.json")
    assert metrics["image_auroc"] is None and metrics["pro"] is None
    assert os.path.getsize(out / "qualitative.png") > 500
