"""Stage `ddpm`: train the diffusion model of normal images, per category or per data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers.training_utils import EMAModel

from realnet.data.images import load_images
from realnet.data.items import read_manifest
from realnet.diffusion.loss import prediction_target, prediction_weight, variational_bound
from realnet.diffusion.network import Denoiser, classes_of, parameter_count
from realnet.diffusion.sampling import sample_images
from realnet.diffusion.scheduler import build_scheduler
from realnet.errors import UserError
from realnet.io import read_json, save_weights, sha256, write_csv, write_json, write_png
from realnet.params import Ddpm
from realnet.provenance import Record
from realnet.runtime import Runtime, progress, start
from realnet.seeds import derive, torch_generator
from realnet.training.batches import shuffled_epochs
from realnet.training.checkpoint import Checkpoints, fingerprint, learning_rate, restore_modules

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
    official run has it); with ``category`` there is exactly one.
    """
    params: Ddpm = stage.ddpm
    if len(manifests) != len(categories):
        raise UserError("--manifest and --category must be given equally often")
    if params.scope == "category" and len(categories) != 1:
        raise UserError("ddpm.scope is category: give one --manifest and one --category")
    runtime = start(stage.compute)
    inputs = {f"manifest/{name}": path for name, path in zip(categories, manifests, strict=True)}
    record = Record(
        "ddpm", stage.dump(), inputs, dataset=dataset, categories=list(categories), seed=seed
    )
    names = ("ddpm", dataset, *(categories if params.scope == "category" else ["all"]))
    images, labels = _training_images(manifests, stage.data.image_size)
    classes = classes_of(params.scope, list(categories))

    torch.manual_seed(derive(seed, *names, "init"))
    model = runtime.place(Denoiser(params, stage.data.image_size, classes))
    checkpoints = Checkpoints(
        out, fingerprint(params=stage.dump(), inputs=record.content["inputs"], seed=seed)
    )
    history = _optimise(model, params, images, labels, classes, runtime, checkpoints, seed, names)

    write_csv(out / "history.csv", history, HISTORY)
    digest = save_weights(out / "model.safetensors", model)
    write_json(
        out / "config.json",
        {
            "ddpm": params.model_dump(),
            "image_size": stage.data.image_size,
            "dataset": dataset,
            "categories": list(categories),
            "parameters": parameter_count(model),
            "sha256": digest,
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
    record.write(out, runtime.name, parameters=parameter_count(model))
    checkpoints.finish()


def _training_images(manifests: Sequence[Path], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 ``[N, 3, S, S]`` and the class of each, int64 ``[N]``."""
    images, labels = [], []
    for index, manifest in enumerate(manifests):
        normal = [item for item in read_manifest(manifest) if item.split == "train"]
        images.append(load_images(normal, size))
        labels.append(torch.full((len(normal),), index))
    return torch.cat(images), torch.cat(labels)


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
) -> list[dict[str, float]]:
    """The loop; leaves the EMA weights in ``model`` and returns the loss history."""
    scheduler = build_scheduler(params)
    alphas = scheduler.alphas_cumprod.to(runtime.device)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=params.lr, weight_decay=0.0)
    factor = learning_rate(params.lr_schedule, params.warmup_steps, params.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    ema = EMAModel(
        weights, decay=params.ema.decay, use_ema_warmup=params.ema.warmup, power=params.ema.power
    )
    history: list[dict[str, float]] = []
    first = 0
    if (state := checkpoints.load()) is not None:
        restore_modules(state, model=model, optimiser=optimiser, schedule=schedule, ema=ema)
        ema.to(runtime.device)
        history, first = state["history"], state["step"]
        print(f"resumed at step {first}")
    model.train()
    forward = runtime.compiled(model)
    micro = params.batch_size
    batch_of = shuffled_epochs(len(images), micro * params.accumulation, seed, *names)
    images, labels = images.to(runtime.device), labels.to(runtime.device)
    for step, bar in progress(first, params.steps, f"ddpm {'/'.join(names[1:])}"):
        draw = torch_generator(seed, *names, "step", step)
        row = dict.fromkeys(HISTORY, 0.0) | {"step": step, "lr": schedule.get_last_lr()[0]}
        for chosen in batch_of(step).split(micro):
            clean = images[chosen.to(runtime.device)].float() / 127.5 - 1
            noise = torch.randn(clean.shape, generator=draw).to(clean)
            timestep = torch.randint(len(alphas), (len(clean),), generator=draw).to(runtime.device)
            alpha = alphas[timestep].view(-1, 1, 1, 1)
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            with runtime.autocast():
                label = labels[chosen.to(runtime.device)] if classes > 1 else None
                output = forward(noisy, timestep, label)
            prediction, *logits = output.float().split(3, dim=1)
            target = prediction_target(params.prediction_type, clean, noise, alpha)
            error = (prediction_weight(params, alpha) * (prediction - target) ** 2).mean()
            bound = torch.zeros_like(error)
            if logits:
                bound = variational_bound(
                    scheduler, clean, noisy, timestep, prediction, logits[0]
                ).mean()
            # Averaged over the micro-batches (the official code sums them; see docs).
            loss = (error + bound) / params.accumulation
            loss.backward()
            row["loss"] += loss.item()
            row["loss_prediction"] += error.item() / params.accumulation
            row["loss_vb"] += bound.item() / params.accumulation
        limit = params.grad_clip if params.grad_clip is not None else float("inf")
        row["grad_norm"] = torch.nn.utils.clip_grad_norm_(weights, limit).item()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        ema.step(weights)
        history.append(row)
        bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
        if (step + 1) % params.checkpoint_every == 0 and step + 1 < params.steps:
            checkpoints.save(
                step=step + 1,
                history=history,
                model=model.state_dict(),
                optimiser=optimiser.state_dict(),
                schedule=schedule.state_dict(),
                ema=ema.state_dict(),
            )
    ema.copy_to(weights)
    model.eval()
    return history


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
