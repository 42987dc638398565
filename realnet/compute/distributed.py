"""One training on several devices of one machine: a process each, equal weights in all of them.

Every process runs the same function, works on its share of each batch and takes part in the
averaging of gradients (torch's DistributedDataParallel) and of BatchNorm statistics. Random numbers
are drawn for a whole batch and then shared out, so the number of processes changes only rounding.
(The official code seeds all processes equally: all GPUs draw the same timesteps and noise.)
"""

import contextlib
import datetime
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from realnet.compute.runtime import Runtime, on_cuda
from realnet.config.sections import Compute
from realnet.core import stopping
from realnet.core.environment_errors import explain
from realnet.core.errors import UserError
from realnet.core.io import read_json, write_json

# How long a process waits for another that writes a checkpoint. A failed process is noticed at
# once, by the process that started them.
PATIENCE = datetime.timedelta(hours=1)


# --- starting and ending them --------------------------------------------------------------------


def process_count(compute: Compute) -> int:
    """The value of `compute.processes`; `auto` is one per visible GPU, and one on the CPU."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            "started by torchrun, but the training starts its own processes: set"
            " compute.processes and run the command without torchrun"
        )
    gpus = torch.cuda.device_count() if on_cuda(compute) else 0
    if compute.processes == "auto":
        return max(1, gpus)
    if gpus and compute.processes > gpus:
        raise UserError(
            f"compute.processes: {compute.processes}, but this job sees {gpus}"
            f" GPU{'s' if gpus > 1 else ''}; give it more, or lower the number"
        )
    return compute.processes


def check_batch(name: str, size: int, compute: Compute) -> None:
    """UserError where a batch of the parameter ``name`` has no image for each process."""
    if size < (count := process_count(compute)):
        raise UserError(
            f"{name}: {size} images cannot be shared out among {count} processes"
            " (compute.processes)"
        )


def launch(function: Callable[..., None], compute: Compute, *arguments: Any) -> None:
    """``function(*arguments)``, here or in `compute.processes` processes at once, until all end.

    ``function`` must be importable by name. The first process that fails ends the others, and its
    error is raised here: a UserError as such, anything else as RuntimeError with its traceback.
    """
    count = process_count(compute)
    if count == 1:
        _guarded(function, arguments)
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="realnet-") as folder:
        group = Group(Path(folder), count, "nccl" if on_cuda(compute) else "gloo")
        jobs = [
            context.Process(target=_member, args=(rank, group, function, arguments))
            for rank in range(count)
        ]
        try:
            for job in jobs:
                job.start()
            failed = _wait(jobs)
        except stopping.Stopped:
            for job in jobs:
                if job.is_alive():
                    job.terminate()
            # Each ends after the same step, the main one last, since it saves the step.
            _wait(jobs, stopping_now=True)
            raise
        finally:
            for job in jobs:
                if job.is_alive():
                    job.kill()
                    job.join()
        if failed:
            raise _cause(group, failed)


@dataclass(frozen=True)
class Group:
    """Where the processes of one training meet, and report their failures."""

    folder: Path
    count: int
    backend: str

    def report(self, rank: int) -> Path:
        return self.folder / f"failure{rank}.json"


def _member(rank: int, group: Group, function: Callable[..., None], arguments: Sequence) -> None:
    """Worker entry point."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.pop(stopping.PARENT, None)  # this one ends with the process that started it
    stopping.listen()
    if rank > 0:  # only the main process prints
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        warnings.simplefilter("ignore")
    try:
        if group.backend == "nccl":
            torch.cuda.set_device(rank)
        dist.init_process_group(
            group.backend,
            init_method=f"file://{group.folder}/meeting",
            rank=rank,
            world_size=group.count,
            timeout=PATIENCE,
        )
        _guarded(function, arguments)
        dist.destroy_process_group()
    except stopping.Stopped as stop:
        sys.stdout.flush()
        os._exit(128 + stop.number)
    except BaseException as error:
        plain = str(error) if isinstance(error, UserError) else explain(error)
        known = plain is not None
        text = plain if known else traceback.format_exc()
        report = {"time": time.monotonic(), "rank": rank, "known": known, "text": text}
        write_json(group.report(rank), report)  # atomic: this process may be killed
        sys.stderr.flush()
        os._exit(1)  # without waiting for the others, which wait for this one


def _end_with_parent() -> None:
    """A killed parent must leave no process that trains on and holds the result's lock."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only child processes call this
    connection.wait([parent.sentinel])
    os._exit(1)


def _guarded(function: Callable[..., None], arguments: Sequence) -> None:
    try:
        function(*arguments)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "out of GPU memory; set gradient_checkpointing (sections ddpm, training), lower"
            " ddpm.micro_batch or training.batch_size, or use more compute.processes"
            f" ({' '.join(str(error).split())[:120]})"
        ) from None


def _wait(jobs: Sequence[Any], stopping_now: bool = False) -> dict[int, int]:
    """Wait until all succeed (then empty) or one fails; rank -> exit code of those that failed.

    stopping_now: a process that ended because it was asked to (128 + signal) has not failed.
    """
    waiting = {job.sentinel: job for job in jobs}
    while waiting:
        for sentinel in connection.wait(list(waiting)):
            job = waiting.pop(sentinel)
            job.join()
            if job.exitcode and not (stopping_now and job.exitcode > 128):
                return {r: job.exitcode for r, job in enumerate(jobs) if job.exitcode}
    return {}


def _cause(group: Group, failed: dict[int, int]) -> Exception:
    """The error to raise: the first one, since the failure of one process makes the others fail."""
    paths = [path for rank in range(group.count) if (path := group.report(rank)).is_file()]
    reports = sorted(map(read_json, paths), key=lambda report: report["time"])
    for report in reports:
        if report["known"]:
            return UserError(report["text"])
    for rank, code in failed.items():
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; perhaps the machine ran out of memory" if name == "SIGKILL" else ""
            return UserError(f"process {rank} of {group.count} was ended by {name}{hint}")
    if reports:
        first = reports[0]
        return RuntimeError(f"process {first['rank']} of {group.count} failed:\n{first['text']}")
    rank, code = next(iter(failed.items()))
    return RuntimeError(f"process {rank} of {group.count} ended with status {code}")


# --- working together ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A process's part of a batch."""

    items: torch.Tensor  # [n]
    first: int  # position of items[0] in the batch
    weight: float  # n / size of the batch; 0 if no item was left, and items is a placeholder


def share(batch: torch.Tensor, runtime: Runtime) -> Share:
    """This process's part of ``batch [B]``: consecutive items, in the order of the ranks.

    With fewer items than processes (the short last batch of an epoch) those without an item get
    the first one, with weight 0, since all have to take part in a step.
    """
    parts = batch.tensor_split(runtime.processes)
    mine, first = parts[runtime.rank], sum(map(len, parts[: runtime.rank]))
    if not len(mine):
        return Share(batch[:1], 0, 0.0)
    return Share(mine, first, len(mine) / len(batch))


def parallel(model: nn.Module, runtime: Runtime) -> nn.Module:
    """``model``, with gradients averaged over the processes in each backward pass."""
    if runtime.processes == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[torch.cuda.current_device()] if runtime.device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # saves a second copy of the gradients
    )


def collecting(model: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """Around forward and backward: gradients are averaged over processes only where ``last``."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def total(values: Sequence[float], runtime: Runtime) -> list[float]:
    """Each number summed over the processes."""
    if runtime.processes == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=runtime.device)
    dist.all_reduce(summed)
    return summed.tolist()


def stops(runtime: Runtime) -> bool:
    """Whether to stop after this step: all processes stop if one of them was asked to.

    The answer holds for the step: a signal that arrives after it ends the next step.
    """
    asked = stopping.asked() is not None
    if runtime.processes > 1 and total([float(asked)], runtime)[0] > 0:
        stopping.ask()
        return True
    if not asked:
        stopping.postpone()
    return asked


def check_alike(model: nn.Module, runtime: Runtime, step: int) -> None:
    """RuntimeError where the processes no longer have the same step and weights, bit for bit."""
    if runtime.processes == 1:
        return
    sums = [tensor.detach().view(torch.int32).sum() for tensor in model.parameters()]
    mine = torch.stack([torch.stack(sums).sum(), torch.tensor(step, device=runtime.device)])
    found = [torch.empty_like(mine) for _ in range(runtime.processes)]
    dist.all_gather(found, mine)
    if any(not torch.equal(other, mine) for other in found):
        raise RuntimeError(f"step {step}: the processes' weights differ: a bug")
