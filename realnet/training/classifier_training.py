"""Training of the guidance classifier: cross-entropy on images noised to random timesteps."""

import torch
import torch.nn.functional as F

from realnet.compute import determinism
from realnet.compute.runtime import Runtime
from realnet.config.sections import Classifier
from realnet.core.seeds import SeedPath
from realnet.diffusion.guidance import NoisyClassifier
from realnet.training.batches import LabelledImages, shuffled_epochs
from realnet.training.checkpoint import Checkpoints, learning_rate
from realnet.training.fit import Fit, Row

HISTORY = ["step", "loss", "accuracy", "lr", "grad_norm"]


def train_noisy_classifier(
    model: NoisyClassifier,
    data: LabelledImages,
    params: Classifier,
    alphas: torch.Tensor,
    runtime: Runtime,
    checkpoints: Checkpoints,
    seeds: SeedPath,
) -> list[Row]:
    """Train ``model`` in place, in eval mode afterwards; returns the history.

    ``alphas``: cumulative products of the noise schedule. There is no average of the weights: the
    official code keeps the last ones.
    """
    weights = list(model.parameters())
    optimiser = runtime.adamw(weights, params.lr, weight_decay=0.0)
    factor = learning_rate(params.lr_schedule, params.warmup_steps, params.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    fit = Fit(
        *(str(seeds), params.steps, params.checkpoint_every, checkpoints, runtime),
        *(model, optimiser, schedule),
    )
    model.train()
    forward = runtime.compiled(model)
    update = params.batch_size * params.accumulation
    batch_of = shuffled_epochs(len(data.images), update, seeds.seed, *seeds.names)
    limit = params.grad_clip if params.grad_clip is not None else float("inf")
    for step in fit.steps():
        generator = seeds.generator("step", step)
        row: Row = dict.fromkeys(HISTORY, 0.0) | {"step": step}
        for chosen in batch_of(step).split(params.batch_size):
            timestep = torch.randint(len(alphas), (len(chosen),), generator=generator)
            timestep = timestep.to(runtime.device)
            noisy = noised(data.images[chosen], alphas[timestep], generator, runtime)
            label = data.labels[chosen].to(runtime.device)
            with runtime.autocast():
                logits = forward(noisy, timestep)
            loss = F.cross_entropy(logits.float(), label) / params.accumulation
            determinism.backward(loss)
            right = (logits.argmax(1) == label).float().mean().item()
            row["loss"] += loss.item()
            row["accuracy"] += right / params.accumulation
        row["grad_norm"] = torch.nn.utils.clip_grad_norm_(weights, limit).item()
        row["lr"] = fit.apply_gradients()
        fit.log(row)
    model.eval()
    return fit.history


def noised(
    images: torch.Tensor, alpha: torch.Tensor, generator: torch.Generator, runtime: Runtime
) -> torch.Tensor:
    """Sample q(x_t | x_0) of uint8 images; noise is sampled on the CPU, equal for all devices."""
    clean = images.to(runtime.device).float() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


@torch.no_grad()
def accuracy_by_timestep(
    model: NoisyClassifier,
    data: LabelledImages,
    alphas: torch.Tensor,
    runtime: Runtime,
    seeds: SeedPath,
    count: int = 256,
) -> dict[int, float]:
    """Training accuracy at ten timesteps, on ``count`` images: where the guidance is informed."""
    images = data.images
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).long()
    result = {}
    for timestep in torch.linspace(0, len(alphas) - 1, 10).long().tolist():
        generator = seeds.generator("accuracy", timestep)
        right = 0
        for part in chosen.split(32):
            alpha = alphas[timestep].expand(len(part))
            noisy = noised(images[part], alpha, generator, runtime)
            when = torch.full((len(part),), timestep, device=runtime.device)
            with runtime.autocast():
                guess = model(noisy, when).argmax(1).cpu()
            right += int((guess == data.labels[part]).sum())
        result[timestep] = round(right / len(chosen), 4)
    return result
