"""Checkpoints of a running training: resumed after an interruption, removed after success."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from realnet.core.errors import UserError
from realnet.core.io import atomic, check_weights

# A process that was asked to stop may still be writing its last checkpoint.
PATIENCE = 60.0  # seconds
LOCK = "lock"


def fingerprint(**causes: Any) -> str:
    """Digest of all that a training depends on; only a checkpoint with the same one is resumed."""
    return hashlib.sha256(json.dumps(causes, sort_keys=True, default=str).encode()).hexdigest()


def training_identity(record: Mapping[str, Any]) -> str:
    """The fingerprint of a training from the content of its provenance record.

    Without the number of processes, which :class:`Checkpoints` stores separately.
    """
    compute = {k: v for k, v in record["params"]["compute"].items() if k != "processes"}
    params = record["params"] | {"compute": compute}
    # In order: the position of a category is its class.
    inputs = list(record["inputs"].items())
    return fingerprint(params=params, inputs=inputs, seed=record["seed"])


class Checkpoints:
    """The folder ``<out>/checkpoint``, locked while a process trains into it.

    The lock ends with the process, so a killed job leaves none; a second job for the same result
    (an orphan and its rerun) gets a UserError instead of overwriting the first one's files.
    All ``processes`` read the checkpoint; the main one, of ``rank`` 0, locks and writes.
    """

    def __init__(self, out: Path, identity: str, processes: int = 1, rank: int = 0):
        self.folder, self.identity = out / "checkpoint", identity
        self.processes, self.rank = processes, rank
        if rank > 0:
            return
        lock = _lock(self.folder / LOCK, PATIENCE)
        if lock is None:
            raise UserError(f"{out}: another process is working here; wait or stop it")
        self.lock = lock
        for left in self.folder.glob(".last-*"):  # by a process that was killed
            left.unlink()

    @property
    def path(self) -> Path:
        return self.folder / "last.pt"

    def load(self) -> dict[str, Any] | None:
        """The last state; None where no checkpoint fits, and the training starts from scratch.

        UserError for one of another number of processes: the sums of gradients would be rounded
        differently, so resuming gives neither run's result, and a new start might waste days.
        """
        if not self.path.is_file():
            return None
        try:
            state = _read(self.path)
            if not isinstance(state, dict):
                raise ValueError(f"a {type(state).__name__}")
        except _UNREADABLE as error:
            print(f"{self.path}: corrupt ({type(error).__name__}), starts from scratch")
            return None
        if state.get("identity") != self.identity:
            print(f"{self.path}: of other parameters or inputs, starts from scratch")
            return None
        before = state.get("processes", 1)
        if before != self.processes:
            raise UserError(
                f"{self.path}: from a training in {before} processes, this one has"
                f" {self.processes}; set compute.processes: {before} to resume it, or remove"
                f" {self.folder} to start from scratch"
            )
        return state

    def save(self, **state: Any) -> None:
        """Replace the checkpoint. UserError where weights of ``model`` are not finite."""
        if self.rank > 0:
            return
        check_weights(state.get("model", {}), self.path)
        with atomic(self.path) as temporary:
            torch.save({"identity": self.identity, "processes": self.processes, **state}, temporary)

    def finish(self) -> None:
        """Remove the folder: a forced rerun must not resume a finished run and train nothing."""
        if self.rank > 0:
            return
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        (self.folder / LOCK).unlink()  # while held, so that waiting processes notice it
        os.close(self.lock)
        with contextlib.suppress(OSError):  # another process has locked it
            self.folder.rmdir()


_UNREADABLE = (RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile)


def _lock(path: Path, patience: float) -> int | None:
    """An exclusive lock as an open descriptor; None if it was not acquired within ``patience`` s.

    The process that finishes removes the file. A lock on a removed file does not exclude other
    processes, so it is not accepted. filelock fails if the folder is removed while it waits.
    """
    end = time.monotonic() + patience
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the folder was removed meanwhile
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            except OSError as error:
                if not isinstance(error, BlockingIOError | FileNotFoundError):
                    os.close(descriptor)
                    raise
            os.close(descriptor)
        if time.monotonic() > end:
            return None
        time.sleep(0.2)


def check_finite(loss: float, step: int, where: str) -> None:
    """UserError for a loss that is not finite, before it is saved to a checkpoint."""
    if not math.isfinite(loss):
        raise UserError(
            f"{where}: the loss is {loss} at step {step + 1}; lower the learning rate (lr), set"
            " grad_clip, or use compute.precision: fp32"
        )


def _read(path: Path) -> dict[str, Any]:
    """Mapped into memory where the file system can: several processes then share one copy.

    torch does not verify the checksums that it writes, so a flipped bit would not be noticed.
    """
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(damaged)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        return torch.load(path, map_location="cpu", weights_only=True)


def learning_rate(schedule: str, warmup: int, total: int) -> Callable[[int], float]:
    """Factor of the base rate at each step: linear warm-up, then constant or cosine to 0.

    Not diffusers' get_scheduler: its warm-up starts at a rate of 0, and its cosine is rounded
    differently (float64).
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule == "constant":
            return 1.0
        done = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi)).item())

    return factor
