"""The SIA dataset: resumable shards, images that depend only on their index, metadata."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import make_sia, prepare, sample_sdas, sample_shard, train_classifier, train_ddpm
from builders import params_for as stage
from builders import params_text as text
from typer.testing import CliRunner

from realnet.cli import app
from realnet.config.params import PROJECT, load
from realnet.core.errors import UserError
from realnet.core.io import read_csv, read_json, sha256
from realnet.datasets.demo.demo_dataset import make_demo
from realnet.datasets.fetch.archives import sources
from realnet.datasets.images import read_image
from realnet.datasets.licence import terms
from realnet.diffusion.sampler import SamplerSpec
from realnet.diffusion.shards import alone, shards_of
from realnet.provenance.stage_code import code_of
from realnet.stages.sia import FIELDS
from realnet.synthesis.sources import sdas_pool

SPEC = importlib.util.spec_from_file_location("dag", PROJECT / "workflow/scripts/dag.py")
dag = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dag)

CATEGORIES = ("hex_nut", "woven_fabric")
RUN = ("demo", "hex_nut", 0)
EIGHT = {"images": 8}  # of smoke: 3 steps, batches of 2, shards of 4


def pngs(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("images/*/*.png"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Manifests, a diffusion model of hex_nut, and an SIA dataset of eight images."""
    root = tmp_path_factory.mktemp("sia")
    make_demo(load(overrides={"preset": "smoke"}).data.demo, root / "raw")
    for category in CATEGORIES:
        prepare("demo", category, root / "raw", root / category)
    train_ddpm(stage("ddpm"), [root / "hex_nut/manifest.csv"], "demo", ["hex_nut"], 0, root / "m")
    sia(root, root / "sia")
    return root


def sia(root, out, **keys):
    """Build the dataset with other values of the section `sia`."""
    params = stage("sia", sia={**EIGHT, **keys})
    make_sia(params, root / "m", root / "hex_nut/manifest.csv", *RUN, out)
    return pngs(out)


def test_metadata_of_the_dataset(made):
    out = made / "sia"
    rows = read_csv(out / "manifest.csv")
    assert tuple(rows[0]) == FIELDS and [int(row["index"]) for row in rows] == list(range(8))
    low, high = load(overrides={"preset": "smoke"}).sia.strength
    strengths = [float(row["s"]) for row in rows]
    assert all(low <= s <= high for s in strengths) and len(set(strengths)) == 8
    for row in rows:
        assert sha256(out / row["path"]) == row["sha256"] and row["category"] == "hex_nut"
        assert read_image(out / row["path"]).shape == (32, 32, 3)
    assert len({row["seed"] for row in rows}) == len({row["sha256"] for row in rows}) == 8
    about = read_json(out / "sia.json")
    assert (about["images"], about["shards"], about["image_size"]) == (8, 2, 32)
    assert about["s"] == {
        "lowest": min(strengths),
        "mean": pytest.approx(np.mean(strengths)),
        "highest": max(strengths),
    }
    assert about["model_sha256"] == sha256(made / "m/model.safetensors")
    assert about["manifest_sha256"] == sha256(out / "manifest.csv")
    assert about["licence"]["name"] == "MIT" and about["settings"]["sia"]["steps"] == 3
    assert read_json(out / "stage.json")["images"] == 8
    assert read_image(out / "sheet.png").std() > 10
    assert not list(out.rglob("*.tmp"))


def test_strengths_are_uniform():
    sia = stage("sia")
    where = {"dataset": "demo", "category": "hex_nut", "seed": 0}
    spec = SamplerSpec(Path("m"), None, sia.sdas, 3, "sia", **where)
    values = np.array([spec.strength_of([0.1, 0.2], i) for i in range(4000)])
    assert values.min() >= 0.1 and values.max() <= 0.2
    counts, _ = np.histogram(values, 10, (0.1, 0.2))
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi square with 9 degrees, p = 0.001


def test_realnet_trains_on_sia_images(made):
    pool = sdas_pool(made / "sia", 32)
    assert pool.shape == (8, 3, 32, 32)


JOINT = {"scope": "dataset"}
GUIDED = {"ddpm": JOINT, "sdas": {"guidance_scale": 1.0}}


@pytest.mark.parametrize("kind", ["plain", "truncated", "from images", "guided"])
def test_images_equal_those_of_the_sdas_stage(made, tmp_path, kind):
    manifest, model, guide = made / "hex_nut/manifest.csv", made / "m", None
    keys = {}
    if kind == "from images":
        keys = {"sdas": {"start": "image", "start_fraction": 0.67}}
    elif kind == "truncated":
        keys = {"sdas": {"rounding": "truncate"}}
    elif kind == "guided":
        manifests = [made / name / "manifest.csv" for name in CATEGORIES]
        model, guide, keys = tmp_path / "m", tmp_path / "c", GUIDED
        train_ddpm(stage("ddpm", **keys), manifests, "demo", CATEGORIES, 0, model)
        train_classifier(stage("classifier", **keys), manifests, "demo", CATEGORIES, 0, guide)
    sdas = {**keys.get("sdas", {}), "images": 4, "batch_size": 2}
    sample_sdas(
        stage("sdas", **{**keys, "sdas": sdas}), model, manifest, *RUN, tmp_path / "a", guide
    )
    make_sia(stage("sia", **keys), model, manifest, *RUN, tmp_path / "b", guide)
    ours = {row["index"]: row for row in read_csv(tmp_path / "b/manifest.csv")}
    for row in read_csv(tmp_path / "a/manifest.csv"):
        same = ours[row["index"]]
        assert (same["s"], same["seed"]) == (row["strength"], row["seed"])
        before = (tmp_path / "a" / row["path"]).read_bytes()
        assert (tmp_path / "b" / same["path"]).read_bytes() == before
    if kind != "plain":
        assert pngs(tmp_path / "b")["00000.png"] != pngs(made / "sia")["00000.png"]


@pytest.mark.parametrize("keys", [{"shard": 2}, {"shard": 8}, {"images": 7}, {"images": 3}])
def test_images_do_not_depend_on_the_shards(made, tmp_path, keys):
    before, now = pngs(made / "sia"), sia(made, tmp_path, **keys)
    assert now == {name: before[name] for name in now} and len(now) == keys.get("images", 8)


def test_the_batch_size_changes_only_rounding(made, tmp_path):
    sia(made, tmp_path, batch_size=4)
    for row in read_csv(tmp_path / "manifest.csv"):
        a, b = (read_image(out / row["path"]).astype(int) for out in (tmp_path, made / "sia"))
        assert np.abs(a - b).max() <= 1


# Sampling in a separate process that stops in the second shard, after two of its four images.
JOB = """
import sys, time
from pathlib import Path
from realnet.config.params import stage_params
from realnet.diffusion import sampler as sampling
from realnet.registry import params_of
from realnet.stages import sia
from realnet.stages.job import Job
sample, calls = sampling.sample_images, []
def halting(*arguments, **keys):
    calls.append(1)
    if len(calls) == 4:
        print("halted", flush=True)
        time.sleep(120)
    return sample(*arguments, **keys)
sampling.sample_images = halting
text, model, manifest, out = sys.argv[1:]
inputs = {"ddpm": Path(model), "manifest": Path(manifest)}
sia.run(Job(stage_params(text, params_of("sia")), Path(out), "demo", ("hex_nut",), inputs=inputs))
"""


def test_a_killed_run_resumes_at_the_next_shard(made, tmp_path):
    out = tmp_path / "sia"
    given = [text("sia", sia=EIGHT), str(made / "m"), str(made / "hex_nut/manifest.csv"), str(out)]
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, *given],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert any(line.strip() == "halted" for line in iter(job.stdout.readline, ""))
        first, second = shards_of(stage("sia", sia=EIGHT).sia, out)
        with (
            pytest.raises(UserError, match="another process is sampling this shard"),
            alone(second),
        ):
            pass
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
        job.stdout.close()
    assert len(list((out / "images/.shard001.tmp").iterdir())) == 2
    assert first.record.is_file() and not second.record.exists()
    assert not (out / "manifest.csv").exists()
    drawn = {path: path.stat() for path in [first.record, *first.folder.iterdir()]}
    assert len(drawn) == 5
    assert sia(made, out) == pngs(made / "sia")
    for path, before in drawn.items():
        after = path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (out / "manifest.csv").read_bytes() == (made / "sia/manifest.csv").read_bytes()
    assert (out / "sheet.png").read_bytes() == (made / "sia/sheet.png").read_bytes()
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_only_a_damaged_shard_is_regenerated(made, tmp_path, damage, capsys):
    out = tmp_path / "sia"
    shutil.copytree(made / "sia", out)
    victim = out / "images/shard001/00005.png"
    victim.write_bytes(b"?") if damage == "changed" else victim.unlink()
    kept = (out / "images/shard000/00000.png").stat().st_mtime_ns
    assert sia(made, out) == pngs(made / "sia")
    assert (out / "images/shard000/00000.png").stat().st_mtime_ns == kept
    assert "00005.png: missing or changed, so shard 1 is sampled again" in capsys.readouterr().out


def test_growing_and_shrinking_a_dataset(made, tmp_path):
    out = tmp_path / "sia"
    sia(made, out, images=6)
    first = (out / "images/shard000/00000.png").stat().st_mtime_ns
    assert sia(made, out) == pngs(made / "sia")
    assert len(sia(made, out, images=4)) == len(read_csv(out / "manifest.csv")) == 4
    assert [p.name for p in (out / "images").iterdir()] == ["shard000"]
    assert (out / "images/shard000/00000.png").stat().st_mtime_ns == first


def test_images_of_other_settings_are_neither_mixed_nor_deleted(made, tmp_path):
    out = tmp_path / "sia"
    shutil.copytree(made / "sia", out)
    before = pngs(out)
    with pytest.raises(UserError, match=r"shards/000.json: sampled with strength \[16.0, 128.0\]"):
        sia(made, out, strength=[1.0, 2.0])
    train_ddpm(
        stage("ddpm"), [made / "hex_nut/manifest.csv"], "demo", ["hex_nut"], 1, tmp_path / "m"
    )
    with pytest.raises(UserError, match="sampled with model "):
        params = stage("sia", sia=EIGHT)
        make_sia(params, tmp_path / "m", made / "hex_nut/manifest.csv", *RUN, out)
    assert pngs(out) == before


def test_one_shard_by_command(made, tmp_path):
    given = ["sia", "--ddpm", made / "m", "--manifest", made / "hex_nut/manifest.csv"]
    given += ["--dataset", "demo", "--category", "hex_nut", "--params", text("sia", sia=EIGHT)]
    given = [*map(str, given), "--out", str(tmp_path), "--shard"]
    assert CliRunner().invoke(app, [*given, "1"]).exit_code == 0
    before = pngs(made / "sia")
    assert pngs(tmp_path) == {name: before[name] for name in list(before)[4:]}
    assert not (tmp_path / "manifest.csv").exists()
    message = str(CliRunner().invoke(app, [*given, "2"]).exception)
    assert message == "--shard 2: 8 images (sia.images) in shards of 4 make shards 0 to 1"


@pytest.mark.parametrize(
    ("keys", "category", "message"),
    [
        ({}, "woven_fabric", "trained for hex_nut, not for woven_fabric"),
        ({"sia": {"steps": 1001}}, "hex_nut", "sia.steps is 1001, but the model was trained with"),
        (GUIDED, "hex_nut", "needs the folder of the stage classifier"),
    ],
)
def test_incompatible_settings_are_refused(made, tmp_path, keys, category, message):
    manifest = made / "hex_nut/manifest.csv"
    with pytest.raises(UserError, match=message):
        params, where = stage("sia", **keys), ("demo", category, 0)
        sample_shard(params, made / "m", manifest, *where, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_shards_are_whole_batches():
    with pytest.raises(UserError, match="sia: shard is 100, not a multiple of batch_size 64"):
        load(overrides={"preset": "smoke", "sia": {"shard": 100, "batch_size": 64}})


def test_size_of_the_papers_dataset():
    paper = load(overrides={"preset": "paper"})
    assert (paper.sia.images, paper.sia.steps, paper.sia.strength) == (10000, 20, [0.1, 0.2])
    assert paper.data.image_size == 256
    plan = shards_of(paper.sia, Path("x"))
    assert [shard.first for shard in plan] == list(range(0, 10000, 512))
    assert sum(shard.count for shard in plan) == 10000 and plan[-1].count == 272


def test_more_images_keep_the_existing_full_shards():
    small, large = (
        load(overrides={"preset": "smoke", "sia": {"images": n}, "sdas": {"images": n}})
        for n in (6, 50)
    )
    assert (dag.sia_shards(small, "base"), dag.sia_shards(large, "base")) == (2, 13)
    sections = [dag.sia_shard_section(params, "base", 0) for params in (small, large)]
    assert sections[0] == sections[1]
    assert dag.sia_shard_section(small, "base", 1) != dag.sia_shard_section(large, "base", 1)
    assert json.loads(sections[0])["sdas"] == {
        "start": "noise",
        "start_fraction": 1.0,
        "guidance_scale": 0.0,
        "rounding": "round",
    }


def test_the_contact_sheet_and_the_licence_are_not_code_of_the_shards():
    drawing, whole = (set(code_of(name)) for name in ("sia_shard", "sia"))
    assert {"realnet.stages.sia_shard", "realnet.diffusion.scheduler"} <= drawing < whole
    assert "realnet.datasets.licence" in whole - drawing
    assert "realnet.plots.sia_sheet" not in whole


def test_images_have_the_licence_of_their_dataset():
    for dataset, source in sources().items():
        found = terms(dataset)
        assert (found["name"], found["citation"]) == (source.licence.name, source.citation)
    assert terms("demo")["name"] == "MIT"
    assert terms("bolts")["name"] is None and "owner" in terms("bolts")["use"]
