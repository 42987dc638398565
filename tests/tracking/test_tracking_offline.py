"""MLflow that does not answer, cannot be written or is killed: no run is lost or duplicated."""

import json
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from small_runs import params, write_run
from typer.testing import CliRunner

from realnet.cli import app
from realnet.core.errors import UserError
from realnet.core.io import read_json, write_json
from realnet.tracking import reminder, store, track, track_pending
from realnet.tracking.client import StoreError

CATEGORIES = ["nut", "plate", "disc"]
PARAMS = params({"own": CATEGORIES}, ["base", "texture"])
RUNS = {f"own/{v}/{c}/seed0" for c in CATEGORIES for v in ("base", "texture")}
RECEIPT = Path("results/tracking/runs.json")


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Six evaluated runs and a store in the working folder."""
    monkeypatch.chdir(tmp_path)
    for category in CATEGORIES:
        for variant in ("base", "texture"):
            path = write_run(tmp_path / "results", "own", category, 0, variant)
            folder = path if path.is_dir() else path.parent
            names = ("manifest.csv", "model.json")
            record = {"stage": "evaluate", "params": {}, "device": "cpu", "git_commit": None}
            record["inputs"] = {n.partition(".")[0]: {"path": n, "sha256": "0"} for n in names}
            record |= {"wall_s": 1.0, "peak_memory_mb": 9, "finished": "2026-01-02T03:04:05+00:00"}
            write_json(folder / "stage.json", record)
            (folder / "per_image.npz").unlink()  # for intervals, which are not tested here
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    return tmp_path / "results"


def shown() -> list[str]:
    """Names of the runs of evaluations in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("test")
    runs = client.search_runs([experiment.experiment_id])
    assert all({"image_auroc", "pixel_auroc", "pro"} <= set(run.data.metrics) for run in runs)
    return sorted(name for run in runs if (name := run.info.run_name) in RUNS)


def follow() -> None:
    track(Path("results"), PARAMS, models="none")


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_concurrent_writers_create_one_store(count):
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=follow) for _ in range(count)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(240)
    assert [job.exitcode for job in jobs] == [0] * count
    assert shown() == sorted(RUNS)
    with sqlite3.connect("store.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.execute("SELECT name FROM experiments WHERE name = 'test'").fetchall() == [
            ("test",)
        ]


def test_pending_results_are_logged_by_the_printed_command(monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but without a server
        address = f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}"
        with monkeypatch.context() as away:
            away.setenv("MLFLOW_TRACKING_URI", address)
            track(Path("results"), PARAMS, RECEIPT, models="none", later=True)
            message = capsys.readouterr().err
            with pytest.raises(StoreError, match="no answer"):  # still
                track_pending(RECEIPT)
            with pytest.raises(StoreError):  # an error when called directly
                track(Path("results"), PARAMS, RECEIPT, models="none")
    assert message.count("\n") == 1 and "no answer" in message
    assert message.strip() == f"realnet: {reminder(RECEIPT)}"
    command = message.strip().rpartition(": ")[2]
    assert command == "realnet track --pending results/tracking/runs.json"
    assert "secret" not in message + RECEIPT.read_text() and "runs" not in read_json(RECEIPT)
    done = CliRunner().invoke(app, command.split()[1:])
    assert done.exit_code == 0, done.output
    assert shown() == sorted(RUNS)
    assert len(read_json(RECEIPT)["runs"]) == len(RUNS) + 2  # and the variants
    assert reminder(RECEIPT) is None
    track_pending(RECEIPT)
    assert "nothing is pending" in capsys.readouterr().out


def locked(path: Path):
    holder = sqlite3.connect(path)
    holder.execute("CREATE TABLE IF NOT EXISTS held (x)")
    holder.execute("BEGIN EXCLUSIVE")
    return holder


def damaged(path: Path) -> None:
    path.write_bytes(b"no database, but more than a page of something else" * 99)


@pytest.mark.parametrize(
    ("obstruct", "reason"),
    [(locked, "locked"), (damaged, "not a database")],
    ids=["locked", "damaged"],
)
def test_a_file_that_cannot_be_written(monkeypatch, obstruct, reason, tmp_path):
    kept = obstruct(tmp_path / "store.db")
    monkeypatch.setattr("realnet.tracking.client.usable.__defaults__", (0.2,))
    track(Path("results"), PARAMS, RECEIPT, models="none", later=True)
    assert reason in read_json(RECEIPT)["pending"]["reason"]
    if kept is not None:
        kept.close()
    else:
        Path("store.db").unlink()
    track_pending(RECEIPT)
    assert shown() == sorted(RUNS)


def test_a_second_writer_times_out_and_its_results_are_pending(monkeypatch, tmp_path):
    monkeypatch.setattr("realnet.tracking.store.LOCK_TIMEOUT", 0.2)
    with store.only_writer(tmp_path / "store.db.lock"):
        track(Path("results"), PARAMS, RECEIPT, models="none", later=True)
    assert "another `realnet track`" in read_json(RECEIPT)["pending"]["reason"]
    track_pending(RECEIPT)
    assert shown() == sorted(RUNS)


def test_an_invalid_address_is_an_error_and_nothing_is_pending(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(UserError, match="nonsense") as error:
        track(Path("results"), PARAMS, RECEIPT, later=True)
    assert not isinstance(error.value, StoreError) and not RECEIPT.exists()
    with pytest.raises(UserError, match="no such receipt"):
        track_pending(RECEIPT)


def test_a_server_killed_while_writing(monkeypatch, tmp_path):
    """Killed after the first run was written, and restarted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "files")]

    def start() -> subprocess.Popen:
        with (tmp_path / "server.log").open("a") as log:
            job = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                return job
            except OSError:
                assert job.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.1)
        raise AssertionError("no server")

    def kill(job: subprocess.Popen) -> None:
        os.killpg(job.pid, 9)
        job.wait()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    job = start()
    try:
        from realnet.tracking import store

        written = store.log_files

        def and_die(*arguments):
            written(*arguments)
            if len(seen) == 2:
                kill(job)
            seen.append(arguments)

        seen: list = []
        with monkeypatch.context() as patched:
            patched.setattr(store, "log_files", and_die)
            track(Path("results"), PARAMS, RECEIPT, models="none", later=True)
        assert len(seen) >= 3 and "pending" in read_json(RECEIPT)
        job = start()
        track_pending(RECEIPT)
        assert shown() == sorted(RUNS)
        before = json.loads(RECEIPT.read_text())["runs"]
        track(Path("results"), PARAMS, RECEIPT, models="none")
        assert json.loads(RECEIPT.read_text())["runs"] == before
    finally:
        kill(job)
