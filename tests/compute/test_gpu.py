"""GPU leases with made-up device names: real processes, real locks."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realnet.compute.gpu import confined, devices, lease
from realnet.core.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]

# The job: record when it had which devices.
JOB = """
import os, sys, time
begin = time.monotonic()
time.sleep(float(sys.argv[2]))
line = f"{os.environ['CUDA_VISIBLE_DEVICES']} {begin} {time.monotonic()}\\n"
with open(sys.argv[1], "a") as notes:
    notes.write(line)
"""


@pytest.fixture
def start(tmp_path):
    """Start a job with the wrapper; jobs that still run at the end are killed."""
    started = []

    def run(pool, *command, count=1, **environment):
        given = os.environ | {
            "REALNET_GPU_LOCKS": str(tmp_path / "locks"),
            "PYTHONPATH": str(PROJECT),
        }
        for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
            given.pop(name, None)
        given |= {"REALNET_GPU_POOL": pool} | environment
        wrapper = [sys.executable, "-m", "realnet.compute.gpu", "--count", str(count), "--"]
        job = subprocess.Popen(
            [*wrapper, *map(str, command)],
            env=given,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(job)
        return job

    yield run
    for job in started:
        job.kill()
        job.communicate()


def use(notes):
    """[(device, begin, end)] of the finished jobs; a job on two devices has two entries."""
    rows = [line.split() for line in Path(notes).read_text().splitlines()]
    return [(d, float(b), float(e)) for names, b, e in rows for d in names.split(",")]


def clashes(rows):
    return [
        (a, b)
        for i, a in enumerate(rows)
        for b in rows[:i]
        if a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
    ]


def test_concurrent_jobs_get_different_devices_and_the_rest_wait(start, tmp_path):
    notes = tmp_path / "notes"
    jobs = [start("a,b", sys.executable, "-c", JOB, notes, 0.4) for _ in range(5)]
    logs = [job.communicate(timeout=60)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 5
    rows = use(notes)
    assert {device for device, _, _ in rows} == {"a", "b"}
    assert len(rows) == 5
    assert clashes(rows) == []
    assert sum("waiting for 1 of 2 GPUs" in text for text in logs) >= 1


def test_two_devices_are_leased_together_or_not_at_all(start, tmp_path):
    notes = tmp_path / "notes"
    jobs = [start("a,b,c", sys.executable, "-c", JOB, notes, 0.2, count=2) for _ in range(4)]
    for job in jobs:
        job.communicate(timeout=60)
    rows = use(notes)
    assert len(rows) == 8  # no job waits forever while it holds one device
    assert clashes(rows) == []


def test_a_killed_job_leaves_no_lease(start, tmp_path):
    notes = tmp_path / "notes"
    begun = tmp_path / "begun"
    job = start(
        "a", sys.executable, "-c", f"open({str(begun)!r}, 'w'); import time; time.sleep(60)"
    )
    while not begun.exists():
        time.sleep(0.05)
    waiting = start("a", sys.executable, "-c", JOB, notes, 0)
    time.sleep(0.5)
    assert waiting.poll() is None and not notes.exists()
    job.kill()  # SIGKILL: no cleanup
    waiting.communicate(timeout=30)
    assert [device for device, _, _ in use(notes)] == ["a"]


def test_exit_status_and_arguments_are_passed_through(start):
    job = start(
        "a", sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "--count", "x y"
    )
    out, _ = job.communicate(timeout=30)
    assert job.returncode == 7
    assert out.strip() == "['--count', 'x y']"


SHOW = "import os; print(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"


def test_without_a_gpu_the_command_runs_on_the_cpu(start):
    out, stderr = start("", sys.executable, "-c", SHOW).communicate(timeout=30)
    assert out.strip() == "''"
    assert "on the CPU" in stderr


def test_devices_chosen_by_a_scheduler_are_kept(start):
    job = start("a,b", sys.executable, "-c", SHOW, SLURM_JOB_ID="1", CUDA_VISIBLE_DEVICES="5")
    assert job.communicate(timeout=30)[0].strip() == "'5'"


def test_count_zero_leases_nothing(start, tmp_path):
    out, _ = start("a", sys.executable, "-c", SHOW, count=0, CUDA_VISIBLE_DEVICES="3").communicate()
    assert out.strip() == "'3'"
    assert not (tmp_path / "locks").exists()


def test_more_gpus_than_available_is_one_line(start):
    _, stderr = start("a,b", "true", count=3).communicate(timeout=30)
    assert stderr.count("\n") == 1
    assert "3 GPUs asked for, but there are 2 (a, b)" in stderr


def test_order_of_the_device_pool():
    assert devices({"REALNET_GPU_POOL": "0, 2", "CUDA_VISIBLE_DEVICES": "7"}) == ["0", "2"]
    assert devices({"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}) == ["GPU-1", "GPU-2"]
    assert devices({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert devices({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def test_confined_device_list():
    assert confined({"SLURM_JOB_ID": "12"}) and confined({"KUBERNETES_SERVICE_HOST": "h"})
    assert not confined({})


def test_lease_takes_the_first_free_device(tmp_path):
    first = lease(1, ["a", "b"], tmp_path)
    second = lease(1, ["a", "b"], tmp_path)
    assert (list(first), list(second)) == (["a"], ["b"])
    os.close(first["a"])
    assert list(lease(1, ["a", "b"], tmp_path)) == ["a"]
    with pytest.raises(UserError, match="3 GPUs asked for"):
        lease(3, ["a", "b"], tmp_path)
