"""BatchNorm with statistics over all processes of a training."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from realnet.compute.runtime import Runtime


class _Sum(torch.autograd.Function):
    """Sum over the processes; the gradient is summed, too."""

    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes; torch's SyncBatchNorm does not run on the CPU.

    ``counts`` is 0 while this process works on an item of weight 0 (:func:`share`). ``alone``: the
    statistics are those of this process, and the others do not take part.
    """

    counts = 1.0
    alone = False

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(value)
        wide, shape = value.float(), (1, -1, 1, 1)
        counted = wide.numel() // wide.shape[1] * self.counts
        total = (lambda value: value) if self.alone else _Sum.apply
        count = total(torch.tensor(float(counted), device=wide.device))
        mean = total(wide.sum((0, 2, 3)) * self.counts) / count
        centred = wide - mean.view(shape)
        variance = total(centred.square().sum((0, 2, 3)) * self.counts) / count
        # As torch's BatchNorm2d has them by default.
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(value.dtype)


def share_statistics(model: nn.Module, runtime: Runtime) -> list[SharedBatchNorm2d]:
    """Replace the BatchNorm layers of ``model``, in place; the names of its weights stay.

    Returns the new layers; none where there is one process.
    """
    found: list[SharedBatchNorm2d] = []
    if runtime.processes == 1:
        return found
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                new = SharedBatchNorm2d(
                    child.num_features, child.eps, child.momentum, child.affine
                ).to(runtime.device)
                new.load_state_dict(child.state_dict())
                setattr(module, name, new)
                found.append(new)
    return found
