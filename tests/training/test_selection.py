"""Official selection of a checkpoint, and evaluation of the last and the best checkpoint."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from builders import evaluate, make_backbone, select_features, train_realnet
from scipy.special import expit
from test_training import FIELDS, RUN, SIZE, add, stage

from realnet.compute.runtime import start
from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256, write_csv, write_png
from realnet.datasets.images import load_images, load_masks
from realnet.datasets.items import read_manifest
from realnet.detectors.realnet_detector import load_detector
from realnet.metrics import image_auroc, image_score, pixel_metrics
from realnet.metrics.official import official_metrics
from realnet.training import checkpoint_selection as selection

STEPS = 6
CONSTANT = {
    "lr_schedule": "constant",
    "checkpoint_every": 2,
}  # independent of the length of the training


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six training images of noise; test: three of noise, three with a white square each."""
    root = tmp_path_factory.mktemp("selection")
    rows = []
    for number in range(6):
        add(rows, root, f"train{number}.png", "train")
    for number in range(3):
        add(rows, root, f"good{number}.png", "test")
        add(rows, root, f"spot{number}.png", "test", "spot")
    write_csv(root / "manifest.csv", rows, FIELDS)
    bare = [row | {"mask_path": "", "mask_sha256": ""} for row in rows]
    write_csv(root / "bare.csv", bare, FIELDS)
    write_csv(root / "train.csv", [row for row in rows if row["split"] == "train"], FIELDS)
    write_csv(root / "good.csv", [row for row in rows if row["label"] == 0], FIELDS)
    spots = [row for row in rows if row["split"] == "train" or row["label"] == 1]
    write_csv(root / "spots.csv", spots, FIELDS)
    make_backbone(stage("backbone"), root / "backbone")
    select_features(
        stage("afs"), root / "manifest.csv", root / "backbone", None, *RUN, root / "afs"
    )
    fit(root, root / "every", select_every=1)
    return root


def fit(root, out, manifest="manifest.csv", processes=1, **training):
    compute = {"processes": processes}
    params = stage("realnet", training=CONSTANT | {"steps": STEPS} | training, compute=compute)
    train_realnet(params, root / manifest, root / "backbone", root / "afs", None, *RUN, out)
    return safetensors.torch.load_file(out / "model.safetensors")


def rows_of(out):
    return [{k: float(v) for k, v in row.items()} for row in read_csv(out / "selection.csv")]


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


# --- selection does not affect the training ------------------------------------------------------


@pytest.mark.parametrize("ranking_norm", [True, False])
def test_selection_does_not_change_the_last_weights(made, tmp_path, ranking_norm):
    """Including the statistics of BatchNorm, which are saved with the weights."""
    model = {"rrs": {"ranking_norm": ranking_norm}}
    seen = {}
    for every in (None, 1):
        params = stage(
            "realnet", training=CONSTANT | {"steps": STEPS, "select_every": every}, model=model
        )
        out = tmp_path / str(every)
        inputs = made / "manifest.csv", made / "backbone", made / "afs", None
        train_realnet(params, *inputs, *RUN, out)
        seen[every] = safetensors.torch.load_file(out / "model.safetensors"), torch.get_rng_state()
        assert sha256(out / "history.csv") == sha256(tmp_path / "None/history.csv")
    assert len(rows_of(tmp_path / "1")) == STEPS  # evaluated at every step
    assert any("running_mean" in key for key in seen[1][0])
    assert equal(seen[None][0], seen[1][0])
    assert torch.equal(seen[None][1], seen[1][1])
    assert not (tmp_path / "None/best.safetensors").exists()


@pytest.mark.slow
def test_two_processes_select_the_same_checkpoint_as_one(made, tmp_path):
    """Only the main process evaluates; the other waits for it."""
    one = fit(made, tmp_path / "one", select_every=4)
    two = fit(made, tmp_path / "two", processes=2, select_every=4)
    for key, value in one.items():
        assert torch.allclose(value.float(), two[key].float(), atol=2e-4, rtol=1e-4), key
    found = [rows_of(tmp_path / name) for name in ("one", "two")]
    assert [row["step"] for row in found[0]] == [row["step"] for row in found[1]] == [4, 6]
    for a, b in zip(*found, strict=True):
        assert a["pixel_auroc"] == pytest.approx(b["pixel_auroc"], abs=0.01)


# --- which checkpoint is selected ----------------------------------------------------------------


def test_selection_csv_has_the_official_metrics_of_each_step(made, tmp_path):
    items = [item for item in read_manifest(made / "manifest.csv") if item.split == "test"]
    images, masks = load_images(items, SIZE), load_masks(items, SIZE)
    runtime = start(stage("evaluate").compute)
    pool = stage("evaluate").evaluate.image_score_pool
    rows = rows_of(made / "every")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert len({row["key"] for row in rows}) > 1
    for steps in (2, 6):
        fit(made, tmp_path / str(steps), steps=steps, select_every=None)
        detector = load_detector(tmp_path / str(steps), runtime)
        margins = detector.margins(images, runtime, 16).numpy()
        found = official_metrics(expit(margins), masks.numpy(), pool)
        row = rows[steps - 1]
        assert row["image_auroc"] == pytest.approx(found["image_auroc_official"], abs=1e-6)
        assert row["pixel_auroc"] == pytest.approx(found["pixel_auroc_official"], abs=1e-4)
        assert row["key"] == pytest.approx((row["image_auroc"] + row["pixel_auroc"]) / 2)


def test_the_best_weights_equal_those_of_a_shorter_training(made, tmp_path):
    rows = rows_of(made / "every")
    best = [row for row in rows if row["is_best"]]
    assert len(best) == 1 and best[0]["key"] == max(row["key"] for row in rows)
    meta = read_json(made / "every/model.json")
    assert meta["steps"] == STEPS
    assert meta["best"]["step"] == best[0]["step"] and meta["best"]["evaluations"] == STEPS
    assert meta["best"]["sha256"] == sha256(made / "every/best.safetensors")
    ended = fit(made, tmp_path, steps=int(best[0]["step"]), select_every=None)
    assert equal(ended, safetensors.torch.load_file(made / "every/best.safetensors"))


@pytest.fixture
def keys(monkeypatch):
    """A function that sets the metrics of each evaluation, so that an early step is the best."""

    def script(values):
        left = iter(values)
        monkeypatch.setattr(selection, "key_metric", lambda _: next(left))

    return script


def test_of_equal_checkpoints_the_later_is_kept(made, tmp_path, keys):
    keys([0.5, 0.9, 0.7, 0.9, 0.8, 0.6])
    fit(made, tmp_path / "tie", select_every=1)
    assert [row["is_best"] for row in rows_of(tmp_path / "tie")] == [0, 0, 0, 1, 0, 0]
    ended = fit(made, tmp_path / "four", steps=4, select_every=None)
    assert equal(ended, safetensors.torch.load_file(tmp_path / "tie/best.safetensors"))


@pytest.mark.parametrize("broken_at", [4, 5])
def test_a_killed_training_keeps_the_best_checkpoint(made, tmp_path, keys, monkeypatch, broken_at):
    """Killed at step 5, after the checkpoint at 4, or while evaluating at 4, before it."""
    found = [0.5, 0.9, 0.9, 0.3, 0.2, 0.1]
    keys(found)
    whole = fit(made, tmp_path / "whole", select_every=1)
    look = selection.BestOnTest.look

    def killed(self, step, runtime):
        if step == broken_at:
            raise KeyboardInterrupt
        look(self, step, runtime)

    monkeypatch.setattr(selection.BestOnTest, "look", killed)
    keys(found)
    with pytest.raises(KeyboardInterrupt):
        fit(made, tmp_path / "killed", select_every=1)
    left = sorted(p.name for p in (tmp_path / "killed").rglob("*") if p.is_file())
    assert left == ["last.pt", "lock"]  # no partial files
    # A copy, since the process of the tests holds the lock until it exits.
    shutil.copytree(tmp_path / "killed", tmp_path / "again")
    monkeypatch.setattr(selection.BestOnTest, "look", look)
    keys(found[4:] if broken_at == 5 else found[2:])  # resumes from 4, or from 2
    resumed = fit(made, tmp_path / "again", select_every=1)
    assert equal(whole, resumed)
    for name in ("best.safetensors", "selection.csv", "history.csv"):
        assert sha256(tmp_path / "whole" / name) == sha256(tmp_path / "again" / name), name
    assert read_json(tmp_path / "again/model.json")["best"]["step"] == 3


def test_selection_interval(made, tmp_path):
    """In steps or, if the length is in epochs, in epochs; always after the last step."""
    fit(made, tmp_path / "steps", select_every=4)
    assert [row["step"] for row in rows_of(tmp_path / "steps")] == [4, 6]
    fit(made, tmp_path / "rare", select_every=100)
    assert [row["step"] for row in rows_of(tmp_path / "rare")] == [6]
    # Six images in batches of four: two steps per epoch.
    fit(made, tmp_path / "epochs", steps=None, epochs=5, batch_size=4, select_every=2)
    assert [row["step"] for row in rows_of(tmp_path / "epochs")] == [4, 8, 10]


def test_images_without_pixel_ground_truth_are_not_selected_on(made, tmp_path):
    rows = read_csv(made / "manifest.csv")
    blank = {"path": tmp_path / "blank.png", "mask_path": tmp_path / "empty.png"}
    write_png(blank["path"], np.full((SIZE, SIZE, 3), 255, np.uint8))
    write_png(blank["mask_path"], np.zeros((SIZE, SIZE), np.uint8))
    blank |= {"sha256": sha256(blank["path"]), "mask_sha256": sha256(blank["mask_path"])}
    spot = next(row for row in rows if row["defect"] == "spot")
    more = [row | {"pixel_labelled": 1} for row in rows] + [spot | blank | {"pixel_labelled": 0}]
    write_csv(tmp_path / "more.csv", more, [*FIELDS, "pixel_labelled"])
    fit(made, tmp_path / "more", tmp_path / "more.csv", select_every=1)
    assert rows_of(tmp_path / "more") == rows_of(made / "every")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("bare.csv", "the test images have no masks"),
        ("train.csv", "there are no test images"),
        ("good.csv", "the test images have no masks"),
        ("spots.csv", "no test image is normal"),
    ],
)
def test_without_both_classes_selection_is_skipped_with_a_notice(
    made, tmp_path, capsys, manifest, message
):
    for name in ("best.safetensors", "selection.csv"):  # of an earlier training
        (tmp_path / name).write_text("old")
    fit(made, tmp_path, manifest, steps=2, select_every=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "select_every" in line]
    assert len(lines) == 1 and message in lines[0]
    assert read_json(tmp_path / "model.json")["best"] is None
    assert not (tmp_path / "best.safetensors").exists()
    assert not (tmp_path / "selection.csv").exists()


# --- evaluation of both checkpoints --------------------------------------------------------------


def scored(made, model, out):
    evaluate(stage("evaluate"), made / "manifest.csv", model, *RUN, "base", out)
    return read_json(out / "metrics.json")


def test_one_run_gives_four_protocols(made, tmp_path):
    metrics = scored(made, made / "every", tmp_path)
    found = metrics["protocols"]
    assert set(found) == {"strict_last", "strict_best", "official_last", "official_best"}
    kept = np.load(tmp_path / "scores.npz")
    items = [item for item in read_manifest(made / "manifest.csv") if item.split == "test"]
    images, masks = load_images(items, SIZE), load_masks(items, SIZE).numpy()
    params = stage("evaluate").evaluate
    runtime = start(stage("evaluate").compute)
    margins = {
        name: load_detector(made / "every", runtime, name).margins(images, runtime, 16).numpy()
        for name in ("last", "best")
    }
    assert np.abs(kept["margins"] - margins["last"]).max() == 0  # maps of the last checkpoint only
    assert np.abs(margins["best"] - margins["last"]).max() > 0
    step = read_json(made / "every/model.json")["best"]["step"]
    assert step < STEPS  # else the two would be the same here
    for name, (checkpoint, steps) in {
        "last": ("last", STEPS),
        "best": ("best_on_test", step),
    }.items():
        exact = {
            "image_auroc": image_auroc(
                image_score(margins[name], params.image_score_pool), kept["labels"]
            ),
            **pixel_metrics(margins[name], masks, params.pro_limit),
        }
        strict, official = found[f"strict_{name}"], found[f"official_{name}"]
        wanted = {"image_auroc", "image_ap", "image_f1_max", "aupimo"}
        wanted |= {"pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"}
        assert set(strict) == wanted | {"checkpoint", "step"}
        for metric in ("image_auroc", "pixel_auroc", "pixel_ap", "pro"):
            assert strict[metric] == pytest.approx(exact[metric], abs=1e-12), metric
        quirks = official_metrics(expit(margins[name]), masks, params.image_score_pool)
        assert official == {"checkpoint": checkpoint, "step": steps} | quirks
        assert (strict["checkpoint"], strict["step"]) == (checkpoint, steps)
    headline = {k: metrics[k] for k in ("image_auroc", "pixel_auroc", "pro")}
    assert headline == {k: found["strict_last"][k] for k in headline}
    assert metrics["checkpoint"] == "last"
    rows = {row["step"]: row for row in rows_of(made / "every")}
    assert found["official_best"]["image_auroc_official"] == rows[step]["image_auroc"]


def test_without_selection_there_is_no_best_protocol(made, tmp_path):
    fit(made, tmp_path / "model", select_every=None)
    found = scored(made, tmp_path / "model", tmp_path / "out")["protocols"]
    assert found["strict_best"] is None and found["official_best"] is None
    assert found["official_last"]["pro_official"] is not None
    with pytest.raises(UserError, match="no checkpoint that is best on the test set") as error:
        load_detector(tmp_path / "model", start(stage("evaluate").compute), "best")
    assert "\n" not in str(error.value)


def test_official_metrics_need_masks(made, tmp_path):
    fit(made, tmp_path / "model", "bare.csv", select_every=1)
    evaluate(
        stage("evaluate"), made / "bare.csv", tmp_path / "model", *RUN, "base", tmp_path / "out"
    )
    found = read_json(tmp_path / "out/metrics.json")["protocols"]
    assert found["strict_last"]["image_auroc"] is not None
    assert found["strict_last"]["pro"] is None
    assert found["official_last"]["image_auroc_official"] is None
    assert found["official_best"] is None


def test_weights_that_differ_from_their_digest_are_refused(made, tmp_path):
    fit(made, tmp_path / "model", steps=2, select_every=2)
    with (tmp_path / "model/best.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"best\.safetensors: missing, or not the file"):
        scored(made, tmp_path / "model", tmp_path / "out")


# --- parameters ----------------------------------------------------------------------------------


def test_the_image_score_window_retrains_only_where_selection_uses_it():
    def load_on(**overrides):
        on = {"training": {"select_every": 100}}
        return load(overrides=on | overrides)

    def given(**overrides):
        return load_on(**overrides).section_json("realnet")

    plain = {"evaluate": {"pro_limit": 0.2, "batch_size": 3}}
    pool = {"evaluate": {"image_score_pool": 2}}
    off = {"training": {"select_every": None}}
    assert given() == given(**plain) != given(**pool)
    assert given(**off) == given(**off, **pool)
    assert json.loads(given(**pool))["evaluate"] == {"image_score_pool": 2}
    variants = {"pool": pool, "limit": plain, "both": pool | {"afs": {"batches": 1}}}
    params = load_on(variants=variants)
    assert [params.shared_variant("realnet", name) for name in variants] == ["pool", "base", "both"]
    params = load_on(variants=variants, **off)
    assert params.shared_variant("realnet", "pool") == "base"
    assert params.shared_variant("afs", "pool") == "base"


def test_presets_select_checkpoints_as_the_official_code():
    paper = load(overrides={"preset": "paper"}).training
    assert (paper.epochs, paper.select_every) == (1000, 5)
    with pytest.raises(UserError, match=r"training\.select_every"):
        load(overrides={"training": {"select_every": 0}})
