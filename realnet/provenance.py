"""What every stage writes beside its results, so that each number can be traced to its causes."""

import datetime
import importlib.metadata
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realnet.io import sha256, write_json
from realnet.params import PROJECT

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "diffusers",
    "numpy",
    "pillow",
    "opencv-python-headless",
)


def git_commit() -> str | None:
    """The checkout's commit, with ``+dirty`` when tracked files differ; None outside git."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(PROJECT), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


def peak_memory_mb() -> int:
    """Peak resident memory of this process, in MiB (Linux reports KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


class Record:
    """Opened when a stage starts, written to ``<out>/stage.json`` when it has succeeded.

    >>> record = Record("afs", params={"afs": {...}}, inputs={"manifest": path}, seed=0)
    >>> record.write(out, device="cpu", extra={"channels": 144})            # doctest: +SKIP
    """

    def __init__(
        self,
        stage: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, str | Path],
        **identity: Any,
    ):
        self.started = time.perf_counter()
        self.content = {
            "stage": stage,
            **identity,
            "params": dict(params),
            "inputs": {
                name: {"path": str(path), "sha256": sha256(path)} for name, path in inputs.items()
            },
        }

    def write(self, out: str | Path, device: str, **extra: Any) -> None:
        """Write ``stage.json``: identity, params, input digests, commit, versions, cost."""
        versions = {}
        for package in PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        self.content |= {
            **extra,
            "device": device,
            "wall_s": round(time.perf_counter() - self.started, 2),
            "peak_memory_mb": peak_memory_mb(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "python": platform.python_version(),
            "versions": versions,
        }
        write_json(Path(out) / "stage.json", self.content)
