"""A procedural classification task that gives the demo's backbone useful features offline.

The classes are the families of :mod:`realnet.synthesis.textures`. It replaces ImageNet
weights, which are not available offline; random features are much weaker.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from realnet.compute import determinism
from realnet.compute.runtime import Runtime
from realnet.config.sections import Backbone
from realnet.core.io import write_csv
from realnet.core.seeds import numpy_generator, torch_generator
from realnet.models.features import build_network, extractor_of
from realnet.synthesis.textures import CLASSES, paint_image
from realnet.training.checkpoint import Checkpoints, fingerprint
from realnet.training.fit import Fit, RandomState


def paint_task(seed: int, per_class: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All images ``[N, 3, S, S]`` uint8 and class indices ``[N]`` int64, class by class."""
    images = np.empty((len(CLASSES), per_class, size, size, 3), np.uint8)
    for index, painter in enumerate(CLASSES):
        for item in range(per_class):
            rng = numpy_generator(seed, "pretext", index, item)
            images[index, item] = paint_image(rng, painter, size)
    stacked = torch.from_numpy(images.reshape(-1, size, size, 3)).permute(0, 3, 1, 2).contiguous()
    return stacked, torch.arange(len(CLASSES)).repeat_interleave(per_class)


def train_pretext(
    params: Backbone, runtime: Runtime, out: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Train the feature network with a linear head on pooled features; return it without the head.

    The head reads every layer's mean (not only the last one's), since RealNet reads every layer.
    Also returns the held-out accuracy and the number of classes, for the record.
    """
    options = params.pretext
    images, labels = paint_task(options.seed, options.images_per_class, options.image_size)
    held_out = torch.arange(len(labels)) % options.images_per_class >= max(
        1, int(0.9 * options.images_per_class)
    )
    train = torch.nonzero(~held_out).flatten()
    torch.manual_seed(torch_generator(options.seed, "pretext", "init").initial_seed())
    network = runtime.place(build_network(params))
    channels = extractor_of(network, params)
    widths = [c for c, _ in channels.shapes(options.image_size)]
    network.requires_grad_(True).train()
    head = runtime.place(nn.Linear(sum(widths), len(CLASSES)))
    mean, std = channels.mean.to(runtime.device), channels.std.to(runtime.device)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        pixels = batch.to(runtime.device).float() / 255
        maps = network((pixels - mean) / std)
        return head(torch.cat([m.mean((2, 3)) for m in maps], dim=1))

    weights = [*network.parameters(), *head.parameters()]
    optimiser = runtime.adamw(weights, options.lr, options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=options.lr, total_steps=options.steps + 1, pct_start=0.1
    )
    generator = torch_generator(options.seed, "pretext", "batches")
    identity = fingerprint(backbone=params.model_dump(), device=runtime.name)
    checkpoints = Checkpoints(out, identity)
    fit = Fit(
        *("pretext", options.steps, None, checkpoints, runtime),
        *(network, optimiser, schedule),
        {"head": head, "batches": RandomState(generator)},
    )
    for step in fit.steps():
        chosen = train[torch.randint(len(train), (options.batch_size,), generator=generator)]
        batch = images[chosen]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(3)
        with runtime.autocast():
            loss = F.cross_entropy(logits(batch), labels[chosen].to(runtime.device))
        determinism.backward(loss)
        fit.apply_gradients()
        fit.log({"step": step, "loss": loss.item()})
    network.eval()
    test = torch.nonzero(held_out).flatten()
    with torch.no_grad():
        predicted = torch.cat([logits(images[part]).argmax(1).cpu() for part in test.split(256)])
    accuracy = (predicted == labels[test]).float().mean().item()
    write_csv(out / "history.csv", fit.history, ["step", "loss"])
    checkpoints.finish()
    print(f"pretext: {len(CLASSES)} classes, held-out accuracy {accuracy:.3f}")
    return network, {"pretext_classes": len(CLASSES), "pretext_accuracy": round(accuracy, 4)}
