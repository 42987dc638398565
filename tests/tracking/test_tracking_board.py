"""`realnet runs`: the leaderboard, from a real store with runs of hand-written results."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from realnet.config.params import PROJECT
from realnet.core.errors import UserError
from realnet.core.io import read_json, write_csv, write_json
from realnet.tracking import track
from realnet.tracking.board import Filter, leaderboard

EXPERIMENT = {
    "name": "test",
    "datasets": {"demo": ["nut", "bolt"]},
    "seeds": [0, 1],
    "variants": ["base", "texture"],
}
PARAMS = json.dumps({"experiment": EXPERIMENT, "variants": {"base": {}, "texture": {"afs": {}}}})


def write_stage(folder, name, inputs):
    record = {
        "stage": name,
        "params": {"evaluate": {"image_score_pool": 4}},
        "inputs": {n: {"path": str(p), "sha256": n} for n, p in inputs.items()},
        **{"device": "cpu", "wall_s": 30.0, "peak_memory_mb": 1},
        **{"finished": "2026-01-02T03:04:05+00:00", "git_commit": "abc"},
    }
    write_json(folder / "stage.json", record)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eight evaluations of two variants, tracked once; the tests only read."""
    here = tmp_path_factory.mktemp("board") / "a folder"
    patch = pytest.MonkeyPatch()
    here.mkdir()
    patch.chdir(here)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/store.db")
    root = Path("results")
    value = 0.90
    for variant in EXPERIMENT["variants"]:
        for category in EXPERIMENT["datasets"]["demo"]:
            for seed in EXPERIMENT["seeds"]:
                folder = root / f"evaluate/demo/{category}/seed{seed}/{variant}"
                measured = {"image_auroc": round(value, 2), "pixel_auroc": 0.5, "pro": None}
                measured["intervals"] = {"image_auroc": [value - 0.1, value + 0.01]}
                measured["pro_at"] = {"0.05": 0.25 if variant == "base" else None}
                write_json(folder / "metrics.json", measured)
                model = root / f"realnet/demo/{category}/seed{seed}/{variant}"
                manifest = root / f"data/demo/{category}/manifest.csv"
                write_csv(manifest, [], ["path"])
                inputs = {"manifest": manifest, "model": model / "model.json"}
                write_stage(folder, "evaluate", inputs)
                value += 0.01
    try:
        track(root, PARAMS, models="none")
        yield f"sqlite:///{here}/store.db"
    finally:
        patch.undo()


def rows(text):
    """The fields of each line of the table, the header first."""
    lines = text.splitlines()
    return [line.replace(" ± ", "±").replace(", ", ",").split() for line in lines[:1] + lines[2:]]


def test_variants_are_sorted_by_their_means(store):
    head, first, second = rows(leaderboard())
    assert head == [
        "dataset",
        "variant",
        "category",
        "seed",
        "image_auroc",
        "pixel_auroc",
        "minutes",
    ]
    assert first == ["demo", "texture", "mean", "0,1", "95.5±0.7", "50.0±0.0", "0.5"]
    assert second == ["demo", "base", "mean", "0,1", "91.5±0.7", "50.0±0.0", "0.5"]


def test_the_table_is_aligned(store):
    lines = leaderboard().splitlines()
    starts = [
        i for i, sign in enumerate(lines[1]) if sign == "-" and (i == 0 or lines[1][i - 1] == " ")
    ]
    for line in lines:
        assert all(i == 0 or line[i - 1] == " " for i in starts)


def test_runs_of_a_category(store):
    found = rows(leaderboard(only=Filter(category="bolt", variant="base")))[1:]
    assert [(row[2], row[3], row[4]) for row in found] == [
        ("bolt", "1", "93.0"),
        ("bolt", "0", "92.0"),
    ]
    assert found[0][5] == "[83.0,94.0]"  # its interval


def test_all_runs_and_a_limit(store):
    found = leaderboard(every=True, limit=3).splitlines()
    assert len(found) == 2 + 3 + 1
    assert found[-1] == "3 of 8; --limit 8 shows all"
    assert len(leaderboard(every=True).splitlines()) == 2 + 8


def test_another_order(store):
    head, *found = rows(leaderboard(sort="pro_at/0.05"))
    assert head[4] == "pro_at/0.05"
    assert [(row[1], row[4]) for row in found] == [("base", "25.0"), ("texture", "-")]
    quickest = rows(leaderboard(sort="seconds/total", every=True))
    assert len(quickest) == 9  # time rises: less is better


def test_json_has_every_metric_with_all_digits(store, tmp_path):
    leaderboard(limit=1, out=tmp_path / "runs.json")
    (run,) = read_json(tmp_path / "runs.json")
    assert run["variant"] == "texture" and run["metrics"]["image_auroc"] == pytest.approx(0.955)
    assert len(run["run_id"]) == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort": "nope"}, "--sort nope: no such metric; known: image_auroc, pixel_auroc, "),
        ({"only": Filter(variant="nope")}, "--variant nope: no such run; one of base, texture"),
        ({"only": Filter(category="nope")}, "--category nope: no such run; one of bolt, mean, nut"),
        ({"only": Filter("nope")}, "--dataset nope: no such run; one of demo"),
        ({"experiment": "nope"}, "--experiment nope: no such experiment; one of test"),
    ],
)
def test_errors_list_the_valid_values(store, options, message):
    with pytest.raises(UserError) as error:
        leaderboard(**options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_missing_database_is_not_created(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(UserError, match="no such database; `realnet track` creates it"):
        leaderboard()
    assert not list(tmp_path.iterdir())


def test_a_store_without_our_experiment(monkeypatch, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/other.db"
    MlflowClient(uri).create_experiment("another")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="it has no experiment of `realnet track`"):
        leaderboard()


def test_the_command(store):
    command = [sys.executable, "-m", "realnet", "runs", "--sort", "pixel_auroc", "--all"]
    env = os.environ | {"PYTHONPATH": str(PROJECT), "MLFLOW_TRACKING_URI": store}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2 + 8 and done.stderr == ""
    command += ["--variant", "x"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.fixture
def server(store, tmp_path, monkeypatch):
    """MLflow's own server application, with an empty store and its own place for files."""
    from mlflow.server import app, constants
    from werkzeug.serving import make_server

    monkeypatch.setenv(constants.BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{tmp_path}/server.db")
    monkeypatch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(tmp_path / "files"))
    monkeypatch.setenv(constants.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
    monkeypatch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
    # The application sets the stores of its whole process, which is that of the other tests too.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setattr("mlflow.tracking._model_registry.utils._registry_uri", None)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    running = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.port}"
    running.shutdown()


def test_a_server_instead_of_a_file(store, server, tmp_path, monkeypatch):
    """Runs, their files and the leaderboard through HTTP, as a team would have it."""
    expected = leaderboard()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    for _ in range(2):
        track(Path("results"), PARAMS, models="none")
    assert leaderboard() == expected
    found = list((tmp_path / "files").rglob("metrics.json"))
    assert len(found) == 8  # none twice
