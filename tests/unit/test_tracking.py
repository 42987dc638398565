"""Runs in a real MLflow store (SQLite), from small result files written by hand."""

import json
import multiprocessing
from pathlib import Path

import pytest

from realnet.errors import UserError
from realnet.io import write_csv, write_json
from realnet.tracking import contents, curves, flatten, lineage, matrix_of, thin, track

EXPERIMENT = {
    "name": "test",
    "datasets": {"demo": ["nut"]},
    "seeds": [0],
    "variants": ["base", "texture"],
}
PARAMS = json.dumps(
    {"experiment": EXPERIMENT, "variants": {"base": {}, "texture": {"synthesis": {}}}}
)


def stage(folder: Path, name: str, params: dict, inputs: dict[str, Path]) -> None:
    write_json(
        folder / "stage.json",
        {
            "stage": name,
            "params": params,
            "inputs": {n: {"path": str(p), "sha256": f"{n}-digest"} for n, p in inputs.items()},
            "device": "cpu",
            "wall_s": 2.5,
            "peak_memory_mb": 100,
            "finished": "2026-01-02T03:04:05+00:00",
            "git_commit": "abc",
        },
    )


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two variants of one category that share a diffusion model; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    root = Path("results")
    manifest = root / "data/demo/nut/manifest.csv"
    write_csv(manifest, [{"path": "a.png"}], ["path"])
    ddpm = root / "ddpm/demo/nut/seed0/base"
    stage(ddpm, "ddpm", {"ddpm": {"steps": 3}}, {"manifest/nut": manifest})
    losses = [{"step": i, "loss": 1 / (i + 1), "lr": 0.1} for i in range(3)]
    write_csv(ddpm / "history.csv", losses, ["step", "loss", "lr"])
    for i, variant in enumerate(("base", "texture")):
        model = root / f"realnet/demo/nut/seed0/{variant}"
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(variant.encode())
        write_csv(model / "history.csv", losses, ["step", "loss", "lr"])
        looked = [{"step": 2, "image_auroc": 0.7, "key": 0.75}]
        write_csv(model / "selection.csv", looked, ["step", "image_auroc", "key"])
        params = {"training": {"lr": 0.1 * (i + 1)}, "evaluate": {"image_score_pool": None}}
        stage(model, "realnet", params, {"ddpm": ddpm / "config.json"})
        folder = root / f"evaluate/demo/nut/seed0/{variant}"
        measured = {
            "image_auroc": 0.9 - i / 10,
            "pixel_auroc": 0.8,
            "pro": None,
            "variant": variant,
            "protocols": {
                "strict_last": {"checkpoint": "last", "step": 3, "image_auroc": 0.9 - i / 10},
                "official_best": {"step": 2, "image_auroc_official": 0.95, "pro_official": None},
                "strict_best": None,
            },
        }
        write_json(folder / "metrics.json", measured)
        (folder / "qualitative.png").write_bytes(b"png")
        inputs = {"manifest": manifest, "model": model / "model.json"}
        stage(folder, "evaluate", {"evaluate": {"image_score_pool": 4, "batch_size": 2}}, inputs)
    return root


def active():
    """Name -> run, of the runs that MLflow shows."""
    import os

    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("test")
    runs = client.search_runs([experiment.experiment_id])
    names = [run.info.run_name for run in runs]
    assert len(set(names)) == len(names), names
    return client, dict(zip(names, runs, strict=True))


def test_a_run_shows_what_its_files_say(results):
    track(results, PARAMS, Path("receipt.json"))
    client, runs = active()
    assert set(runs) == {
        *("demo/nut/seed0/base", "demo/nut/seed0/texture"),
        *("demo/mean/base", "demo/mean/texture"),
    }
    run = runs["demo/nut/seed0/base"]
    assert run.data.metrics["image_auroc"] == 0.9
    assert "pro" not in run.data.metrics  # undefined is not a number
    assert run.data.params["training.lr"] == "0.1"
    assert run.data.params["ddpm.steps"] == "3"  # found through the inputs of the stages
    assert run.data.params["variant"] == "base"
    assert run.data.tags["input.evaluate.manifest"] == "manifest-digest"
    assert len(run.data.tags["model_sha256"]) == 64
    assert run.data.metrics["seconds/total"] == 7.5
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "ddpm/loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    files = [f.path for f in client.list_artifacts(run.info.run_id, "figures")]
    assert files == ["figures/heat_maps.png"]
    receipt = json.loads(Path("receipt.json").read_text())
    assert {r["run_id"] for r in receipt["runs"].values()} == {r.info.run_id for r in runs.values()}


def test_a_run_has_the_metrics_of_each_protocol(results):
    track(results, PARAMS)
    client, runs = active()
    run = runs["demo/nut/seed0/base"]
    found = {name: value for name, value in run.data.metrics.items() if "official" in name}
    assert found == {"official_best/step": 2.0, "official_best/image_auroc_official": 0.95}
    assert not any(name.startswith("strict") for name in run.data.metrics)
    history = client.get_metric_history(run.info.run_id, "on_test/image_auroc")
    assert [(m.step, m.value) for m in history] == [(2, 0.7)]
    assert "on_test/key" in run.data.metrics
    # Those of the evaluation itself, not what the training noted of its section.
    assert run.data.params["evaluate.image_score_pool"] == "4"
    assert run.data.params["evaluate.batch_size"] == "2"
    assert runs["demo/mean/base"].data.metrics["official_best/image_auroc_official"] == 0.95


def test_again_changes_nothing_and_a_new_result_replaces_its_run(results):
    track(results, PARAMS)
    _, before = active()
    track(results, PARAMS)
    _, same = active()
    assert {n: r.info.run_id for n, r in same.items()} == {
        n: r.info.run_id for n, r in before.items()
    }

    path = results / "evaluate/demo/nut/seed0/texture/metrics.json"
    write_json(path, json.loads(path.read_text()) | {"image_auroc": 0.5})
    track(results, PARAMS)
    _, after = active()
    assert set(after) == set(before)
    assert after["demo/nut/seed0/texture"].data.metrics["image_auroc"] == 0.5
    assert after["demo/mean/texture"].data.metrics["image_auroc"] == 0.5
    changed = {n for n in after if after[n].info.run_id != before[n].info.run_id}
    assert changed == {"demo/nut/seed0/texture", "demo/mean/texture"}


def test_a_run_cut_short_is_replaced(results):
    track(results, PARAMS)
    client, runs = active()
    broken = runs["demo/nut/seed0/base"].info.run_id
    client.delete_tag(broken, "realnet.fingerprint")  # which is written last
    track(results, PARAMS)
    _, after = active()
    assert after["demo/nut/seed0/base"].info.run_id != broken


def test_writers_at_once_on_a_new_store_do_not_collide(results):
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=track, args=(results, PARAMS)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(active()[1]) == 4


def test_a_store_that_is_no_store_is_one_line(results, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as error:
        track(results, PARAMS)
    assert "\n" not in str(error.value)


def test_nothing_evaluated(tmp_path):
    with pytest.raises(UserError, match="nothing to track"):
        track(tmp_path, PARAMS)


def test_a_mean_needs_only_what_all_have(results):
    runs = {content.key: content for content in contents(results, matrix_of(PARAMS))}
    assert "pro" not in runs["demo/mean/base"].metrics
    assert runs["demo/mean/base"].params["ddpm.steps"] == "3"


def test_lineage_follows_inputs(results):
    found = lineage(results / "evaluate/demo/nut/seed0/texture")
    assert {name: str(folder) for name, (folder, _) in found.items()} == {
        "evaluate": "results/evaluate/demo/nut/seed0/texture",
        "realnet": "results/realnet/demo/nut/seed0/texture",
        "ddpm": "results/ddpm/demo/nut/seed0/base",
    }


def test_flatten():
    assert flatten({"a": {"b": [1, 2], "c": None}, "d": "x"}) == {
        "a.b": "[1, 2]",
        "a.c": "null",
        "d": "x",
    }


def test_thin_keeps_both_ends():
    rows = thin(list(range(10_001)), 500)
    assert len(rows) == 500 and (rows[0], rows[-1]) == (0, 10_000)
    assert thin([1, 2], 500) == [1, 2]


def test_curves_are_the_losses(tmp_path):
    write_csv(tmp_path / "h.csv", [{"step": 1, "loss": 0.5, "lr": 1}], ["step", "loss", "lr"])
    assert curves(tmp_path / "h.csv", "x") == {"x/loss": [(1, 0.5)]}
