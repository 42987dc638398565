"""The guidance classifier: the category of a noised image, and the gradient that guides SDAS.

Dhariwal & Nichol (2021), sec. 4: the encoder half of the UNet with attention pooling.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from realnet.compute.runtime import Runtime
from realnet.config.sections import Classifier, Schedule
from realnet.core.errors import UserError
from realnet.diffusion.denoiser import build_unet, check_size, copy_weights, read_weights

PER_CLASS = ("pool.project.weight", "pool.project.bias")


class AttentionPool(nn.Module):
    """One vector from a map: its mean is an additional token, which attends to all positions.

    As in CLIP (Radford et al. 2021, sec. 2.4); ``[B, C, H, W]`` in, ``[B, outputs]`` out.
    """

    def __init__(self, channels: int, places: int, head_channels: int, outputs: int):
        super().__init__()
        self.heads = channels // head_channels
        self.positions = nn.Parameter(torch.randn(places + 1, channels) / math.sqrt(channels))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, outputs)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.positions
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, -1)
        )
        # Only the output of the first token is used, so only its query is computed.
        seen = F.scaled_dot_product_attention(query[:, :, :1], key, value)
        return self.project(seen.flatten(1))


class NoisyClassifier(nn.Module):
    """Logits of the category of x_t; 53.59 M parameters with the paper preset and 15 categories."""

    def __init__(self, params: Classifier, image_size: int, classes: int):
        super().__init__()
        check_size(params.unet, params.patch, image_size, "classifier")
        self.patch = params.patch
        side, channels = image_size // self.patch, 3 * self.patch**2
        whole = build_unet(
            params.unet, sample_size=side, in_channels=channels, out_channels=channels
        )
        self.conv_in = whole.conv_in
        self.time_proj, self.time_embedding = whole.time_proj, whole.time_embedding
        self.down_blocks, self.mid_block = whole.down_blocks, whole.mid_block
        width = params.unet.block_out_channels[-1]
        side //= 2 ** (len(params.unet.block_out_channels) - 1)
        groups = params.unet.norm_num_groups
        self.conv_norm_out = nn.GroupNorm(groups, width, whole.config.norm_eps)
        self.pool = AttentionPool(width, side**2, params.unet.attention_head_dim, classes)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """sample x_t ``[B, 3, S, S]``, timestep ``[B]``; returns logits ``[B, classes]``."""
        maps = F.pixel_unshuffle(sample, self.patch) if self.patch > 1 else sample
        embedding = self.time_embedding(self.time_proj(timestep))
        maps = self.conv_in(maps)
        for block in self.down_blocks:
            maps, _ = block(hidden_states=maps, temb=embedding)
        maps = self.mid_block(maps, embedding)
        return self.pool(F.silu(self.conv_norm_out(maps)))


def log_gradient(
    classifier: NoisyClassifier,
    labels: torch.Tensor,
    scale: float,
    runtime: Runtime,
    sample: torch.Tensor,
    timestep: torch.Tensor,
) -> torch.Tensor:
    """scale * gradient of log p(label | x_t) with respect to x_t, ``[B, 3, S, S]``, fp32.

    labels, timestep ``[B]``. The images do not influence each other. Works under `no_grad`.
    """
    with torch.enable_grad():
        noisy = sample.detach().requires_grad_(True)
        with runtime.autocast():
            logits = classifier(noisy, timestep)
        chosen = F.log_softmax(logits.float(), -1).gather(1, labels.to(sample.device)[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), noisy)
    return scale * gradient


def load_classifier_weights(folder: str, model: NoisyClassifier, params: Classifier) -> None:
    """Start ``model`` from the weights in ``folder``; of other classes without the last layer.

    UserError where they belong to another network.
    """
    config, state, _ = read_weights(folder, "classifier")
    theirs, ours = config["classifier"], params.model_dump()
    for key in ("unet", "patch"):
        if theirs.get(key) != ours[key]:
            raise UserError(
                f"classifier.init: {folder} has {key} {theirs.get(key)}, here it is {ours[key]}"
            )
    copy_weights(model, state, f"classifier.init: {folder}", PER_CLASS)
    there, here = len(state["pool.project.bias"]), len(model.pool.project.bias)
    fate = "taken over" if there == here else f"reinitialised ({there} classes there, {here} here)"
    print(f"classifier.init: weights of {folder}, the last layer {fate}")


def load_guide(
    folder: Path, runtime: Runtime, ddpm: dict[str, Any], schedule: Schedule
) -> NoisyClassifier:
    """The trained classifier in eval mode, for the diffusion model of config ``ddpm``.

    UserError where the two do not belong together: other categories (or another order of them),
    image size or noise schedule.
    """
    config, state, _ = read_weights(folder, "classifier")
    wanted = {
        "categories": ddpm["categories"],
        "image_size": ddpm["image_size"],
        "schedule": schedule.model_dump(),
    }
    for key, value in wanted.items():
        if config.get(key) != value:
            raise UserError(
                f"{folder}: its {key} is {config.get(key)}, the diffusion model's is {value};"
                " train the classifier on the same dataset and schedule"
            )
    params = Classifier.model_validate(config["classifier"])
    model = NoisyClassifier(params, config["image_size"], len(config["categories"]))
    copy_weights(model, state, str(folder), ())
    return runtime.place(model).eval().requires_grad_(False)
