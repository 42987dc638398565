"""Device, precision, threads and determinism of one job, from the `compute` section."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

from realnet.errors import UserError
from realnet.params import Compute


@dataclass(frozen=True)
class Runtime:
    """What `auto` resolved to."""

    device: torch.device
    precision: torch.dtype  # of autocast regions: float32 (none) or bfloat16
    channels_last: bool
    compile: bool

    @property
    def name(self) -> str:
        """For provenance: ``cpu`` or the GPU's product name."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a network to the device and memory format."""
        if self.channels_last:
            return module.to(self.device, memory_format=torch.channels_last)
        return module.to(self.device)

    def compiled(self, module: torch.nn.Module) -> torch.nn.Module:
        return torch.compile(module) if self.compile else module

    def autocast(self) -> contextlib.AbstractContextManager:
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


def start(compute: Compute) -> Runtime:
    """Resolve `auto`, fix the thread count and ask torch for deterministic kernels.

    Raises UserError when CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise UserError("compute.device: cuda, but torch sees no CUDA device; use auto or cpu")
    kind = "cuda" if available and compute.device != "cpu" else "cpu"
    on_gpu = kind == "cuda"
    torch.set_num_threads(compute.threads)
    # warn_only: a few CUDA backward kernels (bilinear upsampling) have no deterministic form.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    bf16 = compute.precision == "bf16" or (compute.precision == "auto" and on_gpu)
    layout = on_gpu if compute.channels_last == "auto" else compute.channels_last
    return Runtime(
        device=torch.device(kind),
        precision=torch.bfloat16 if bf16 else torch.float32,
        channels_last=bool(layout),
        compile=compute.compile,
    )


def progress(first: int, total: int, label: str) -> Iterator[tuple[int, tqdm]]:
    """Steps ``first .. total-1`` with a bar: live in a terminal, now and then a line in a log."""
    interactive = sys.stderr.isatty()
    with tqdm(
        total=total,
        initial=first,
        desc=label,
        unit="step",
        dynamic_ncols=interactive,
        mininterval=0.5 if interactive else 20.0,
        maxinterval=5.0 if interactive else 60.0,
        ascii=not interactive,
        leave=True,
    ) as bar:
        for step in range(first, total):
            yield step, bar
            bar.update()
