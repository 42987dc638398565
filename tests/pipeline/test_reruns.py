"""Changed code with the real Snakemake and DVC: what reruns, and how a change is accepted."""

import json
import subprocess

import pytest
from edits import flip_operator, reword

pytestmark = pytest.mark.pipeline

SCHEDULER = "realnet/diffusion/scheduler.py"
# Stages whose code contains the module, and the stages downstream.
BEHIND_SCHEDULER = {
    *("train_ddpm", "sample_sdas", "select_features", "train_realnet", "evaluate_detector"),
    *("check_samples", "make_report", "track_runs"),
}


def restore(copy):
    subprocess.run(["git", "checkout", "-q", "--", "."], cwd=copy.root, check=True)


@pytest.fixture
def source(finished):
    """The copy's package; edits are undone afterwards."""
    yield finished.root / "realnet"
    restore(finished)


def test_docstrings_layout_and_colours_rerun_no_computation(finished, source):
    for path in source.rglob("*.py"):
        reword(path)
    style = source / "plots/style.py"
    style.write_text(style.read_text().replace("#0072b2", "#0072b3"))
    assert set(finished.planned()) == {"make_report"}


def test_a_changed_operator_reruns_its_stages(finished, source):
    flip_operator(finished.root / SCHEDULER)
    planned = finished.planned()
    assert set(planned) == BEHIND_SCHEDULER
    assert (planned["train_ddpm"], planned["train_realnet"]) == (2, 2)  # of 2 and 4


def test_results_of_version_0_1_0_are_kept_by_one_command(finished, monkeypatch):
    """Its records list the modules among the inputs."""
    records = [p for p in (finished.root / ".snakemake/metadata").rglob("*") if p.is_file()]
    for path in records:
        record = json.loads(path.read_text())
        inputs = [name for name in record["input"] if not name.startswith("workflow/code/")]
        record["input"] = sorted([*inputs, "realnet/io.py"])
        record["code"] = "another command"
        path.write_text(json.dumps(record))
    results = finished.root / "results"
    before = {path: path.stat().st_mtime_ns for path in results.glob("*/demo/**/stage.json")}
    output = finished.snakemake("--quiet", "rules", ok=False)
    (line,) = [line for line in output.splitlines() if line.startswith("realnet: ")]
    assert "results of version 0.1.0" in line and "realnet code --accept" in line
    assert "Error" not in output and "Traceback" not in output
    # Who wants them recomputed says so.
    manifest = results / "data/demo/hex_nut/manifest.csv"
    written = manifest.stat().st_mtime_ns
    with monkeypatch.context() as environment:
        environment.setenv("REALNET_RECOMPUTE", "1")
        finished.snakemake("--", str(manifest.relative_to(finished.root)))
    assert manifest.stat().st_mtime_ns > written
    changed = ["--config", "training={lr: 0.001}"]
    assert "train_realnet" in finished.planned(*changed)
    accepted = finished.run("realnet", "code", "--accept").stdout
    assert "0 other jobs remain" in accepted
    assert finished.planned() == {}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_accepted_code_does_not_hide_a_changed_parameter(finished, source):
    flip_operator(finished.root / SCHEDULER)
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("pro_limit: 0.3", "pro_limit: 0.2"))
    accepted = finished.run("realnet", "code", "--accept").stdout
    assert "4 other jobs remain" in accepted, accepted  # the evaluations
    assert set(finished.planned()) == {"evaluate_detector", "make_report", "track_runs"}
    restore(finished)
    finished.run("realnet", "code", "--accept")
    assert finished.planned() == {}
