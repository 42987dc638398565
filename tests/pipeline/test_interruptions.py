"""Interrupted jobs and corrupt files in the real DAG: a rerun gives identical results."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realnet.core.io import read_csv, read_json, sha256

pytestmark = pytest.mark.pipeline

SLOW = pytest.mark.slow
# Longer trainings than in the preset smoke, so that a signal interrupts them.
LONGER = (
    "ddpm={steps: 120, checkpoint_every: 20}",
    "sdas={images: 24, batch_size: 2}",
    "afs={batches: 12}",
    "training={steps: 120, checkpoint_every: 20, select_every: 60}",
)
RUN = "results/{}/demo/hex_nut/seed0/base"
# Stage -> the target of its job, and the words of its command line.
STAGES = {
    "ddpm": ("model.safetensors", "-m realnet ddpm"),
    "sdas": ("manifest.csv", "-m realnet sdas"),
    "afs": ("afs.json", "-m realnet afs"),
    "realnet": ("model.safetensors", "-m realnet train"),
    "evaluate": ("metrics.json", "-m realnet evaluate"),
}
# Keys of a record with times and costs, which differ between runs.
TIMES = {"stage.json"}


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """A copy with one run of longer trainings; by stage, digests of its files and seconds."""
    root = tmp_path_factory.mktemp("interrupted") / "project"
    subprocess.run(["cp", "-r", str(finished.root), str(root)], check=True)
    copy = type(finished)(root)
    copy.snakemake("--config", *LONGER, "--", f"{RUN.format('evaluate')}/metrics.json")
    seconds = {s: read_json(root / RUN.format(s) / "stage.json")["wall_s"] for s in STAGES}
    return copy, {stage: digests(root, stage) for stage in STAGES}, seconds


def digests(root: Path, stage: str) -> dict[str, str]:
    folder = root / RUN.format(stage)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in TIMES)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def snakemake(root: Path, target: str) -> subprocess.Popen:
    command = ["snakemake", "--cores", "2", "--rerun-incomplete", "--config", *LONGER]
    return subprocess.Popen(
        [sys.executable, "-m", *command, "--", target],
        cwd=root,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def job(words: str, root: Path) -> int | None:
    """Process id of the stage that runs in ``root``, or None."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            # The command lines of the shell and the lease contain the same words.
            own = line.split(" ", 1)[-1].startswith(words) and (entry / "cwd").readlink() == root
        except OSError:
            continue
        if own:
            return int(entry.name)
    return None


SIGNALS = (signal.SIGTERM, signal.SIGKILL)
# Of all pairs of stage and signal, `make test` runs these.
# (SIGTERM in the training: test_sigterm_saves_the_current_step.)
FAST = {
    ("sdas", signal.SIGKILL),
    ("evaluate", signal.SIGKILL),
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        pytest.param(stage, number, marks=() if (stage, number) in FAST else SLOW)
        for stage in STAGES
        for number in SIGNALS
    ],
)
def test_a_restarted_workflow_gives_identical_results(whole, stage, number):
    copy, wanted, seconds = whole
    name, words = STAGES[stage]
    folder = copy.root / RUN.format(stage)
    target = f"{RUN.format(stage)}/{name}"
    for path in folder.iterdir():
        subprocess.run(["rm", "-r", str(path)], check=True)
    log = copy.root / f"results/logs/{stage}/demo/hex_nut/seed0/base.log"
    log.unlink()

    stopped_and_started_again(copy, target, words, number, seconds[stage])
    assert digests(copy.root, stage) == wanted[stage]


def stopped_and_started_again(
    copy, target: str, words: str, number: signal.Signals, seconds: float
) -> None:
    """Run Snakemake, stop it while the job runs, and run it again to the end."""
    running = snakemake(copy.root, target)
    started = time.monotonic()
    while (pid := job(words, copy.root)) is None and time.monotonic() < started + 120:
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.02)
    # At any time from its imports, which take seconds, to its last file.
    time.sleep(random.uniform(0, 3 + seconds))
    # Pre-emption on a cluster signals every process; SIGKILL stops only the workflow, whose job
    # must then end by itself.
    with contextlib.suppress(ProcessLookupError):  # it finished first
        if number == signal.SIGTERM:
            os.killpg(running.pid, number)
        else:
            running.kill()
    running.communicate(timeout=120)
    while pid is not None and Path(f"/proc/{pid}/cwd").exists():
        time.sleep(0.05)

    copy.run("snakemake", "--cores", "1", "--unlock", "--config", *LONGER)
    again = snakemake(copy.root, target)
    assert again.wait(timeout=300) == 0, again.stdout.read()


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=SLOW), signal.SIGKILL],
    ids=["term", "kill"],
)
def test_interrupted_tables_are_completed_by_the_next_run(whole, number):
    copy = whole[0]

    def rendered() -> dict[str, str]:
        results = copy.root / "results"
        files = [results / "metrics.json", results / "report.html"]
        for folder in ("tables", "figures"):
            files += sorted(path for path in (results / folder).rglob("*") if path.is_file())
        return {path.relative_to(results).as_posix(): sha256(path) for path in files}

    def empty() -> None:
        for folder in ("tables", "figures"):
            subprocess.run(["rm", "-r", str(copy.root / "results" / folder)], check=True)

    empty()  # also the tables of groups, which other tests may have written
    started = time.monotonic()
    copy.snakemake("--config", *LONGER, "--", "tables")
    seconds = time.monotonic() - started
    wanted = rendered()
    empty()
    stopped_and_started_again(copy, "tables", "-m realnet report", number, seconds)
    assert rendered() == wanted and len(wanted) > 20


def test_sigterm_saves_the_current_step(whole):
    copy, wanted, _ = whole
    folder = copy.root / RUN.format("realnet")
    subprocess.run(["rm", "-r", str(folder)], check=True)
    log = copy.root / "results/logs/realnet/demo/hex_nut/seed0/base.log"
    log.unlink()
    target = f"{RUN.format('realnet')}/model.safetensors"
    running = snakemake(copy.root, target)
    while not (folder / "checkpoint/last.pt").exists():  # step 20
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.01)
    pid = job(STAGES["realnet"][1], copy.root)
    os.kill(pid, signal.SIGTERM)
    output = running.communicate(timeout=300)[0]
    # Snakemake retries a training, so the stopped job has been finished already.
    assert running.returncode == 0 and "stopped by SIGTERM after step" in output, output
    stopped = int(output.partition("after step ")[2].split()[0])
    assert f"resumed at step {stopped}\n" in log.read_text()
    assert digests(copy.root, "realnet") == wanted["realnet"]


@pytest.mark.parametrize(
    ("stage", "file", "by"),
    [
        pytest.param("data", "results/data/demo/hex_nut/manifest.csv", "afs", marks=SLOW),
        pytest.param("sdas", f"{RUN.format('sdas')}/images/00001.png", "afs", marks=SLOW),
        pytest.param("afs", f"{RUN.format('afs')}/afs.json", "realnet", marks=SLOW),
        pytest.param("ddpm", f"{RUN.format('ddpm')}/model.safetensors", "sdas", marks=SLOW),
        ("realnet", f"{RUN.format('realnet')}/model.safetensors", "evaluate"),
    ],
)
def test_a_flipped_byte_of_an_input_is_reported_before_use(whole, stage, file, by):
    copy, wanted, _ = whole
    path = copy.root / file
    before, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    damaged = bytearray(before)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    os.utime(path, ns=times)  # corruption, not an edit
    name, _ = STAGES[by]
    target = f"{RUN.format(by)}/{name}"
    for made in (copy.root / RUN.format(by)).iterdir():
        subprocess.run(["rm", "-r", str(made)], check=True)
    output = copy.snakemake("--config", *LONGER, "--", target, ok=False)
    assert f"realnet: {file}: " in output and "Traceback" not in output
    assert not (copy.root / target).exists()
    path.write_bytes(before)
    os.utime(path, ns=times)
    copy.snakemake("--config", *LONGER, "--", target)
    assert digests(copy.root, by) == wanted[by]


def test_a_failing_category_does_not_affect_the_others(whole):
    copy, _, _ = whole
    runs = [f"demo/{name}/seed0/texture" for name in ("hex_nut", "woven_fabric")]
    targets = [f"results/evaluate/{run}/metrics.json" for run in runs]
    before = {target: sha256(copy.root / target) for target in targets}
    for run in runs:
        subprocess.run(
            ["rm", "-r", *(f"results/{s}/{run}" for s in ("realnet", "evaluate"))],
            cwd=copy.root,
            check=True,
        )
    damaged = copy.root / f"results/afs/{runs[0]}/afs.json"
    text, times = damaged.read_text(), (damaged.stat().st_atime_ns, damaged.stat().st_mtime_ns)
    damaged.write_text(text.replace("1", "2", 1))
    os.utime(damaged, ns=times)
    output = copy.snakemake("--keep-going", "--", *targets, ok=False)
    assert f"realnet: results/afs/{runs[0]}/afs.json: changed or corrupt" in output
    assert [(copy.root / target).exists() for target in targets] == [False, True]
    # Reported together at the end, and in the tables of the finished runs.
    summary = output.partition("of 4 runs not evaluated")[2]
    log = f"results/logs/realnet/{runs[0]}.log"
    assert f"realnet failed or is still running, 1 run: {runs[0]}\n  {log}:\n  realnet: " in summary
    copy.snakemake("tables")
    (row,) = read_csv(copy.root / "results/tables/missing.csv")
    assert (row["stage"], row["category"], row["variant"]) == ("realnet", "hex_nut", "texture")
    assert "changed or corrupt" in row["reason"]
    assert "changed or corrupt" in (copy.root / "results/report.html").read_text()
    damaged.unlink()  # as the message says: only this file is rebuilt
    copy.snakemake("--keep-going", "--", *targets)
    assert {target: sha256(copy.root / target) for target in targets} == before
