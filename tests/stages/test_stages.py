"""The stages in sequence at tiny scale: artifacts, seeds, resume, prediction."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import (
    check_ddpm,
    evaluate,
    make_backbone,
    prepare,
    sample_sdas,
    select_features,
    train_ddpm,
    train_realnet,
)
from builders import params_for as stage
from PIL import Image

from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256
from realnet.datasets.demo.demo_dataset import make_demo
from realnet.evaluation.maps import Request, measure
from realnet.evaluation.predict import PredictOptions, predict
from realnet.models.afs import load_selection
from realnet.models.features import load_backbone
from realnet.training import checkpoint
from realnet.training.checkpoint import Checkpoints

PROJECT = Path(__file__).resolve().parents[2]
RUN = ("demo", "hex_nut", 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results of all stages up to a trained detector."""
    root = tmp_path_factory.mktemp("stages")
    make_demo(load(overrides={"preset": "smoke"}).data.demo, root / "raw")
    for category in ("hex_nut", "woven_fabric"):
        prepare("demo", category, root / "raw", root / category)
    manifest = root / "hex_nut/manifest.csv"
    make_backbone(stage("backbone"), root / "backbone")
    train_ddpm(stage("ddpm"), [manifest], "demo", ["hex_nut"], 0, root / "ddpm")
    sample_sdas(stage("sdas"), root / "ddpm", manifest, *RUN, root / "sdas")
    cached = root / "backbone", root / "sdas"
    select_features(stage("afs"), manifest, *cached, *RUN, root / "afs")
    fit(root, root / "realnet")
    return root


def fit(root, out, seed=0, **overrides):
    inputs = root / "hex_nut/manifest.csv", root / "backbone", root / "afs", root / "sdas"
    train_realnet(stage("realnet", **overrides), *inputs, "demo", "hex_nut", seed, out)
    return sha256(out / "model.safetensors")


def test_artifacts_of_each_stage(made):
    config = read_json(made / "ddpm/config.json")
    assert config["categories"] == ["hex_nut"] and len(read_csv(made / "ddpm/history.csv")) == 6
    rows = read_csv(made / "sdas/manifest.csv")
    low, high = load(overrides={"preset": "smoke"}).sdas.strength
    assert [int(r["index"]) for r in rows] == [0, 1, 2, 3]
    assert all(low <= float(r["strength"]) <= high for r in rows)
    assert {r["checkpoint_sha256"] for r in rows} == {config["sha256"]}
    for folder in ("ddpm/samples.png", "sdas/grid.png", "afs/afs.png", "realnet/curves.png"):
        assert (made / folder).stat().st_size > 500
    with np.load(made / "sdas/grid.npz") as grid, np.load(made / "realnet/anomalies.npz") as drawn:
        count = len(grid["strengths"])
        assert grid["images"].shape[:2] == (len(grid["normal"]), count) and count > 1
        assert set(drawn["sources"].tolist()) == {"sdas", "texture"} and drawn["masks"].any()
    selection = load_selection(made / "afs")
    assert [len(i) for i in selection.indices] == [8, 8, 8, 8]
    assert all(i == sorted(set(i)) for i in selection.indices)
    assert not list(made.glob("*/checkpoint"))


def test_an_sdas_image_depends_only_on_its_index(made, tmp_path):
    manifest = made / "hex_nut/manifest.csv"
    params = stage("sdas", sdas={"batch_size": 3})
    sample_sdas(params, made / "ddpm", manifest, *RUN, tmp_path)
    from realnet.datasets.images import read_image

    for index in range(4):
        name = f"images/{index:05d}.png"
        a, b = read_image(made / "sdas" / name), read_image(tmp_path / name)
        # Convolutions may round differently for another batch size: at most one grey level.
        assert np.abs(a.astype(int) - b).max() <= 1


def test_official_sdas_images_have_one_strength_per_batch_and_jpeg_losses(made, tmp_path):
    manifest = made / "hex_nut/manifest.csv"
    from realnet.datasets.images import read_image

    plain, lossy = tmp_path / "plain", tmp_path / "lossy"
    for out, quality in ((plain, None), (lossy, 75)):
        params = stage(
            "sdas", sdas={"batch_size": 2, "strength_per": "batch", "jpeg_quality": quality}
        )
        sample_sdas(params, made / "ddpm", manifest, *RUN, out)
    low, high = stage("sdas").sdas.strength
    strengths = [float(row["strength"]) for row in read_csv(plain / "manifest.csv")]
    assert strengths[0] == strengths[1] != strengths[2] == strengths[3]
    assert all(low <= s <= high for s in strengths)
    for row in read_csv(lossy / "manifest.csv"):
        assert sha256(lossy / row["path"]) == row["sha256"]
        file = tmp_path / "official.jpg"
        Image.fromarray(read_image(plain / row["path"])).save(file)  # Pillow's default quality
        assert np.array_equal(read_image(lossy / row["path"]), read_image(file))
    assert [row["sha256"] for row in read_csv(lossy / "manifest.csv")] != [
        row["sha256"] for row in read_csv(plain / "manifest.csv")
    ]


def test_an_untrained_diffusion_model_is_flagged(made, tmp_path, capsys):
    paths = made / "ddpm", made / "backbone", made / "hex_nut/manifest.csv"
    found = check_ddpm(stage("sdas_check"), *paths, *RUN, tmp_path / "check")
    assert found["result"] == "warning" and found["images"] == 4
    (warning,) = found["warnings"]
    assert warning.startswith("demo/hex_nut: s = 0 samples are not like normal images: ")
    assert "raise ddpm.steps (it was 6)" in warning and "\n" not in warning
    assert f"warning: {warning}\n" in capsys.readouterr().out
    assert read_json(tmp_path / "check/stage.json")["warnings"] == [warning]
    assert (tmp_path / "check/samples.png").stat().st_size > 500
    again = check_ddpm(stage("sdas_check"), *paths, *RUN, tmp_path / "again")
    assert again == found


@pytest.mark.parametrize(
    ("images", "reason"), [(0, "sdas_check.images is 0"), (1, "8 normal images")]
)
def test_no_check_is_said_and_not_a_success(made, tmp_path, capsys, images, reason):
    paths = made / "ddpm", made / "backbone", made / "hex_nut/manifest.csv"
    params = stage("sdas_check", sdas_check={"images": images})
    found = check_ddpm(params, *paths, *RUN, tmp_path)
    assert found["result"] == "not checked" and reason in found["reason"]
    assert f"demo/hex_nut: diffusion model not checked: {found['reason']}" in (
        capsys.readouterr().out
    )


def test_sampling_from_images_and_joint_scope(made, tmp_path):
    manifests = [made / c / "manifest.csv" for c in ("hex_nut", "woven_fabric")]
    categories = ["hex_nut", "woven_fabric"]
    joint = stage("ddpm", ddpm={"scope": "dataset"})
    train_ddpm(joint, manifests, "demo", categories, 0, tmp_path / "all")
    params = stage("sdas", sdas={"start": "image", "start_fraction": 0.5})
    target = tmp_path / "sdas"
    sample_sdas(params, tmp_path / "all", manifests[1], "demo", "woven_fabric", 0, target)
    assert len(read_csv(target / "manifest.csv")) == 4
    checked = stage("sdas_check", sdas={"start": "image", "start_fraction": 0.5})
    inputs = tmp_path / "all", made / "backbone", manifests[1]
    found = check_ddpm(checked, *inputs, "demo", "woven_fabric", 0, tmp_path / "check")
    assert found["category"] == "woven_fabric" and found["images"] == 4
    assert all("start: image" not in warning for warning in found["warnings"])
    with pytest.raises(UserError, match="not for circuit_board"):
        sample_sdas(params, tmp_path / "all", manifests[1], "demo", "circuit_board", 0, target)
    with pytest.raises(UserError, match="scope is category"):
        train_ddpm(stage("ddpm"), manifests, "demo", categories, 0, tmp_path / "two")


def test_results_are_reproducible_and_depend_on_the_seed(made, tmp_path):
    first = sha256(made / "realnet/model.safetensors")
    assert fit(made, tmp_path / "again") == first
    assert fit(made, tmp_path / "other", seed=1) != first


JOB = """
import sys
from pathlib import Path
from realnet.config.params import stage_params
from realnet.registry import params_of
from realnet.training import checkpoint
save = checkpoint.Checkpoints.save
def slow(self, **state):
    save(self, **state)
    print("saved", flush=True)
    import time; time.sleep(60)
checkpoint.Checkpoints.save = slow
{call}
"""


def killed_after_first_checkpoint(call, out, monkeypatch):
    """Run the training in a subprocess and kill -9 it after its first checkpoint."""
    job = subprocess.Popen(
        [sys.executable, "-c", JOB.format(call=call)],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert any(line.strip() == "saved" for line in iter(job.stdout.readline, ""))
    with monkeypatch.context() as patched, pytest.raises(UserError, match="is working here"):
        patched.setattr(checkpoint, "PATIENCE", 0)
        Checkpoints(out, "x")
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert (out / "checkpoint/last.pt").is_file() and not (out / "model.safetensors").exists()


def test_a_killed_training_resumes_to_identical_weights(made, tmp_path, monkeypatch):
    out = tmp_path / "realnet"
    text = load(overrides={"preset": "smoke"}).section_json("realnet")
    folders = {name: str(made / name) for name in ("backbone", "afs", "sdas")}
    folders["manifest"] = str(made / "hex_nut/manifest.csv")
    call = (
        "from realnet.registry import params_of\n"
        "from realnet.stages import realnet\n"
        "from realnet.stages.job import Job\n"
        f"inputs = {{name: Path(path) for name, path in {folders!r}.items()}}\n"
        f"params = stage_params({text!r}, params_of('realnet'))\n"
        f"realnet.run(Job(params, Path({str(out)!r}), 'demo', ('hex_nut',), inputs=inputs))"
    )
    killed_after_first_checkpoint(call, out, monkeypatch)
    assert fit(made, out) == sha256(made / "realnet/model.safetensors")
    assert (out / "history.csv").read_bytes() == (made / "realnet/history.csv").read_bytes()


def test_a_killed_diffusion_training_resumes_to_identical_weights(made, tmp_path, monkeypatch):
    out, manifest = tmp_path / "ddpm", made / "hex_nut/manifest.csv"
    text = load(overrides={"preset": "smoke"}).section_json("ddpm")
    call = (
        "from realnet.stages.ddpm import run\n"
        "from realnet.stages.job import Job\n"
        f"inputs = {{'manifest/hex_nut': Path({str(manifest)!r})}}\n"
        f"params = stage_params({text!r}, params_of('ddpm'))\n"
        f"run(Job(params, Path({str(out)!r}), 'demo', ('hex_nut',), inputs=inputs))"
    )
    killed_after_first_checkpoint(call, out, monkeypatch)
    train_ddpm(stage("ddpm"), [manifest], "demo", ["hex_nut"], 0, out)
    assert sha256(out / "model.safetensors") == sha256(made / "ddpm/model.safetensors")


def test_a_checkpoint_of_other_parameters_is_not_resumed(made, tmp_path, capsys):
    folder = Checkpoints(tmp_path, "others")
    folder.save(step=5, history=[])
    os.close(folder.lock)
    assert fit(made, tmp_path) == sha256(made / "realnet/model.safetensors")
    assert "starts from scratch" in capsys.readouterr().out


def test_selecting_more_channels_than_available_is_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"afs.channels\[0\] is 99"):
        select_features(
            stage("afs", afs={"channels": [99, 8, 8, 8]}),
            made / "hex_nut/manifest.csv",
            made / "backbone",
            made / "sdas",
            *RUN,
            tmp_path,
        )


def test_metrics_can_be_recomputed_without_the_model(made, tmp_path):
    manifest = made / "hex_nut/manifest.csv"
    evaluate(stage("evaluate"), manifest, made / "realnet", *RUN, "base", tmp_path)
    kept = np.load(tmp_path / "scores.npz")
    assert kept["margins"].dtype == np.float32 and kept["masks"].dtype == bool
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    again = measure(Request(tmp_path / "scores.npz"))
    for name in ("image_auroc", "pixel_auroc", "pro"):
        assert again[name] == metrics[name]
    with pytest.raises(UserError, match="trained for demo/hex_nut"):
        evaluate(stage("evaluate"), manifest, made / "realnet", "demo", "nut", 0, "base", tmp_path)


def test_predict_gives_the_maps_of_the_evaluation(made, tmp_path):
    manifest = made / "hex_nut/manifest.csv"
    evaluate(stage("evaluate"), manifest, made / "realnet", *RUN, "base", tmp_path / "e")
    kept = np.load(tmp_path / "e/scores.npz")
    paths = [Path(p) for p in kept["paths"][:3]]
    params = stage("evaluate")
    pool = params.evaluate.image_score_pool
    out = tmp_path / "p"
    model = made / "realnet"
    options = PredictOptions(pool, raw=True, margins=True, batch_size=2)
    done = predict(model, paths, out, params.compute, options)
    assert [path for path, _ in done.scores] == paths and done.unreadable == []
    names = [row["name"] for row in read_csv(out / "scores.csv")]
    for index, (name, (_, score)) in enumerate(zip(names, done.scores, strict=True)):
        margin, level = np.load(out / f"{name}_margin.npy"), np.load(out / f"{name}.npy")
        assert np.abs(margin - kept["margins"][index]).max() < 1e-4
        assert np.abs(level - 1 / (1 + np.exp(-margin))).max() < 1e-6
        assert score == pytest.approx(kept["image_scores"][index], abs=1e-5)


def test_a_backbone_of_another_training_is_refused(made, tmp_path):
    import shutil

    for name in ("realnet", "backbone"):
        shutil.copytree(made / name, tmp_path / name)
    other = stage("backbone", backbone={"pretext": {"seed": 1}})
    make_backbone(other, tmp_path / "backbone")
    assert load_backbone(tmp_path / "backbone")
    with pytest.raises(UserError, match="not the backbone"):
        predict(tmp_path / "realnet", [], tmp_path / "p", stage("evaluate").compute)
