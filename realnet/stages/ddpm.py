"""Stage `ddpm`: train the diffusion model of normal images, per category or per data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers.training_utils import EMAModel

from realnet.compute import determinism
from realnet.compute.distributed import (
    check_alike,
    check_batch,
    collecting,
    launch,
    parallel,
    share,
    stops,
    total,
)
from realnet.compute.runtime import Runtime, start
from realnet.config.sections import Ddpm, Ema
from realnet.core.errors import UserError
from realnet.core.io import read_json, save_weights, sha256, write_csv, write_json, write_png
from realnet.core.progress import progress
from realnet.core.seeds import derive, torch_generator
from realnet.datasets.images import load_training_images
from realnet.diffusion.denoiser import (
    Denoiser,
    classes_of,
    load_denoiser_weights,
    parameter_count,
)
from realnet.diffusion.loss import training_loss
from realnet.diffusion.scheduler import build_scheduler
from realnet.provenance.record import Record
from realnet.stages.sdas import sample_images
from realnet.training.batches import shuffled_epochs
from realnet.training.checkpoint import (
    Checkpoints,
    check_finite,
    learning_rate,
    restore_modules,
    training_identity,
)

HISTORY = ["step", "loss", "loss_prediction", "loss_vb", "lr", "grad_norm"]


def train_ddpm(
    stage: Any,
    manifests: Sequence[Path],
    dataset: str,
    categories: Sequence[str],
    seed: int,
    out: Path,
) -> None:
    """Train on the normal training images; write the EMA weights, the loss history, a sample grid.

    With ``ddpm.scope: dataset`` the categories are the classes of one conditional model (as the
    official run has it); with ``category`` there is exactly one. `compute.processes` share the
    work. Also written: ``raw.safetensors``, the weights that the average was taken of.
    """
    if len(manifests) != len(categories):
        raise UserError("--manifest and --category must be given equally often")
    if stage.ddpm.scope == "category" and len(categories) != 1:
        raise UserError("ddpm.scope is category: give one --manifest and one --category")
    check_batch("ddpm.batch_size", stage.ddpm.batch_size, stage.compute)
    init = stage.ddpm.init
    if init is not None and not (Path(init) / "config.json").is_file():
        raise UserError(
            f"ddpm.init: {init}/config.json: no such file; make it with"
            f" `realnet import-ddpm FILE {init}`, or train from scratch with init: null"
        )
    launch(_train, stage.compute, stage, list(manifests), dataset, list(categories), seed, out)


def _train(
    stage: Any, manifests: list[Path], dataset: str, categories: list[str], seed: int, out: Path
) -> None:
    """What each process does."""
    params: Ddpm = stage.ddpm
    runtime = start(stage.compute)
    inputs = {f"manifest/{name}": path for name, path in zip(categories, manifests, strict=True)}
    if params.init is not None:
        inputs["init"] = Path(params.init) / "config.json"
    record = Record(
        "ddpm", stage.model_dump(), inputs, dataset=dataset, categories=categories, seed=seed
    )
    names = ("ddpm", dataset, *(categories if params.scope == "category" else ["all"]))
    images, labels = load_training_images(manifests, stage.data.image_size)
    classes = classes_of(params.scope, categories)

    torch.manual_seed(derive(seed, *names, "init"))
    model = runtime.place(Denoiser(params, stage.data.image_size, classes))
    init = None
    if params.init is not None:
        digest = load_denoiser_weights(params.init, model, params)
        init = {"folder": params.init, "sha256": digest}
    if params.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    identity = training_identity(record.content)
    checkpoints = Checkpoints(out, identity, runtime.processes, runtime.rank)
    history, average = _optimise(
        model, params, images, labels, classes, runtime, checkpoints, seed, names
    )
    if not runtime.first:
        return

    write_csv(out / "history.csv", history, HISTORY)
    raw = save_weights(out / "raw.safetensors", model)
    average.copy_to(model.parameters())
    digest = save_weights(out / "model.safetensors", model)
    write_json(
        out / "config.json",
        {
            "ddpm": params.model_dump(),
            "image_size": stage.data.image_size,
            "dataset": dataset,
            "categories": categories,
            "classes": classes,
            "parameters": parameter_count(model),
            "sha256": digest,
            "raw_sha256": raw,
        },
    )
    grid = sample_images(
        model,
        build_scheduler(params),
        runtime,
        steps=min(50, params.schedule.num_train_timesteps),
        strengths=torch.zeros(params.sample_grid),
        seeds=[derive(seed, *names, "grid", i) for i in range(params.sample_grid)],
        labels=torch.arange(params.sample_grid) % classes if classes > 1 else None,
        size=stage.data.image_size,
    )
    write_png(out / "samples.png", tile(grid, columns=8))
    record.write(
        out,
        runtime.name,
        parameters=parameter_count(model),
        processes=runtime.processes,
        init=init,
    )
    checkpoints.finish()


def updates(params: Ddpm, images: int) -> int:
    """How often the weights change: `steps`, or as often as `epochs` passes over ``images`` need.

    The official runs counted epochs: micro-steps per epoch are ceil(ceil(N / GPUs) / 5) there.
    """
    if params.steps is not None:
        return params.steps
    return -(-params.epochs * images // (params.batch_size * params.accumulation))


def moving_average(weights: list[torch.nn.Parameter], params: Ema) -> EMAModel:
    """The average of the weights that :class:`realnet.config.params.Ema` describes."""
    if params.warmup:
        return EMAModel(weights, decay=params.decay, use_ema_warmup=True, power=params.power)
    # By itself diffusers begins with decay 0 and goes on with (1 + n) / (10 + n); the official
    # decay is constant from the first step on.
    return EMAModel(weights, decay=params.decay, min_decay=params.decay, update_after_step=-1)


def _optimise(
    model: Denoiser,
    params: Ddpm,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    runtime: Runtime,
    checkpoints: Checkpoints,
    seed: int,
    names: tuple[str, ...],
) -> tuple[list[dict[str, float]], EMAModel | None]:
    """The loop; returns the loss history and, in the first process, the average of the weights."""
    scheduler = build_scheduler(params)
    timesteps = len(scheduler.alphas_cumprod)
    steps, update = updates(params, len(images)), params.batch_size * params.accumulation
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = runtime.adamw(weights, params.lr, weight_decay=0.0)
    factor = learning_rate(params.lr_schedule, params.warmup_steps, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    ema = moving_average(weights, params.ema) if runtime.first else None
    history: list[dict[str, float]] = []
    first = 0
    if (state := checkpoints.load()) is not None:
        restore_modules(state, model=model, optimiser=optimiser, schedule=schedule)
        if ema is not None:
            restore_modules(state, ema=ema)
            ema.to(runtime.device)
        history, first = state["history"], state["step"]
        print(f"resumed at step {first}")
    del state
    check_alike(model, runtime, first)
    model.train()
    shared = parallel(model, runtime)
    forward = runtime.compiled(shared)
    batch_of = shuffled_epochs(len(images), update, seed, *names)
    mean = params.accumulation_rule == "mean"
    limit = params.grad_clip if params.grad_clip is not None else float("inf")
    for step, bar in progress(first, steps, f"ddpm {'/'.join(names[1:])}"):
        chosen = batch_of(step)
        # One draw for the whole update, of which every micro-batch of every process takes its own
        # part: how the update is divided changes nothing.
        draw = torch_generator(seed, *names, "step", step)
        noise = torch.randn((update, *images.shape[1:]), generator=draw)
        timestep = torch.randint(timesteps, (update,), generator=draw)
        losses = [0.0, 0.0, 0.0]
        for micro_step, positions in enumerate(torch.arange(update).split(params.batch_size)):
            last = not mean or micro_step + 1 == params.accumulation
            mine = share(positions, runtime).items
            parts = mine.split(params.micro_batch or len(mine))
            for number, part in enumerate(parts):
                weight = len(part) / params.batch_size
                item = chosen[part]
                with collecting(shared, last and number + 1 == len(parts)):
                    found = training_loss(
                        forward,
                        params,
                        scheduler,
                        runtime,
                        clean=images[item].to(runtime.device).float() / 127.5 - 1,
                        noise=noise[part].to(runtime.device),
                        timestep=timestep[part].to(runtime.device),
                        label=labels[item].to(runtime.device) if classes > 1 else None,
                    )
                    # DistributedDataParallel divides the sum by the number of processes.
                    scaled = found[0] * (weight * runtime.processes)
                    determinism.backward(scaled / params.accumulation if mean else scaled)
                values = torch.stack(found).tolist()
                for index, value in enumerate(values):
                    losses[index] += value * weight / params.accumulation
            if last:
                norm = torch.nn.utils.clip_grad_norm_(weights, limit)
        rate = schedule.get_last_lr()[0]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if ema is not None:
            ema.step(weights)
        row = (step, *total(losses, runtime), rate, norm.item())
        check_finite(row[1], step, "/".join(names))
        history.append(dict(zip(HISTORY, row, strict=True)))
        bar.set_postfix(loss=f"{row[1]:.4f}", refresh=False)
        due = (step + 1) % params.checkpoint_every == 0 and step + 1 < steps
        if stops(runtime) or due:
            check_alike(model, runtime, step)
            if ema is not None:
                checkpoints.save(
                    step=step + 1,
                    history=history,
                    model=model.state_dict(),
                    optimiser=optimiser.state_dict(),
                    schedule=schedule.state_dict(),
                    ema=ema.state_dict(),
                )
    model.eval()
    return history, ema


def load_ddpm(folder: str | Path, runtime: Runtime) -> tuple[Denoiser, Ddpm, dict[str, Any]]:
    """The trained network in eval mode, its `ddpm` section and config; the digest is verified."""
    folder = Path(folder)
    config = read_json(folder / "config.json")
    params = Ddpm.model_validate(config["ddpm"])
    path = folder / "model.safetensors"
    if not path.is_file() or sha256(path) != config["sha256"]:
        raise UserError(f"{path}: missing, or not the file of config.json; train it again")
    model = Denoiser(params, config["image_size"], classes_of(params.scope, config["categories"]))
    model.load_state_dict(safetensors.torch.load_file(path))
    return runtime.place(model).eval(), params, config


def tile(images: torch.Tensor, columns: int, gap: int = 2) -> Any:
    """uint8 ``[N, 3, S, S]`` as one picture, a NumPy array ``[H, W, 3]`` with white gaps."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    canvas = torch.full(
        (3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8
    )
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).contiguous().numpy()
