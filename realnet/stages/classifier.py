"""Stage `classifier`: train the network that guides SDAS to a category.

As the official RealNet code has it: noised images of the whole data set, t uniform, cross-entropy
on the category. Optional: the diffusion model knows the category already.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from realnet.compute import determinism
from realnet.compute.distributed import stops
from realnet.compute.runtime import Runtime, start
from realnet.config.sections import Classifier
from realnet.core.errors import UserError
from realnet.core.io import save_figure, save_weights, write_csv, write_json
from realnet.core.progress import progress
from realnet.core.seeds import derive, torch_generator
from realnet.datasets.images import load_training_images
from realnet.diffusion.denoiser import copy_weights, parameter_count, read_weights
from realnet.diffusion.guidance import PER_CLASS, NoisyClassifier
from realnet.diffusion.scheduler import build_scheduler
from realnet.provenance.record import Record
from realnet.training.batches import shuffled_epochs
from realnet.training.checkpoint import (
    Checkpoints,
    check_finite,
    learning_rate,
    restore_modules,
    training_identity,
)

HISTORY = ["step", "loss", "accuracy", "lr", "grad_norm"]


def train_classifier(
    stage: Any,
    manifests: Sequence[Path],
    dataset: str,
    categories: Sequence[str],
    seed: int,
    out: Path,
) -> None:
    """Train on the normal training images of all categories of a data set.

    Writes weights, ``config.json``, the history and ``curves.png``. Checkpoints and resumes like
    the stage `ddpm`, whose noise schedule it shares.
    """
    params: Classifier = stage.classifier
    if len(manifests) != len(categories):
        raise UserError("--manifest and --category must be given equally often")
    if len(categories) < 2:
        raise UserError(
            f"a guided classifier of {', '.join(categories) or 'no category'} has nothing to tell"
            " apart; give two categories or more, or set sdas.guidance_scale to 0"
        )
    runtime = start(stage.compute)
    inputs = {f"manifest/{name}": path for name, path in zip(categories, manifests, strict=True)}
    if params.init is not None:
        inputs["init"] = Path(params.init) / "config.json"
    identity = {"dataset": dataset, "categories": list(categories), "seed": seed}
    record = Record("classifier", stage.model_dump(), inputs, **identity)
    names, size = ("classifier", dataset), stage.data.image_size
    images, labels = load_training_images(manifests, size)

    torch.manual_seed(derive(seed, *names, "init"))
    model = NoisyClassifier(params, size, len(categories))
    if params.init is not None:
        _start_from(params.init, model, params)
    model = runtime.place(model)
    checkpoints = Checkpoints(out, training_identity(record.content))
    alphas = build_scheduler(stage.ddpm).alphas_cumprod.to(runtime.device)
    history = _optimise(model, params, images, labels, alphas, runtime, checkpoints, seed, names)
    accuracy = _accuracy_by_noise(model, images, labels, alphas, runtime, seed, names)

    write_csv(out / "history.csv", history, HISTORY)
    digest = save_weights(out / "model.safetensors", model)
    write_json(
        out / "config.json",
        {
            "classifier": params.model_dump(),
            "schedule": stage.ddpm.schedule.model_dump(),
            "image_size": size,
            "dataset": dataset,
            "categories": list(categories),
            "classes": len(categories),
            "parameters": parameter_count(model),
            "sha256": digest,
        },
    )
    save_figure(out / "curves.png", _curves(history, accuracy, f"{dataset}, seed {seed}"))
    record.write(
        out, runtime.name, parameters=parameter_count(model), accuracy_by_timestep=accuracy
    )
    checkpoints.finish()


def _start_from(folder: str, model: NoisyClassifier, params: Classifier) -> None:
    config, state, _ = read_weights(folder, "classifier")
    theirs, ours = config["classifier"], params.model_dump()
    for key in ("unet", "patch"):
        if theirs.get(key) != ours[key]:
            raise UserError(
                f"classifier.init: {folder} has {key} {theirs.get(key)}, here it is {ours[key]}"
            )
    copy_weights(model, state, f"classifier.init: {folder}", PER_CLASS)
    there, here = len(state["pool.project.bias"]), len(model.pool.project.bias)
    told = "taken over" if there == here else f"drawn anew ({there} classes there, {here} here)"
    print(f"classifier.init: weights of {folder}, the last layer {told}")


def _noised(
    images: torch.Tensor, alpha: torch.Tensor, draw: torch.Generator, device: torch.device
) -> torch.Tensor:
    """q(x_t | x_0) of uint8 images; the noise is drawn on the CPU, the same for every device."""
    clean = images.to(device).float() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=draw).to(clean)
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def _optimise(
    model: NoisyClassifier,
    params: Classifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    alphas: torch.Tensor,
    runtime: Runtime,
    checkpoints: Checkpoints,
    seed: int,
    names: tuple[str, ...],
) -> list[dict[str, float]]:
    """The loop; returns the history. No average of weights: the official code keeps the last."""
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, lr=params.lr, weight_decay=0.0)
    factor = learning_rate(params.lr_schedule, params.warmup_steps, params.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    history: list[dict[str, float]] = []
    first = 0
    if (state := checkpoints.load()) is not None:
        restore_modules(state, model=model, optimiser=optimiser, schedule=schedule)
        history, first = state["history"], state["step"]
        print(f"resumed at step {first}")
    model.train()
    forward = runtime.compiled(model)
    micro = params.batch_size
    batch_of = shuffled_epochs(len(images), micro * params.accumulation, seed, *names)
    for step, bar in progress(first, params.steps, "/".join(names)):
        draw = torch_generator(seed, *names, "step", step)
        row = dict.fromkeys(HISTORY, 0.0) | {"step": step, "lr": schedule.get_last_lr()[0]}
        for chosen in batch_of(step).split(micro):
            timestep = torch.randint(len(alphas), (len(chosen),), generator=draw)
            timestep = timestep.to(runtime.device)
            noisy = _noised(images[chosen], alphas[timestep], draw, runtime.device)
            label = labels[chosen].to(runtime.device)
            with runtime.autocast():
                logits = forward(noisy, timestep)
            loss = F.cross_entropy(logits.float(), label) / params.accumulation
            determinism.backward(loss)
            right = (logits.argmax(1) == label).float().mean().item()
            row["loss"] += loss.item()
            row["accuracy"] += right / params.accumulation
        limit = params.grad_clip if params.grad_clip is not None else float("inf")
        row["grad_norm"] = torch.nn.utils.clip_grad_norm_(weights, limit).item()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        check_finite(row["loss"], step, "/".join(names))
        history.append(row)
        bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
        due = (step + 1) % params.checkpoint_every == 0 and step + 1 < params.steps
        if stops(runtime) or due:
            checkpoints.save(
                step=step + 1,
                history=history,
                model=model.state_dict(),
                optimiser=optimiser.state_dict(),
                schedule=schedule.state_dict(),
            )
    model.eval()
    return history


@torch.no_grad()
def _accuracy_by_noise(
    model: NoisyClassifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    alphas: torch.Tensor,
    runtime: Runtime,
    seed: int,
    names: tuple[str, ...],
    count: int = 256,
) -> dict[int, float]:
    """Share of training images named rightly, at ten timesteps: where the guidance knows."""
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).long()
    result = {}
    for timestep in torch.linspace(0, len(alphas) - 1, 10).long().tolist():
        draw = torch_generator(seed, *names, "accuracy", timestep)
        right = 0
        for part in chosen.split(32):
            alpha = alphas[timestep].expand(len(part))
            noisy = _noised(images[part], alpha, draw, runtime.device)
            when = torch.full((len(part),), timestep, device=runtime.device)
            with runtime.autocast():
                guess = model(noisy, when).argmax(1).cpu()
            right += int((guess == labels[part]).sum())
        result[timestep] = round(right / len(chosen), 4)
    return result


def _curves(history: list[dict[str, float]], accuracy: dict[int, float], title: str) -> object:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    losses = torch.tensor([row["loss"] for row in history])
    window = max(1, len(losses) // 30)
    left.plot(losses, color="0.8", lw=0.8)
    left.plot(
        torch.arange(window - 1, len(losses)), losses.unfold(0, window, 1).mean(1), color="tab:blue"
    )
    left.set(xlabel="step", ylabel="cross-entropy")
    right.plot(list(accuracy), list(accuracy.values()), "o-", color="tab:blue")
    right.set(xlabel="timestep (noise)", ylabel="training images named rightly", ylim=(0, 1.05))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(f"guided classifier: {title}", fontsize=10)
    return figure
