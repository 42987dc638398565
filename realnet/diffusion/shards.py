"""Images in shards: sampled once, verified when reused, never sampled by two processes at once.

A shard is complete when its record ``shards/NNN.json`` exists, which is written last and holds the
digest of every image.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from PIL import Image

from realnet.config.sections import Sia
from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256, write_json
from realnet.core.progress import progress

SampleIndices = Callable[[list[int]], torch.Tensor]  # indices -> uint8 [N, 3, S, S]
Describe = Callable[[int], dict[str, Any]]  # index -> manifest fields of the image


@dataclass(frozen=True)
class Shard:
    """The images ``first .. first + count - 1`` below the folder ``out``."""

    out: Path
    number: int
    first: int
    count: int

    @property
    def folder(self) -> Path:
        return self.out / "images" / f"shard{self.number:03d}"

    @property
    def record(self) -> Path:
        return self.out / "shards" / f"{self.number:03d}.json"


def shards_of(params: Sia, out: Path) -> list[Shard]:
    """All have `sia.shard` images, the last one the remainder."""
    starts = range(0, params.images, params.shard)
    counts = (min(params.shard, params.images - first) for first in starts)
    return [Shard(out, n, *span) for n, span in enumerate(zip(starts, counts, strict=True))]


def complete(shard: Shard, causes: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a complete and unchanged shard; None if the shard must be sampled.

    UserError where it was sampled with other settings: hours of work are not deleted unasked.
    """
    if not shard.record.is_file():
        return None
    done = read_json(shard.record)
    for key, value in causes.items():
        before = done["causes"].get(key)
        if before != value:
            raise UserError(
                f"{shard.record}: sampled with {key} {before}, now it is {value}; remove"
                f" {shard.out}, or choose another folder (--out)"
            )
    wanted = list(range(shard.first, shard.first + shard.count))
    if [row["index"] for row in done["rows"]] != wanted:
        return None  # the last shard, when the dataset was smaller or larger
    for row in done["rows"]:
        path = shard.out / row["path"]
        if not path.is_file() or sha256(path) != row["sha256"]:
            print(f"{path}: missing or changed, so shard {shard.number} is sampled again")
            return None
    return done


def make_shard(
    shard: Shard,
    causes: dict[str, Any],
    batch_size: int,
    sample: SampleIndices,
    describe: Describe,
    device: str,
) -> dict[str, Any]:
    """Sample the images into a hidden folder, rename it, write the record, and return that.

    Batches start at multiples of ``batch_size`` and are full; what lies beyond the shard's end is
    discarded. So an image is always computed in the same batch, to the same bits.
    """
    started, end = time.perf_counter(), shard.first + shard.count
    hidden = shard.folder.with_name(f".{shard.folder.name}.tmp")  # DVC ignores hidden names
    for left in (hidden, shard.folder):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    hidden.mkdir(parents=True)
    rows = []
    label = f"sia {causes['dataset']}/{causes['category']} shard {shard.number}"
    for batch, _ in progress(0, -(-shard.count // batch_size), label):
        first = shard.first + batch * batch_size
        indices = list(range(first, first + batch_size))
        for index, image in zip(indices, sample(indices), strict=True):
            if index >= end:
                break
            name = f"{index:05d}.png"
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(hidden / name)
            path = (shard.folder / name).relative_to(shard.out).as_posix()
            digest = sha256(hidden / name)
            rows.append({"path": path, "index": index, **describe(index), "sha256": digest})
    hidden.rename(shard.folder)
    seconds = round(time.perf_counter() - started, 2)
    done = {"causes": causes, "device": device, "wall_s": seconds, "rows": rows}
    write_json(shard.record, done)
    return done


@contextlib.contextmanager
def alone(shard: Shard) -> Iterator[None]:
    """Hold the shard's lock, which ends with the process. UserError: another one holds it."""
    path = shard.record.with_name(f".{shard.record.stem}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a kill
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{shard.folder}: another process is sampling this shard; wait or stop it"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while held, so that waiting processes notice it
        lock.release()


def remove_surplus(out: Path, plan: list[Shard]) -> None:
    """Remove shards beyond ``sia.images``, of an earlier and larger dataset."""
    wanted = {shard.record for shard in plan}
    for path in sorted((out / "shards").glob("*.json")):
        if path not in wanted:
            print(f"{out}: shard {path.stem} lies beyond sia.images and is removed")
            path.unlink()
            shutil.rmtree(out / "images" / f"shard{path.stem}", ignore_errors=True)
