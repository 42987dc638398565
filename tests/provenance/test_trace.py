"""Tracing of a table to its inputs, and mismatches, on records written by the test."""

import json
import shutil
from pathlib import Path

import pytest
from builders import prepare
from PIL import Image
from small_runs import write_run
from typer.testing import CliRunner

from realnet.cli import app
from realnet.config.params import PROJECT, load
from realnet.config.sections import Prepare
from realnet.core.io import read_json, write_json
from realnet.provenance.record import Record
from realnet.report.report import report

PARAMS = {
    "preset": "smoke",
    "experiment": {"datasets": {"own": ["nut", "plate"]}, "variants": ["base", "texture"]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two categories and two variants: real manifests, evaluations and records; fake weights."""
    root = tmp_path_factory.mktemp("trace")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        write(root)
    return root


def write(root) -> None:
    params = load(PROJECT / "params.yaml", PARAMS)
    values = params.model_dump(mode="json")
    text = json.dumps({k: values[k] for k in ("experiment", "variants", "report", "groups")})
    (root / "params.json").write_text(text)
    for category in ("nut", "plate"):
        for number, place in enumerate(("train/good", "train/good", "test/good", "test/hole")):
            path = root / f"data/raw/own/{category}/{place}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (number, 9, 99)).save(path)
        mask = root / f"data/raw/own/{category}/ground_truth/hole/3_mask.png"
        mask.parent.mkdir(parents=True)
        Image.new("L", (16, 16), 255).save(mask)
        data = f"results/data/own/{category}"
        prepare("own", category, "data/raw/own", data, Prepare(allow_partial=True, layouts={}))
        for variant in ("base", "texture"):
            end = f"own/{category}/seed0/{variant}"
            manifest = f"{data}/manifest.csv"
            identity = {"dataset": "own", "category": category, "seed": 0}
            train(params, end, variant, {"manifest": manifest}, identity)
            folder = write_run(root / "results", "own", category, 0, variant).parent
            inputs = {"manifest": manifest, "model": f"results/realnet/{end}/model.json"}
            sections = json.loads(params.section_json("evaluate", variant))
            record = Record("evaluate", sections, inputs, **identity, variant=variant)
            record.write(folder if folder.name == variant else folder / variant, "cpu")
    report(root / "results", text)


def train(params, end, variant, inputs, identity) -> None:
    folder = f"results/realnet/{end}"
    write_json(f"{folder}/model.json", {"weights": variant})
    sections = json.loads(params.section_json("realnet", variant))
    Record("realnet", sections, inputs, **identity).write(folder, "cpu")


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy to modify, in the working folder."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


def trace(*words, status=0, table="results/tables/main.csv", params="params.json"):
    given = params if params.endswith(".yaml") else Path(params).read_text()
    done = CliRunner().invoke(app, ["trace", table, "--params", given, *words])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def test_a_table_lists_its_runs_and_one_is_shown_with_its_stages(root):
    listed = trace()
    assert "2 runs" in listed and "own/nut/seed0/base" in listed and "texture" not in listed
    assert "4 runs" in trace(table="results/tables/ablation.csv")
    shown = trace("--category", "plate")
    assert shown.startswith("own/plate/seed0/base: image_auroc 0.")
    order = [line.split()[0] for line in shown.splitlines() if line[:1].strip()]
    stages = ["evaluate", "realnet", "data"]
    assert order == ["own/plate/seed0/base:", *stages, "parameters", "packages"]
    manifest = read_json("results/evaluate/own/plate/seed0/base/stage.json")["inputs"]["manifest"]
    assert f"read   manifest: {manifest['path']} {manifest['sha256'][:8]}" in shown
    assert "lists 4 images (2 for training) and 1 masks" in shown
    assert "  training (read by realnet): " in shown and "\npackages  python " in shown
    assert "realnet/provenance/record.py" not in shown and "realnet/provenance/record.py" in trace(
        "--category", "plate", "--all"
    )


def test_a_result_by_its_folder_and_as_json(root):
    folder = "results/evaluate/own/nut/seed0/texture"
    shown = trace("--json", "trace.json", table=f"{folder}/per_image.npz")
    assert shown == trace(table=folder) and shown.startswith("own/nut/seed0/texture: ")
    (cell,) = read_json("trace.json")["cells"]
    assert [stage["stage"] for stage in cell["stages"]] == ["realnet", "evaluate"]
    assert cell["data"][0]["images"] == 4


def test_another_stage_by_its_folder(root):
    shown = trace(table=f"results/realnet/{NUT}")
    assert shown.startswith(f"{NUT}\n\nrealnet  ") and "\nevaluate" not in shown
    assert "everything matches" in trace("--check", table=f"results/realnet/{NUT}/model.json")


def test_nothing_has_changed(root):
    shown = trace("--check")
    # 4 images, a mask, their manifest, a model and two files of its evaluation, of two categories.
    assert "2 runs, 18 files checked: everything matches" in shown and "mismatch" not in shown


RAW = "data/raw/own/nut/test/hole/3.png"
NUT = "own/nut/seed0/base"


@pytest.mark.parametrize(
    ("path", "repair"),
    [
        (RAW, ""),
        ("data/raw/own/nut/ground_truth/hole/3_mask.png", ""),
        ("results/data/own/nut/manifest.csv", "results/data/own/nut/manifest.csv"),
        (f"results/realnet/{NUT}/model.json", f"results/realnet/{NUT}/stage.json"),
        (f"results/evaluate/{NUT}/metrics.json", f"results/evaluate/{NUT}/stage.json"),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_a_changed_or_missing_file_is_named_once(root, path, repair, gone):
    if gone:
        (root / path).unlink()
    else:
        content = bytearray((root / path).read_bytes())
        content[-3] ^= 1
        (root / path).write_bytes(content)
    if path.endswith(("metrics.json", "manifest.csv")) and not gone:
        content[-3] ^= 1
        (root / path).write_bytes(bytes(content) + b"\n")  # still readable
    shown = trace("--check", status=1)
    lines = [line for line in shown.splitlines() if line.startswith("mismatch")]
    line = lines.pop(0)
    assert line.startswith(f"mismatch: {path}: ") and ("missing" in line) == gone
    # Without its metrics a run is missing in the table, too.
    assert all(rest.startswith("mismatch: results/tables/main.csv: ") for rest in lines)
    assert bool(lines) == (gone and path.endswith("metrics.json"))
    assert (f"snakemake --cores all {repair}" in shown) if repair else "restore them" in shown


def test_made_from_an_input_that_was_rebuilt(root):
    """All records are consistent, but the evaluation is of an older model."""
    params = load(PROJECT / "params.yaml", PARAMS)
    inputs = {"manifest": "results/data/own/nut/manifest.csv"}
    write_json(f"results/realnet/{NUT}/model.json", {"weights": "others"})
    sections = json.loads(params.section_json("realnet", "base"))
    Record("realnet", sections, inputs, seed=0).write(f"results/realnet/{NUT}", "cpu")
    shown = trace("--check", status=1)
    (line,) = [line for line in shown.splitlines() if line.startswith("mismatch")]
    stage = f"results/evaluate/{NUT}/stage.json"
    assert line.startswith(f"mismatch: {stage}: made from results/realnet/{NUT}/model.json with")


def test_other_parameters_code_and_packages(root):
    shutil.copy(PROJECT / "params.yaml", "params.yaml")
    text = (root / "params.yaml").read_text().replace("\npreset: demo\n", "\npreset: smoke\n")
    (root / "params.yaml").write_text(text)
    path = root / f"results/realnet/{NUT}/stage.json"
    record = read_json(path)
    record["params"]["training"]["steps"] = 7
    record["versions"]["torch"] = "1.11.0"
    record["code"]["realnet/core/io.py"] = "0" * 16
    write_json(path, record)
    shown = trace("--check", status=1, params="params.yaml", table=f"results/evaluate/{NUT}")
    assert f"mismatch: results/realnet/{NUT}/stage.json: made with training.steps 7, now 6" in shown
    assert "differs: torch: " in shown and "differs: realnet/core/io.py: " in shown
    assert shown.count("mismatch: ") == 1


@pytest.mark.parametrize("table", ["main", "ablation"])
def test_a_removed_evaluation_is_a_mismatch(root, table):
    shutil.rmtree(f"results/evaluate/{NUT}")
    shown = trace("--check", status=1, table=f"results/tables/{table}.csv")
    assert f"mismatch: results/evaluate/{NUT}: the table shows this evaluation" in shown
    assert f"snakemake --cores all results/evaluate/{NUT}/stage.json" in shown


def test_a_missing_record_in_the_middle_of_a_chain(root):
    Path(f"results/realnet/{NUT}/stage.json").unlink()
    shown = trace("--check", status=1)
    assert f"mismatch: results/realnet/{NUT}/stage.json: missing" in shown
    assert f"snakemake --cores all results/realnet/{NUT}/stage.json" in shown


def test_what_is_not_compared_is_reported(root):
    for name in ("report.html", "tables/main.md"):
        shown = trace("--check", table=f"results/{name}")
        assert f"unknown: results/{name}: its own content is not checked" in shown
        assert "unknown: parameters: not compared" in shown


def test_a_table_that_differs_from_its_evaluations(root):
    path = root / "results/tables/main.csv"
    path.write_text(path.read_text().replace("own,2,", "own,2,9"))
    shown = trace("--check", status=1)
    assert "mismatch: results/tables/main.csv: line 2 differs from the evaluations" in shown
    assert "snakemake --cores 1 tables" in shown


def test_records_without_digests(root):
    path = root / f"results/realnet/{NUT}/stage.json"
    record = read_json(path)
    del record["outputs"], record["code"]
    write_json(path, record)
    shown = trace("--check")
    assert shown.count("unknown: ") == 3 and "everything matches" in shown


@pytest.mark.parametrize(
    ("table", "words", "message"),
    [
        ("results/tables/none.csv", (), "no such file"),
        ("results/tables/main.csv", ("--category", "bolt"), "no run with category bolt; there are"),
        ("params.json", (), "no evaluation is behind it"),
        ("results/realnet/own/nut", (), "not a result of a stage"),
    ],
)
def test_mistakes_are_one_line(root, table, words, message):
    done = CliRunner().invoke(
        app, ["trace", table, "--params", Path("params.json").read_text(), *words]
    )
    assert done.exit_code == 1 and message in str(done.exception)
    assert "\n" not in str(done.exception)
