"""Functions that the worker processes of test_distributed.py run; they are imported by name."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from realnet.compute.distributed import check_alike, stops
from realnet.compute.runtime import start
from realnet.config.params import load
from realnet.core.errors import UserError
from realnet.core.progress import progress


def runtime():
    return start(load(overrides={"preset": "smoke"}).compute)


# --- everything that one start of the processes records -------------------------------------------


def everything(notes, ddpm_jobs, realnet_jobs):
    """Run all trainings and record the batches and weights of each step; BatchNorm on shares."""
    from realnet.stages import ddpm
    from realnet.stages import realnet as loop
    from realnet.training import denoiser_training as denoiser

    rows = []
    loss, batch = denoiser.training_loss, loop._Data.batch

    def spied_loss(*given):
        rows.append({key: digest(getattr(given[-1], key)) for key in ("clean", "noise")})
        return loss(*given)

    def spied_batch(self, chosen, first_item):
        found = batch(self, chosen, first_item)
        rows.append({"chosen": chosen.tolist(), "first": first_item, "masks": digest(found[2])})
        return found

    def note(optimiser, *_):
        weights = [p.detach().flatten() for g in optimiser.param_groups for p in g["params"]]
        rows.append({"after": digest(torch.cat(weights))})

    denoiser.training_loss, loop._Data.batch = spied_loss, spied_batch
    handle = register_optimizer_step_post_hook(note)
    try:
        for train, jobs in ((ddpm._train, ddpm_jobs), (loop._train, realnet_jobs)):
            for name, arguments in jobs.items():
                rows.clear()
                train(*arguments)
                path = Path(notes, f"{name}-{runtime().rank}.json")
                path.write_text(json.dumps(rows))
    finally:
        handle.remove()
        denoiser.training_loss, loop._Data.batch = loss, batch
    batch_norm(notes)


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def batch_norm_case(size):
    """A layer with weights, a batch ``[size, 5, 3, 4]`` far from zero, and an output gradient."""
    draw = torch.Generator().manual_seed(size)
    value = 2 * torch.randn(size, 5, 3, 4, generator=draw) + 7
    slope = torch.randn(size, 5, 3, 4, generator=draw)
    layer = nn.BatchNorm2d(5, momentum=0.9)
    layer.weight.data.uniform_(generator=draw)
    layer.bias.data.uniform_(generator=draw)
    return nn.Sequential(layer, nn.ReLU()), value, slope


def batch_norm(notes):
    """Outputs, gradients and statistics of each rank's share of batches of 5, 1 and 6 images."""
    from realnet.compute.distributed import share
    from realnet.compute.shared_norm import share_statistics

    for size in (5, 1, 6):
        net, value, slope = batch_norm_case(size)
        layers = share_statistics(net, runtime())
        mine = share(torch.arange(size), runtime())
        for layer in layers:
            layer.counts = 1.0 if mine.weight else 0.0
        part = value[mine.items].clone().requires_grad_()
        found = net(part)
        (found * slope[mine.items]).sum().mul(1.0 if mine.weight else 0.0).backward()
        torch.save(
            {
                "items": mine.items,
                "weight": mine.weight,
                "exchanged": len(layers),
                "found": found.detach(),
                "slope": part.grad,
                "layer_slope": net[0].weight.grad,
                "state": net.state_dict(),
            },
            Path(notes, f"norm{size}-{runtime().rank}.pt"),
        )


# --- failures ------------------------------------------------------------------------------------


def fail(kind):
    """Rank 1 fails while rank 0 waits for it, or hangs."""
    if kind == "drift":
        weights = torch.full((3,), 0.5)
        check_alike(nn.ParameterList([weights]), runtime(), 6)
        weights[1] += 1e-7 * dist.get_rank()
        check_alike(nn.ParameterList([weights]), runtime(), 7)
    if dist.get_rank() == 1:
        if kind == "user":
            raise UserError("params.yaml: line of rank 1")
        if kind == "bug":
            raise ZeroDivisionError("a bug of rank 1")
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "sleep":
        time.sleep(600)
    dist.all_reduce(torch.zeros(1))


def killed_at_first_checkpoint(*arguments):
    """Train the diffusion model; rank 0 is killed after its first checkpoint."""
    from realnet.stages import ddpm
    from realnet.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def last_act(self, **state):
        save(self, **state)
        os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = last_act
    ddpm._train(*arguments)


def wait_forever(notes):
    Path(notes, f"pid{dist.get_rank()}").write_text(str(os.getpid()))
    time.sleep(600)


def save_slowly(notes):
    """A loop whose checkpoint, written only by the main process, takes two seconds."""
    here = runtime()
    for _, _ in progress(0, 10_000, "slow"):
        time.sleep(0.02)
        Path(notes, f"working{here.rank}").touch()
        if stops(here) and here.is_main:
            time.sleep(2)
            Path(notes, "saved").touch()
