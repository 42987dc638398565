"""Runs in a real MLflow store (SQLite), from small result files."""

import base64
import functools
import json
import re
import shutil
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest

from realnet.core.errors import UserError
from realnet.core.io import write_csv, write_json
from realnet.evaluation.stored import save_per_image
from realnet.metrics import bootstrap, interval, per_image
from realnet.provenance.lineage import behind
from realnet.tracking import cells, matrix_of, run_params, track
from realnet.tracking.contents import Curves, measurements
from realnet.tracking.means import variant_contents
from realnet.tracking.names import metric_name
from realnet.tracking.store import curves, thin
from realnet.tracking.views import differing

follow = functools.partial(track, models="none")  # the models here are none
EXPERIMENT = {
    "name": "test",
    "datasets": {"demo": ["nut"]},
    "seeds": [0],
    "variants": ["base", "texture"],
}
VARIANTS = {
    "base": {},
    "texture": {"synthesis": {"sources": {"texture": 1.0}}, "training": {"lr": 0.2}},
    "short": {"ddpm": {"steps": 2}},  # declared, but not evaluated here
}
PARAMS = json.dumps({"experiment": EXPERIMENT, "variants": VARIANTS})


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


def write_run(root, seed, variant, image_auroc, **more):
    """The files of an evaluation and of the training before it."""
    losses = [{"step": i, "loss": 1 / (i + 1), "lr": 0.1} for i in range(3)]
    model = root / f"realnet/demo/nut/seed{seed}/{variant}"
    write_json(model / "model.json", {"sha256": "0" * 64})
    write_csv(model / "history.csv", losses, ["step", "loss", "lr"])
    looked = [{"step": 2, "image_auroc": 0.7, "key": 0.75}]
    write_csv(model / "selection.csv", looked, ["step", "image_auroc", "key"])
    params = {
        "training": {"lr": 0.2 if variant == "texture" else 0.1},
        "synthesis": {"sources": {"normal": 0.5, variant: 0.5}},
        "evaluate": {"image_score_pool": None},
    }
    stage(model, "realnet", params, {"ddpm": root / "ddpm/demo/nut/seed0/base/config.json"})
    folder = root / f"evaluate/demo/nut/seed{seed}/{variant}"
    measured = {
        "image_auroc": image_auroc,
        "pixel_auroc": 0.8,
        "pro": None,
        "regions": 7,
        "seed": seed,
        "variant": variant,
        "pro_at": {"0.05": 0.4, "1": None},
        "by_size": {"< 0.1 %": {"pro": 0.3, "regions": 2}},
        "intervals": {"image_auroc": [0.7, 0.99], "pro": None},
        "bootstrap": {"count": 20, "level": 0.95, "seed": 0},
        "protocols": {
            "strict_last": {"checkpoint": "last", "step": 3, "image_auroc": image_auroc},
            "official_best": {"step": 2, "image_auroc_official": 0.95, "pro_official": None},
            "strict_best": None,
        },
    }
    write_json(folder / "metrics.json", measured | more)
    (folder / "qualitative.png").write_bytes(b"png")
    inputs = {"manifest": root / "data/demo/nut/manifest.csv", "model": model / "model.json"}
    stage(folder, "evaluate", {"evaluate": {"image_score_pool": 4, "batch_size": 2}}, inputs)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A store without runs; MLflow needs a second to create one."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def results(tmp_path, monkeypatch, empty):
    """Two variants of one category that share a diffusion model; the working folder is theirs."""
    here = tmp_path / "a folder"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/store.db")
    shutil.copyfile(empty, here / "store.db")
    root = Path("results")
    write_csv(root / "data/demo/nut/manifest.csv", [{"path": "a.png"}], ["path"])
    ddpm = root / "ddpm/demo/nut/seed0/base"
    inputs = {"manifest/nut": root / "data/demo/nut/manifest.csv"}
    stage(ddpm, "ddpm", {"ddpm": {"steps": 3}}, inputs)
    losses = [{"step": i, "loss": 1 / (i + 1), "lr": 0.1} for i in range(3)]
    write_csv(ddpm / "history.csv", losses, ["step", "loss", "lr"])
    write_run(root, 0, "base", 0.9)
    write_run(root, 0, "texture", 0.8)
    return root


def client():
    """A client of the store, and its experiment's id."""
    import os

    from mlflow import MlflowClient

    there = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    return there, there.get_experiment_by_name("test").experiment_id


def active():
    """Name -> run, of the runs that MLflow shows."""
    there, experiment = client()
    runs = there.search_runs([experiment])
    names = [run.info.run_name for run in runs]
    assert len(set(names)) == len(names), names
    return dict(zip(names, runs, strict=True))


BASE, RUN = "demo/base", "demo/base/nut/seed0"
TEXTURE = "demo/texture/nut/seed0"


def files_of(there, run, folder=None):
    return [found.path for found in there.list_artifacts(run.info.run_id, folder)]


def test_a_run_shows_the_content_of_its_files(results):
    follow(results, PARAMS, Path("receipt.json"))
    there, _ = client()
    runs = active()
    assert set(runs) == {BASE, RUN, "demo/texture", TEXTURE}
    run = runs[RUN]
    assert run.data.metrics["image_auroc"] == 0.9
    assert "pro" not in run.data.metrics  # undefined is not a number
    assert run.data.params["training.lr"] == "0.1"
    assert run.data.params["ddpm.steps"] == "3"  # found through the inputs of the stages
    assert run.data.params["synthesis.sources"] == "base 0.5, normal 0.5"
    assert run.data.params["variant"] == "base"
    expected = {"dataset": "demo", "category": "nut", "seed": "0", "variant": "base"}
    expected |= {"commit": "abc", "method": "realnet", "preset": "none", "level": "cell"}
    expected |= {"model_sha256": "0" * 64, "manifest_sha256": "manifest-digest"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.metrics["seconds/total"] == 7.5
    assert run.info.status == "FINISHED"
    history = there.get_metric_history(run.info.run_id, "ddpm/loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert files_of(there, run, "figures") == ["figures/heat_maps.png"]
    assert "history/realnet_history.csv" in files_of(there, run, "history")
    note = run.data.tags["mlflow.note.content"]
    assert "results/evaluate/demo/nut/seed0/base" in note and "90.0 [70.0, 99.0]" in note
    receipt = json.loads(Path("receipt.json").read_text())
    assert {r["run_id"] for r in receipt["runs"].values()} == {r.info.run_id for r in runs.values()}


def test_runs_are_children_of_their_variant(results):
    follow(results, PARAMS)
    runs = active()
    for parent, child in ((BASE, RUN), ("demo/texture", TEXTURE)):
        assert runs[child].data.tags["mlflow.parentRunId"] == runs[parent].info.run_id
        assert "mlflow.parentRunId" not in runs[parent].data.tags
        assert runs[parent].info.start_time > runs[child].info.start_time  # so it is listed first
    note = runs[BASE].data.tags["mlflow.note.content"]
    assert "| nut | 90.0 [70.0, 99.0] | 80.0 | undefined |" in note
    assert "results/evaluate/demo/*/seed*/base" in note


def test_a_variant_has_the_parameters_that_differ_between_variants(results):
    """All others would hide them where MLflow compares runs."""
    follow(results, PARAMS)
    found = active()[BASE].data.params
    identity = {"dataset", "category", "seed", "variant", "method"}
    assert set(found) - identity == {"synthesis.sources", "training.lr", "ddpm.steps"}
    assert found["training.lr"] == "0.1" and found["category"] == "mean"


def test_means_and_standard_deviations_over_seeds(results):
    write_run(results, 1, "base", 0.7)
    text = json.dumps(json.loads(PARAMS) | {"experiment": EXPERIMENT | {"seeds": [0, 1]}})
    follow(results, text)
    found = active()[BASE].data.metrics
    assert found["image_auroc"] == pytest.approx(0.8)
    assert found["image_auroc/std"] == pytest.approx(0.2 / 2**0.5)
    assert "image_auroc/low" not in found  # no statistics of the images to draw them from
    alone = active()["demo/texture"].data.metrics
    assert alone["image_auroc"] == 0.8 and "image_auroc/std" not in alone


def test_the_interval_of_a_mean_is_resampled_from_per_image_statistics(results):
    """Real statistics: the interval is that of the evaluations, category by category."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    stats = per_image(None, None, labels + rng.normal(size=40), labels, labels.astype(str))
    save_per_image(results / "evaluate/demo/nut/seed0/base/per_image.npz", stats)
    follow(results, PARAMS)
    found = active()[BASE].data.metrics
    low, high = interval(bootstrap(stats, "image_auroc", 20, 0, "nut"))
    assert (found["image_auroc/low"], found["image_auroc/high"]) == (low, high)
    assert "pro/low" not in found


def test_a_run_has_the_metrics_of_each_protocol(results):
    follow(results, PARAMS)
    there, _ = client()
    runs = active()
    run = runs[RUN]
    found = {name: value for name, value in run.data.metrics.items() if "official" in name}
    assert found == {"official_best/step": 2.0, "official_best/image_auroc_official": 0.95}
    assert not any(name.startswith("strict") for name in run.data.metrics)
    history = there.get_metric_history(run.info.run_id, "on_test/image_auroc")
    assert [(m.step, m.value) for m in history] == [(2, 0.7)]
    assert "on_test/key" in run.data.metrics
    # Those of the evaluation itself, not what the training noted of its section.
    assert run.data.params["evaluate.image_score_pool"] == "4"
    assert run.data.params["evaluate.batch_size"] == "2"
    assert runs[BASE].data.metrics["official_best/image_auroc_official"] == 0.95


def test_names_of_metrics():
    found = measurements(
        {
            "pro": 0.5,
            "has_masks": True,
            "pro_at": {"0.05": 0.4, "1": None},
            "by_defect": {"a/b (c)": {"pro": 0.1, "regions": 3}},
            "by_size": {"0.1–1 %": {"pro": 0.2}},
            "regions": 4,
            "counts": {"test_normal": 5},
            "intervals": {"pro": [0.4, 0.6], "image_auroc": None},
            "protocols": {"strict_last": {"pro": 0.5}, "strict_best": {"pro": 0.6, "step": 9}},
        }
    )
    assert found == {
        **{"pro": 0.5, "pro/low": 0.4, "pro/high": 0.6, "pro_at/0.05": 0.4},
        **{"by_defect/a/b _c_/pro": 0.1, "by_size/0.1-1 percent/pro": 0.2},
        **{"counts/regions": 4, "counts/test_normal": 5},
        **{"strict_best/pro": 0.6, "strict_best/step": 9},
    }
    assert metric_name("< 0.1 %") == "under 0.1 percent"


def test_tracking_is_idempotent_and_a_new_result_replaces_its_run(results):
    follow(results, PARAMS)
    before = active()
    follow(results, PARAMS)
    assert {n: r.info.run_id for n, r in active().items()} == {
        n: r.info.run_id for n, r in before.items()
    }

    path = results / "evaluate/demo/nut/seed0/texture/metrics.json"
    write_json(path, json.loads(path.read_text()) | {"image_auroc": 0.5})
    follow(results, PARAMS)
    after = active()
    assert set(after) == set(before)
    assert after[TEXTURE].data.metrics["image_auroc"] == 0.5
    assert after["demo/texture"].data.metrics["image_auroc"] == 0.5
    changed = {n for n in after if after[n].info.run_id != before[n].info.run_id}
    assert changed == {TEXTURE, "demo/texture"}
    assert after[TEXTURE].data.tags["mlflow.parentRunId"] == after["demo/texture"].info.run_id


def test_an_unchanged_run_is_moved_to_its_new_parent(results):
    follow(results, PARAMS)
    before = active()
    write_run(results, 1, "base", 0.7)
    follow(results, json.dumps(json.loads(PARAMS) | {"experiment": EXPERIMENT | {"seeds": [0, 1]}}))
    after = active()
    assert after[RUN].info.run_id == before[RUN].info.run_id
    assert after[BASE].info.run_id != before[BASE].info.run_id
    for seed in (0, 1):
        child = after[f"demo/base/nut/seed{seed}"]
        assert child.data.tags["mlflow.parentRunId"] == after[BASE].info.run_id


def test_an_old_run_keeps_its_files(results):
    follow(results, PARAMS)
    there, _ = client()
    old = active()[TEXTURE].info.run_id
    path = results / "evaluate/demo/nut/seed0/texture/metrics.json"
    before = path.read_bytes()
    write_json(path, json.loads(before) | {"image_auroc": 0.5})
    follow(results, PARAMS)
    new = active()[TEXTURE].info.run_id
    read = {run: there.download_artifacts(run, "metrics.json") for run in (old, new)}
    assert Path(read[old]).read_bytes() == before
    assert Path(read[new]).read_bytes() == path.read_bytes()


def test_a_shared_model_has_one_curve(results):
    follow(results, PARAMS)
    there, _ = client()
    runs = active()
    assert len(there.get_metric_history(runs[RUN].info.run_id, "ddpm/loss")) == 3
    assert there.get_metric_history(runs[TEXTURE].info.run_id, "ddpm/loss") == []
    assert len(there.get_metric_history(runs[TEXTURE].info.run_id, "realnet/loss")) == 3


def test_an_interrupted_run_is_replaced(results):
    follow(results, PARAMS)
    there, _ = client()
    broken = active()[RUN].info.run_id
    there.delete_tag(broken, "realnet.fingerprint")  # which is written last
    follow(results, PARAMS)
    assert active()[RUN].info.run_id != broken


def test_the_page_opens_with_the_selected_columns_and_charts(results):
    follow(results, PARAMS, Path("receipt.json"))
    there, experiment = client()
    tags = there.get_experiment(experiment).tags
    links = json.loads(Path("receipt.json").read_text())["links"]
    states = {}
    for name, link in links.items():
        key = re.search("viewStateShareKey=([a-z]+)", link).group(1)
        packed = tags[f"mlflow.sharedViewState.{key}"]
        assert len(packed) < 20_000  # MLflow's limit
        text = zlib.decompress(base64.b64decode(packed.removeprefix("deflate;")))
        states[name] = json.loads(text)
    assert states["runs"]["orderByKey"] == "attributes.start_time"  # else no tree
    assert "metrics.`image_auroc`" in states["runs"]["selectedColumns"]
    charts = [c for c in states["variants"]["compareRunCharts"] if not c["deleted"]]
    parallel = next(c for c in charts if c["type"] == "PARALLEL")
    assert parallel["selectedParams"] == ["variant", "synthesis.sources", "training.lr"]
    assert parallel["selectedMetrics"] == ["image_auroc", "pixel_auroc"]
    lines = [c for c in states["cells"]["compareRunCharts"] if c["type"] == "LINE"]
    assert {"realnet/loss", "on_test/image_auroc", "ddpm/loss"} <= {c["metricKey"] for c in lines}
    # Every other metric is there as a deleted chart, or MLflow would draw them all.
    drawn = {c.get("metricKey") for c in states["cells"]["compareRunCharts"]}
    assert set(active()[RUN].data.metrics) - {"on_test/key"} <= drawn
    runs = there.search_runs([experiment], filter_string=states["variants"]["searchFilter"])
    assert {run.info.run_name for run in runs} == {BASE, "demo/texture"}


def test_a_parameter_that_some_variants_lack_is_not_a_difference(results):
    """`texture` uses no images of a diffusion model."""
    path = results / "realnet/demo/nut/seed0/texture/stage.json"
    write_json(path, json.loads(path.read_text()) | {"inputs": {}})
    parents = variant_contents(cells(results, matrix_of(PARAMS)), matrix_of(PARAMS))
    assert "ddpm.steps" in parents[0].params and "ddpm.steps" not in parents[1].params
    assert differing(parents) == ["synthesis.sources", "training.lr"]


def test_an_invalid_store_is_reported_in_one_line(results, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as error:
        follow(results, PARAMS)
    assert "\n" not in str(error.value)


def test_a_server_that_does_not_answer_is_reported_in_one_line(results, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but without a server
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match="no answer; the results do not depend on it") as error:
            follow(results, PARAMS)
    assert "\n" not in str(error.value)


def test_nothing_evaluated(tmp_path):
    with pytest.raises(UserError, match="nothing to track"):
        follow(tmp_path, PARAMS)


def test_lineage_follows_inputs(results):
    found = behind(results, results / "evaluate/demo/nut/seed0/texture")
    assert {name: str(folder) for name, (folder, _) in found.items()} == {
        "evaluate": "results/evaluate/demo/nut/seed0/texture",
        "realnet": "results/realnet/demo/nut/seed0/texture",
        "ddpm": "results/ddpm/demo/nut/seed0/base",
    }


def test_run_params():
    assert run_params({"a": {"b": [1, 2], "c": None}, "d": "x", "sources": {}}) == {
        **{"a.b": "[1, 2]", "a.c": "null", "d": "x", "sources": "none"},
    }


def test_thinning_keeps_both_ends():
    rows = thin(list(range(10_001)), 500)
    assert len(rows) == 500 and (rows[0], rows[-1]) == (0, 10_000)
    assert thin([1, 2], 500) == [1, 2]


def test_curves_are_the_selected_columns(tmp_path):
    write_csv(tmp_path / "h.csv", [{"step": 1, "loss": 0.5, "lr": 1}], ["step", "loss", "lr"])
    assert curves(Curves(tmp_path / "h.csv", "x", ("loss",))) == {"x/loss": [(1, 0.5)]}
