"""The real DAG at smoke scale: its results, reruns, and errors."""

import json
import shutil

import pytest
from edits import flip_operator, reword

from realnet.core.io import read_csv

pytestmark = pytest.mark.pipeline
SLOW = pytest.mark.slow

RUNS = [
    f"demo/{category}/seed0/{variant}"
    for category in ("hex_nut", "woven_fabric")
    for variant in ("base", "texture")
]


def test_every_run_is_evaluated_and_reported(finished):
    results = finished.root / "results"
    table = json.loads((results / "metrics.json").read_text())
    assert list(table) == ["demo"] and list(table["demo"]) == ["base", "texture"]
    for variant in table["demo"].values():
        assert set(variant) == {"hex_nut", "woven_fabric", "mean"}
        assert set(variant["mean"]) == {"image_auroc", "pixel_auroc", "pro"}
    for run in RUNS:
        metrics = json.loads((results / "evaluate" / run / "metrics.json").read_text())
        values = table["demo"][metrics["variant"]][metrics["category"]]
        assert values["pixel_auroc"] == metrics["pixel_auroc"]
        assert 0 <= metrics["pro"] <= 1


def test_variants_share_what_they_do_not_change(finished):
    results = finished.root / "results"
    assert {p.name for p in results.glob("ddpm/*/*/*/*")} == {"base"}
    assert {p.name for p in results.glob("afs/*/*/*/*")} == {"base", "texture"}


def test_each_diffusion_model_is_checked(finished):
    """These are as good as untrained."""
    results = finished.root / "results"
    rows = read_csv(results / "tables/sdas_check.csv")
    assert [(row["category"], row["variant"]) for row in rows] == [
        ("hex_nut", "base"),
        ("woven_fabric", "base"),
    ]
    assert {row["result"] for row in rows} == {"warning"}
    for row in rows:
        log = results / f"logs/sdas_check/demo/{row['category']}/seed0/base.log"
        assert f"warning: demo/{row['category']}: s = 0 samples" in log.read_text()
        assert f"demo/{row['category']}: s = 0 samples" in (results / "report.html").read_text()


def test_each_stage_leaves_its_record_and_no_checkpoint(finished):
    results = finished.root / "results"
    records = [json.loads(p.read_text()) for p in results.glob("*/**/stage.json")]
    stages = {"backbone", "ddpm", "sdas", "sdas_check", "afs", "realnet", "evaluate"}
    assert {record["stage"] for record in records} == stages
    assert all(record["git_commit"] and record["versions"]["torch"] for record in records)
    assert not list(results.glob("**/checkpoint"))


def test_mlflow_has_one_run_per_evaluation(finished):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("realnet-bench")
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_name for run in runs}
    assert len(names) == len(runs)
    for run in RUNS:
        assert any(all(part in name for part in run.split("/")) for name in names), names
    assert all("image_auroc" in run.data.metrics for run in runs)


def test_without_mlflow_a_run_succeeds_and_is_logged_later(finished, monkeypatch):
    receipt = finished.root / "results/tracking/runs.json"
    before = json.loads(receipt.read_text())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")  # no server
    first = finished.snakemake("--forcerun", "track_runs")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    again = finished.snakemake()
    assert "Nothing to be done" in again and "secret" not in first + again
    (line,) = {line for line in (first + again).splitlines() if "Not logged yet" in line}
    assert line in first and line in again and "no answer" in line
    command = line.partition("realnet track ")[2].split()
    finished.run("realnet", "track", *command)
    assert json.loads(receipt.read_text()) == before
    assert "Not logged yet" not in finished.snakemake("--dry-run")


def test_nothing_to_do_after_a_finished_run(finished):
    assert finished.planned() == {}


@pytest.mark.parametrize(
    ("override", "rules"),
    [
        ("report={digits: 2}", {"make_report"}),
        ("evaluate={pro_limit: 0.2}", {"evaluate_detector", "make_report", "track_runs"}),
        (
            "training={lr: 0.001}",
            {"train_realnet", "evaluate_detector", "make_report", "track_runs"},
        ),
        (  # which affects the selection on the test set
            "evaluate={image_score_pool: 2}",
            {"train_realnet", "evaluate_detector", "make_report", "track_runs"},
        ),
        (
            "sdas={steps: 2}",
            {"sample_sdas", "select_features", "train_realnet", "evaluate_detector"}
            | {"check_samples", "make_report", "track_runs"},
        ),
        ("sdas_check={images: 3}", {"check_samples", "make_report"}),
    ],
)
def test_a_changed_parameter_reruns_the_stages_that_read_it(finished, override, rules):
    planned = finished.planned("--config", override)
    assert set(planned) == rules
    if "sdas=" in override:  # the variant on textures does not read SDAS images
        assert planned["train_realnet"] == 2
    elif "train_realnet" in rules:
        assert planned["train_realnet"] == 4


def test_both_checkpoints_are_kept_and_evaluated(finished):
    results = finished.root / "results"
    for run in RUNS:
        rows = read_csv(results / "realnet" / run / "selection.csv")
        assert [row["step"] for row in rows] == ["3", "6"]
        assert (results / "realnet" / run / "best.safetensors").is_file()
        found = json.loads((results / "evaluate" / run / "metrics.json").read_text())["protocols"]
        best = [row for row in rows if row["is_best"] == "1"]
        assert [str(found["official_best"]["step"])] == [row["step"] for row in best]
        assert found["strict_last"]["step"] == 6
    rows = read_csv(results / "tables/protocols.csv")
    assert {row["variant"] for row in rows} == {"base", "texture"}
    assert all(row["best_minus_last"] and row["official_best"] for row in rows)


@pytest.mark.slow
def test_without_selection_the_last_weights_are_identical_and_reevaluated(finished):
    """Although the weights that the evaluation reads are identical."""
    model, scored = (finished.root / "results" / s / RUNS[0] for s in ("realnet", "evaluate"))
    before = (model / "model.safetensors").read_bytes()
    target = f"results/evaluate/{RUNS[0]}/metrics.json"
    finished.snakemake("--config", "training={select_every: null}", "--", target)
    assert (model / "model.safetensors").read_bytes() == before
    assert not (model / "best.safetensors").exists()
    assert json.loads((scored / "metrics.json").read_text())["protocols"]["strict_best"] is None
    finished.snakemake()
    assert (model / "best.safetensors").is_file()


def test_one_more_seed_runs_that_seed_only(finished):
    planned = finished.planned("--config", "experiment={seeds: [0, 1]}")
    assert planned["train_realnet"] == 4 and planned["train_ddpm"] == 2
    assert "make_backbone" not in planned and "prepare" not in planned


def test_tables_come_from_result_files_alone(finished):
    table = finished.root / "results/tables/main.csv"
    before = table.read_bytes()
    table.unlink()
    finished.snakemake("tables")
    assert table.read_bytes() == before


@SLOW  # test_repeat.py recomputes all stages of a run
def test_same_seed_gives_the_same_metrics(finished):
    folder = finished.root / "results/evaluate" / RUNS[0]
    model = finished.root / "results/realnet" / RUNS[0] / "model.safetensors"
    before = (folder / "metrics.json").read_bytes(), model.read_bytes()
    target = f"results/evaluate/{RUNS[0]}/metrics.json"
    finished.snakemake("--forcerun", "train_realnet", "--", target)
    assert ((folder / "metrics.json").read_bytes(), model.read_bytes()) == before
    finished.snakemake()


@pytest.mark.parametrize(
    ("override", "names"),
    [
        (["trainning={steps: 1}"], ["trainning"]),
        pytest.param(["training={stepz: 1}"], ["training.stepz"], marks=SLOW),
        pytest.param(["training={steps: 0}"], ["training.steps"], marks=SLOW),
        pytest.param(["preset=papper"], ["papper", "paper"], marks=SLOW),
        (["experiment={datasets: {demo: [hexnut]}}"], ["hexnut", "hex_nut"]),
        (["experiment={datasets: {mvtec_ad: all}}"], ["mvtec_ad", "data/raw"]),
        pytest.param(["experiment={variants: [base, pca]}"], ["pca"], marks=SLOW),
        (["backbone={source: file, file: weights/no.pth, sha256: abcd}"], ["weights/no.pth"]),
    ],
)
def test_user_errors_are_one_line_before_any_job(finished, override, names):
    output = finished.snakemake("--config", *override, ok=False)
    lines = [line for line in output.splitlines() if line.startswith("realnet: ")]
    assert len(lines) == 1, output
    assert all(name in lines[0] for name in names), lines[0]
    assert "Traceback" not in output and "rule " not in output


def test_a_corrupt_image_of_an_own_data_set_is_named(finished):
    raw = finished.root / "data/raw"
    shutil.copytree(raw / "demo/hex_nut", raw / "mine/part")
    broken = next((raw / "mine/part/train/good").glob("*.png"))
    broken.write_bytes(broken.read_bytes()[:50])
    override = ["--config", "experiment={datasets: {mine: [part]}}"]
    try:
        output = finished.snakemake(*override, "--", "data", ok=False)
        assert f"mine/part/train/good/{broken.name}" in output
        broken.unlink()
        finished.snakemake(*override, "--", "data")
        assert (finished.root / "results/data/mine/part/manifest.csv").is_file()
    finally:
        shutil.rmtree(raw / "mine")
        shutil.rmtree(finished.root / "results/data/mine", ignore_errors=True)


def test_lint_is_clean(finished):
    output = finished.snakemake("--lint")
    assert "Congratulations" in output, output


def changed_in_dvc(copy) -> set[str]:
    return set(json.loads(copy.run("dvc", "status", "--json").stdout))


def test_dvc_runs_the_same_dag(finished):
    metrics = finished.root / "results/metrics.json"
    before = metrics.read_bytes()
    finished.run("dvc", "repro", "-q")
    assert metrics.read_bytes() == before
    assert finished.planned() == {}
    status = finished.run("dvc", "status").stdout
    assert "up to date" in status, status
    assert changed_in_dvc(finished) == set()
    scheduler = finished.root / "realnet/diffusion/scheduler.py"
    text = scheduler.read_text()
    reword(scheduler)
    finished.run("realnet", "code")
    assert changed_in_dvc(finished) == {"code"}  # which always runs and changes no file
    flip_operator(scheduler)
    finished.run("realnet", "code")
    assert changed_in_dvc(finished) == {
        *("code", "ddpm", "classifier", "sdas", "sdas_check", "sia")
    }
    scheduler.write_text(text)
    finished.run("realnet", "code")
    assert changed_in_dvc(finished) == set()
    assert "pixel_auroc" in finished.run("dvc", "metrics", "show", "--json").stdout
