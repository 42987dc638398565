"""Training of the diffusion model: gradients over micro-batches, and an average of the weights."""

from dataclasses import dataclass

import torch
from diffusers.training_utils import EMAModel

from realnet.compute import determinism
from realnet.compute.distributed import collecting, parallel, share, total
from realnet.compute.runtime import Runtime
from realnet.config.sections import Ddpm, Ema
from realnet.core.seeds import SeedPath
from realnet.diffusion.denoiser import Denoiser
from realnet.diffusion.loss import DiffusionBatch, training_loss
from realnet.diffusion.scheduler import build_scheduler
from realnet.training.batches import LabelledImages, shuffled_epochs
from realnet.training.checkpoint import Checkpoints, learning_rate
from realnet.training.fit import Fit, Row

HISTORY = ["step", "loss", "loss_prediction", "loss_vb", "lr", "grad_norm"]


@dataclass(frozen=True)
class TrainedDenoiser:
    """Results of :func:`train_denoiser` besides the weights, which it changes in place."""

    history: list[Row]
    average: EMAModel | None  # of the weights; only in the main process


def updates(params: Ddpm, images: int) -> int:
    """How often the weights change: `steps`, or as often as `epochs` passes over ``images`` need.

    The official runs counted epochs: micro-steps per epoch are ceil(ceil(N / GPUs) / 5) there.
    """
    if params.steps is not None:
        return params.steps
    assert params.epochs is not None  # the section has one of them
    return -(-params.epochs * images // (params.batch_size * params.accumulation))


def moving_average(weights: list[torch.nn.Parameter], params: Ema) -> EMAModel:
    """The average of the weights that :class:`realnet.config.sections.Ema` describes."""
    if params.warmup:
        return EMAModel(weights, decay=params.decay, use_ema_warmup=True, power=params.power)
    # By default diffusers starts with decay 0 and continues with (1 + n) / (10 + n); the official
    # decay is constant from the first step.
    return EMAModel(weights, decay=params.decay, min_decay=params.decay, update_after_step=-1)


def train_denoiser(
    model: Denoiser,
    data: LabelledImages,
    params: Ddpm,
    runtime: Runtime,
    checkpoints: Checkpoints,
    seeds: SeedPath,
) -> TrainedDenoiser:
    """Train ``model`` in place, resumed from ``checkpoints``; in eval mode afterwards."""
    scheduler = build_scheduler(params)
    timesteps = len(scheduler.alphas_cumprod)
    steps, update = updates(params, len(data.images)), params.batch_size * params.accumulation
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = runtime.adamw(weights, params.lr, weight_decay=0.0)
    factor = learning_rate(params.lr_schedule, params.warmup_steps, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    ema = moving_average(weights, params.ema) if runtime.is_main else None
    fit = Fit(
        *(str(seeds), steps, params.checkpoint_every, checkpoints, runtime),
        *(model, optimiser, schedule),
        {} if ema is None else {"ema": ema},
    )
    if ema is not None:
        ema.to(runtime.device)
    model.train()
    shared = parallel(model, runtime)
    forward = runtime.compiled(shared)
    batch_of = shuffled_epochs(len(data.images), update, seeds.seed, *seeds.names)
    mean = params.accumulation_rule == "mean"
    limit = params.grad_clip if params.grad_clip is not None else float("inf")
    for step in fit.steps():
        # Random numbers of the whole update, of which every micro-batch of every process takes its
        # own part: how the update is divided changes nothing.
        chosen = batch_of(step)
        generator = seeds.generator("step", step)
        noise = torch.randn((update, *data.images.shape[1:]), generator=generator)
        timestep = torch.randint(timesteps, (update,), generator=generator)
        losses = [0.0, 0.0, 0.0]
        for micro_step, positions in enumerate(torch.arange(update).split(params.batch_size)):
            last = not mean or micro_step + 1 == params.accumulation
            mine = share(positions, runtime).items
            parts = mine.split(params.micro_batch or len(mine))
            for number, part in enumerate(parts):
                weight = len(part) / params.batch_size
                item = chosen[part]
                batch = DiffusionBatch(
                    clean=data.images[item].to(runtime.device).float() / 127.5 - 1,
                    noise=noise[part].to(runtime.device),
                    timestep=timestep[part].to(runtime.device),
                    label=data.labels[item].to(runtime.device) if data.classes > 1 else None,
                )
                with collecting(shared, last and number + 1 == len(parts)):
                    found = training_loss(forward, params, scheduler, runtime, batch)
                    # DistributedDataParallel divides the sum by the number of processes.
                    scaled = found[0] * (weight * runtime.processes)
                    determinism.backward(scaled / params.accumulation if mean else scaled)
                values = torch.stack(found).tolist()
                for index, value in enumerate(values):
                    losses[index] += value * weight / params.accumulation
            if last:
                norm = torch.nn.utils.clip_grad_norm_(weights, limit)
        rate = fit.apply_gradients()
        if ema is not None:
            ema.step(weights)
        row = (step, *total(losses, runtime), rate, norm.item())
        fit.log(dict(zip(HISTORY, row, strict=True)))
    model.eval()
    return TrainedDenoiser(fit.history, ema)
