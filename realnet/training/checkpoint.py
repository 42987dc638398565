"""Checkpoints of a running training: resumed after a kill, gone after success."""

import fcntl
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from realnet.errors import UserError
from realnet.io import atomic


def fingerprint(**causes: Any) -> str:
    """Digest of everything that the training depends on; a checkpoint of another is not resumed."""
    return hashlib.sha256(json.dumps(causes, sort_keys=True, default=str).encode()).hexdigest()


def training_identity(record: Mapping[str, Any]) -> str:
    """The fingerprint of a training from the content of its provenance record.

    Without the number of processes, of which :class:`Checkpoints` keeps its own account.
    """
    compute = {k: v for k, v in record["params"]["compute"].items() if k != "processes"}
    params = record["params"] | {"compute": compute}
    # In order, since the position of a category is its class.
    inputs = list(record["inputs"].items())
    return fingerprint(params=params, inputs=inputs, seed=record["seed"])


class Checkpoints:
    """The folder ``<out>/checkpoint``, locked while a process trains into it.

    The lock ends with the process, so a killed job leaves none; a second job for the same result
    (an orphan and its rerun) gets a UserError instead of writing over the first one's files.
    Of several ``processes`` each reads the checkpoint, and the one of ``rank`` 0 locks and writes.
    """

    def __init__(self, out: Path, identity: str, processes: int = 1, rank: int = 0):
        self.folder, self.identity = out / "checkpoint", identity
        self.processes, self.rank = processes, rank
        if rank > 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another process is training here; wait or stop it") from None

    @property
    def path(self) -> Path:
        return self.folder / "last.pt"

    def load(self) -> dict[str, Any] | None:
        """The last state, or None where there is none that fits (it is then trained anew).

        UserError for one of another number of processes: as the sums of gradients would be rounded
        otherwise, going on would give neither run's result, and starting anew might waste days.
        """
        if not self.path.is_file():
            return None
        try:
            state = _read(self.path)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            print(f"{self.path}: unreadable ({type(error).__name__}), training starts anew")
            return None
        if state.get("identity") != self.identity:
            print(f"{self.path}: made with other parameters or inputs, training starts anew")
            return None
        before = state.get("processes", 1)
        if before != self.processes:
            raise UserError(
                f"{self.path}: from a training in {before} processes, this one has"
                f" {self.processes}; set compute.processes: {before} to go on with it, or remove"
                f" {self.folder} to start anew"
            )
        return state

    def save(self, **state: Any) -> None:
        if self.rank > 0:
            return
        with atomic(self.path) as temporary:
            torch.save({"identity": self.identity, "processes": self.processes, **state}, temporary)

    def finish(self) -> None:
        """Remove the folder: a forced rerun must not resume a finished run and train nothing."""
        if self.rank > 0:
            return
        os.close(self.lock)
        shutil.rmtree(self.folder)


def _read(path: Path) -> dict[str, Any]:
    """Mapped into memory where the file system can: several processes then share one copy."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        return torch.load(path, map_location="cpu", weights_only=True)


def restore_modules(state: Mapping[str, Any], **parts: Any) -> None:
    """``part.load_state_dict(state[name])`` for each named part."""
    for name, part in parts.items():
        part.load_state_dict(state[name])


def learning_rate(schedule: str, warmup: int, total: int) -> Callable[[int], float]:
    """Factor of the base rate at each step: linear warm-up, then constant or cosine to 0."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule == "constant":
            return 1.0
        done = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi)).item())

    return factor
