"""Devices for concurrent jobs: `python -m realnet.compute.gpu --count 1 -- COMMAND …`.

Snakemake's `--resources gpu=4` counts; it does not say which of the four a job may use. This
wrapper locks one small file per device, sets CUDA_VISIBLE_DEVICES to the devices it got and turns
into the command. The lock belongs to the open file, which the command inherits: however the job
ends, the kernel frees the device, so there is nothing stale to clean up and no daemon. (Hence not
filelock, whose descriptor belongs to an object of Python and does not outlive an exec.)

Leases are per host and user. Under SLURM or Kubernetes the scheduler has already assigned
devices to the job, so the wrapper only starts the command.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from realnet.core.errors import UserError

POLL_SECONDS = 0.25


def confined(environment: Mapping[str, str]) -> bool:
    """Whether a cluster's scheduler has chosen this job's devices."""
    return "SLURM_JOB_ID" in environment or "KUBERNETES_SERVICE_HOST" in environment


def devices(environment: Mapping[str, str]) -> list[str]:
    """Names of the devices to share out; empty on a machine without a GPU.

    The first of REALNET_GPU_POOL, CUDA_VISIBLE_DEVICES and the output of `nvidia-smi`.
    """
    for variable in ("REALNET_GPU_POOL", "CUDA_VISIBLE_DEVICES"):
        if variable in environment:
            names = [name.strip() for name in environment[variable].split(",")]
            return [name for name in names if name not in ("", "-1", "none", "NoDevFiles")]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split() if done.returncode == 0 else []


def lock_folder(environment: Mapping[str, str]) -> Path:
    """Folder of the locks, on a local disk and readable only by this user."""
    default = Path(tempfile.gettempdir()) / f"realnet-gpu-{os.getuid()}"
    folder = Path(environment.get("REALNET_GPU_LOCKS", default))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _lock(path: Path, wait: bool) -> int | None:
    """An exclusive lock as an open descriptor; None when another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def lease(count: int, pool: Sequence[str], folder: Path) -> dict[str, int]:
    """Wait until ``count`` devices of ``pool`` are free; device -> descriptor that holds it.

    All or none: a job that finds too few releases those it took, so that two jobs which need two
    devices each never hold one each for ever. UserError when the pool is too small.
    """
    if count > len(pool):
        raise UserError(
            f"{count} GPUs asked for, but there are {len(pool)} ({', '.join(pool)}); lower"
            " `gpu` in the rule's resources"
        )
    reported = False
    while True:
        turn = _lock(folder / "turn", wait=True)  # one job at a time takes devices
        held: dict[str, int] = {}
        for device in pool:
            if len(held) < count:
                descriptor = _lock(folder / f"device-{device.replace('/', '_')}", wait=False)
                if descriptor is not None:
                    held[device] = descriptor
        if len(held) < count:
            for descriptor in held.values():
                os.close(descriptor)
        if turn is not None:
            os.close(turn)
        if len(held) == count:
            return held
        if not reported:
            print(f"waiting for {count} of {len(pool)} GPUs", file=sys.stderr, flush=True)
            reported = True
        time.sleep(POLL_SECONDS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m realnet.compute.gpu", description=__doc__)
    parser.add_argument("--count", type=int, default=1, help="devices the command needs; may be 0")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND …")
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("no command")
    if given.count > 0 and not confined(os.environ):
        held: dict[str, int] = {}
        pool = devices(os.environ)
        if pool:
            try:
                held = lease(given.count, pool, lock_folder(os.environ))
            except UserError as error:
                print(f"realnet: {error}", file=sys.stderr)
                raise SystemExit(2) from None
        for descriptor in held.values():
            os.set_inheritable(descriptor, True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)  # empty: the command sees no GPU
        print(f"GPU {', '.join(held) or 'none: on the CPU'}", file=sys.stderr, flush=True)
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        print(f"realnet: {command[0]}: no such command", file=sys.stderr)
        raise SystemExit(127) from None


if __name__ == "__main__":
    main()
