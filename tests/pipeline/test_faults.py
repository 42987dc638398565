"""Failures of the environment: one line of error, and the next run gives the same bits."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realnet.core.io import sha256

pytestmark = pytest.mark.pipeline

CATEGORIES = ("hex_nut", "woven_fabric")
SDAS = "results/sdas/demo/{}/seed0/base"
REALNET = "results/realnet/demo/{}/seed0/base"


@pytest.fixture
def copy(finished, tmp_path):
    root = tmp_path / "project"
    subprocess.run(["cp", "-r", "--preserve=timestamps", str(finished.root), str(root)], check=True)
    return type(finished)(root)


def digests(folder: Path) -> dict[str, str]:
    """Digests of all files of a stage but its record, which has times."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "stage.json")
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        subprocess.run(["rm", "-r", str(path)], check=True)


def untrained(copy) -> tuple[Path, dict[str, str], str]:
    """(emptied folder of a training, digests of its files, target that rebuilds it)."""
    folder = copy.root / REALNET.format("hex_nut")
    wanted = digests(folder)
    empty(folder)
    return folder, wanted, f"{REALNET.format('hex_nut')}/model.safetensors"


def started(copy, *words: str) -> subprocess.Popen:
    """A running Snakemake with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", *words],
        cwd=copy.root,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Mounted:
    """Mount a file system in a folder; requires root."""

    def __init__(self, folder: Path, options: str):
        self.folder, self.options = folder, options

    def __enter__(self):
        command = ["mount", "-t", "tmpfs", "-o", self.options, "none", str(self.folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            pytest.skip(f"no full or read-only disk can be made here: {error}")
        if done.returncode:
            pytest.skip(f"no full or read-only disk can be made here: {done.stderr.strip()}")

    def __exit__(self, *_):
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.mark.parametrize(
    ("place", "file"),
    [(SDAS, "manifest.csv"), pytest.param(REALNET, "model.json", marks=pytest.mark.slow)],
    ids=["images", "training"],
)
def test_a_full_disk_stops_one_category(copy, place, file):
    folders = [copy.root / place.format(name) for name in CATEGORIES]
    wanted = [digests(folder) for folder in folders]
    targets = [f"{place.format(name)}/{file}" for name in CATEGORIES]
    for folder in folders:
        empty(folder)
    with Mounted(folders[0], "size=16k"):
        output = copy.snakemake("--keep-going", "--", *targets, ok=False)
        assert not (copy.root / targets[0]).exists()
    (line,) = {line for line in output.splitlines() if line.startswith("realnet: ")}
    assert place.format(CATEGORIES[0]) in line and "free some space" in line
    assert "Traceback" not in output
    assert digests(folders[1]) == wanted[1]
    copy.snakemake("--rerun-incomplete", "--", *targets)
    assert [digests(folder) for folder in folders] == wanted


def test_unwritable_results_are_reported_before_any_job(copy):
    folder = copy.root / REALNET.format("hex_nut")
    wanted = digests(folder)
    target = f"{REALNET.format('hex_nut')}/model.json"
    with Mounted(copy.root / "results/realnet", "ro"):
        output = copy.snakemake("--", target, ok=False)
    assert "realnet: results/realnet/: cannot be written" in output and "Traceback" not in output
    assert digests(folder) == wanted and copy.planned() == {}


def limited(copy, target: str, kind: int, value: int) -> str:
    """Output of a failing Snakemake under a resource limit of the kernel."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--", target],
        cwd=copy.root,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        preexec_fn=lambda: resource.setrlimit(kind, (value, value)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        pytest.param(
            resource.RLIMIT_FSIZE, 100_000, "free some space", marks=pytest.mark.slow
        ),  # like a full disk
        (resource.RLIMIT_AS, 1 << 30, "out of memory; give the job more memory"),
    ],
    ids=["file", "memory"],
)
def test_kernel_limits_are_one_line_and_leave_no_partial_files(copy, kind, value, message):
    folder, wanted, target = untrained(copy)
    output = limited(copy, target, kind, value)
    assert message in output and "Traceback" not in output, output
    assert not (copy.root / target).exists()
    copy.snakemake("--rerun-incomplete", "--", target)
    assert digests(folder) == wanted


@pytest.mark.slow
def test_a_diverging_training_is_one_line_and_saves_no_weights(copy):
    folder = copy.root / REALNET.format("hex_nut")
    target = f"{REALNET.format('hex_nut')}/model.safetensors"
    wanted = digests(folder)
    output = copy.snakemake("--config", "training={lr: 1.0e+30}", "--", target, ok=False)
    assert "lower the learning rate" in output and "Traceback" not in output, output
    assert not (copy.root / target).exists() and not list(folder.rglob("last.pt"))
    copy.snakemake("--", target)
    assert digests(folder) == wanted


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
@pytest.mark.slow
def test_a_missing_gpu_is_one_line(copy):
    target = f"{REALNET.format('hex_nut')}/model.safetensors"
    output = copy.snakemake("--config", "compute={device: cuda}", "--", target, ok=False)
    assert "realnet: compute.device: cuda, but torch sees no CUDA device" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_an_image_truncated_after_the_manifest_is_named(copy):
    raw = sorted((copy.root / "data/raw/demo/hex_nut/train/good").iterdir())[0]
    whole, times = raw.read_bytes(), raw.stat()
    raw.write_bytes(whole[: len(whole) // 2])
    os.utime(raw, ns=(times.st_atime_ns, times.st_mtime_ns))
    folder = copy.root / "results/afs/demo/hex_nut/seed0/base"
    wanted = digests(folder)
    empty(folder)
    output = copy.snakemake("--", "results/afs/demo/hex_nut/seed0/base/afs.json", ok=False)
    assert f"realnet: {raw.relative_to(copy.root)}: " in output and "Traceback" not in output
    raw.write_bytes(whole)
    os.utime(raw, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.snakemake("--", "results/afs/demo/hex_nut/seed0/base/afs.json")
    assert digests(folder) == wanted


def test_a_second_workflow_is_refused_and_the_first_continues(copy):
    folder, wanted, target = untrained(copy)
    first = started(copy, "--", target)
    locks = copy.root / ".snakemake/locks"
    while not (locks.is_dir() and list(locks.iterdir())):
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.02)
    output = copy.snakemake("--", target, ok=False)
    assert "cannot be locked" in output
    assert first.wait(120) == 0, first.stdout.read()
    assert digests(folder) == wanted


@pytest.mark.slow
def test_two_jobs_for_one_result_run_one_after_the_other(copy):
    """As from two machines that share the disk but not Snakemake's lock."""
    folder, wanted, target = untrained(copy)
    jobs = [started(copy, "--nolock", "--", target) for _ in range(2)]
    output = [job.communicate(timeout=240)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], output
    assert digests(folder) == wanted


@pytest.mark.slow
def test_an_empty_checkpoint_is_reported_and_training_restarts(copy):
    folder, wanted, target = untrained(copy)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint/last.pt").touch()
    copy.snakemake("--", target)
    log = (copy.root / "results/logs/realnet/demo/hex_nut/seed0/base.log").read_text()
    assert "checkpoint/last.pt: corrupt" in log and "starts from scratch" in log
    assert digests(folder) == wanted


def test_a_job_killed_by_the_kernel_is_reported(copy):
    """As by the out-of-memory killer: the process cannot write an error itself."""
    folder, wanted, target = untrained(copy)
    running = started(copy, "--retries", "0", "--", target)
    killed = 0
    while running.poll() is None:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                here = (entry / "cwd").readlink() == copy.root
            except OSError:
                continue
            if here and words[1:4] == [b"-m", b"realnet", b"train"]:
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
        time.sleep(0.05)
    output = running.stdout.read()
    assert running.returncode == 1 and killed
    assert "realnet: ended by SIGKILL; perhaps the machine ran out of memory" in output
    copy.snakemake("--rerun-incomplete", "--", target)
    assert digests(folder) == wanted
