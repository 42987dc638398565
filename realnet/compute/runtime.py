"""Device, precision, threads and determinism of one job, from the `compute` section."""

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from realnet.compute import determinism
from realnet.config.sections import Compute
from realnet.core.errors import UserError

Network = TypeVar("Network", bound=torch.nn.Module)
# Values of CUDA_VISIBLE_DEVICES with which a process sees no GPU.
NO_DEVICES = ("", "-1", "none", "NoDevFiles")


@dataclass(frozen=True)
class Runtime:
    """Device, precision and processes of this job, with every `auto` resolved."""

    device: torch.device
    precision: torch.dtype  # of autocast regions: float32 (none) or bfloat16
    channels_last: bool
    compile: bool
    rank: int = 0  # of this process among those that share one training
    processes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the one that writes files."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """For provenance: ``cpu`` or the GPU's product name."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def place(self, module: Network) -> Network:
        """Move a network to the device and memory format."""
        module.to(self.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        return module

    def compiled(self, module: torch.nn.Module) -> Callable[..., Any]:
        return torch.compile(module) if self.compile else module

    def adamw(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float
    ) -> torch.optim.AdamW:
        """AdamW with the usual betas (Adam where weight_decay is 0), as one fused kernel.

        The CPU's kernel pairs the numbers of weight, gradient and moments by their place in memory,
        without a check, so all of them get the weight's layout here: also the moments of a
        checkpoint that was written with another layout, or by another form of AdamW.
        """
        optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        optimiser.register_step_pre_hook(_lay_out_gradients)
        optimiser.register_load_state_dict_post_hook(_lay_out_moments)
        return optimiser

    def autocast(self) -> contextlib.AbstractContextManager:
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


def _lay_out_gradients(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimiser.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad = _laid_out(weight.grad, weight)


def _lay_out_moments(optimiser: torch.optim.Optimizer) -> None:
    for group in optimiser.param_groups:
        group["fused"] = True
    for weight, state in optimiser.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = _laid_out(state[name], weight)
        state["step"] = state["step"].to(weight.device, torch.float32)


def _laid_out(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``tensor`` in the memory layout of ``weight``; the same object where it has it."""
    if tensor.stride() == weight.stride():
        return tensor
    return torch.empty_like(weight).copy_(tensor)


def on_cuda(compute: Compute) -> bool:
    """Whether `compute.device` resolves to CUDA. UserError when CUDA is required and there is none.

    Also when this process was assigned a GPU (by a lease, or a cluster) that does not respond: with
    `auto` it would run on the CPU, unnoticed, for days.
    """
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise UserError("compute.device: cuda, but torch sees no CUDA device; use auto or cpu")
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    gone = not available and given not in NO_DEVICES and torch.version.cuda is not None
    if compute.device == "auto" and gone:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES is {given}, but torch sees no such device (see nvidia-smi); run"
            " again when the GPU responds, or set compute.device: cpu"
        )
    return available and compute.device != "cpu"


def start(compute: Compute) -> Runtime:
    """Resolve `auto`, set the number of threads and enable deterministic kernels.

    In a process of :func:`realnet.compute.distributed.launch`, "cuda" is that process's own GPU.
    Raises UserError when CUDA is asked for and there is none.
    """
    on_gpu = on_cuda(compute)
    together = dist.is_initialized()
    torch.set_num_threads(compute.threads)
    determinism.ask()
    # fp32 means fp32: torch would let convolutions use TF32, whose mantissa has 10 bits. (The
    # official code ran on torch 1.11, which used TF32 for both.)
    torch.backends.cudnn.allow_tf32 = compute.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = compute.precision == "tf32"
    bf16 = compute.precision == "bf16" or (compute.precision == "auto" and on_gpu)
    return Runtime(
        device=torch.device("cuda" if on_gpu else "cpu"),
        precision=torch.bfloat16 if bf16 else torch.float32,
        channels_last=compute.channels_last in ("auto", True),
        compile=compute.compile,
        rank=dist.get_rank() if together else 0,
        processes=dist.get_world_size() if together else 1,
    )
