"""``stage.json``, the record that every stage writes beside its results."""

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

from realnet.config.params import PROJECT
from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256, write_json

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


# Files beside a result that hold the digests of its files; written after it.
VOUCHERS = ("stage.json", "summary.json")


def outputs(folder: str | Path) -> dict[str, str]:
    """File name -> SHA-256 of the files in a stage's folder; subfolders are ignored."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    wanted = (p for p in files if p.name not in VOUCHERS and not p.name.startswith("."))
    return {path.name: sha256(path) for path in wanted}


def intact(path: str | Path) -> str:
    """SHA-256 of an input. UserError: it differs from the digest in the record beside it.

    A file without a recorded digest (an import, or a result of an older version) is not checked.
    """
    path, digest = Path(path), sha256(path)
    for name in VOUCHERS:
        voucher = path.with_name(name)
        known = read_json(voucher).get("outputs", {}) if voucher.is_file() else {}
        if known.get(path.name, digest) != digest:
            raise UserError(
                f"{path}: changed or corrupt (its digest differs from that in {voucher.name});"
                " remove it and rerun snakemake, which rebuilds it"
            )
    return digest


def code() -> dict[str, str]:
    """File -> SHA-256 (16 digits), of every module of this package that the process has loaded."""
    package = Path(__file__).parents[1]
    loaded = {
        Path(file)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == package.name and (file := getattr(module, "__file__", None))
    }
    own = sorted(path for path in loaded if path.is_relative_to(package) and path.is_file())
    return {path.relative_to(package.parent).as_posix(): sha256(path)[:16] for path in own}


class Record:
    """Created when a stage starts, written to ``<out>/stage.json`` when it has succeeded.

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
                name: {"path": str(path), "sha256": intact(path)} for name, path in inputs.items()
            },
        }

    def write(self, out: str | Path, device: str, **extra: Any) -> None:
        """Write ``stage.json``: identity, params, digests, code, versions, cost.

        Nondeterministic operations are listed under ``nondeterministic``, which is absent if
        there were none.
        """
        from realnet.compute.determinism import (
            named,  # imported late, since it needs torch and the start of a stage does not
        )

        nondeterministic = named()
        versions = {}
        for package in PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        self.content |= {
            **extra,
            "outputs": outputs(out),
            **({"nondeterministic": nondeterministic} if nondeterministic else {}),
            "device": device,
            "wall_s": round(time.perf_counter() - self.started, 2),
            "peak_memory_mb": peak_memory_mb(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "code": code(),
            "python": platform.python_version(),
            "versions": versions,
        }
        write_json(Path(out) / "stage.json", self.content)
