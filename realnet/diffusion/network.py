"""The denoising network: `diffusers.UNet2DModel`, optionally on pixel-unshuffled images."""

import math

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import nn

from realnet.diffusion.scheduler import build_scheduler
from realnet.errors import UserError
from realnet.params import Ddpm


class Denoiser(nn.Module):
    """UNet over patches: ``[B, 3, S, S]`` in, prediction (and variance logits) of that size out.

    With ``patch`` 1 it is the official network (ADM, 552.8 M parameters with the paper preset);
    larger patches trade detail for speed, so that the demo trains on a CPU.
    """

    def __init__(self, params: Ddpm, image_size: int, classes: int):
        super().__init__()
        unet, self.patch = params.unet, params.patch
        halvings = 2 ** (len(unet.block_out_channels) - 1)
        if image_size % (self.patch * halvings):
            raise UserError(
                f"data.image_size {image_size} must be a multiple of ddpm.patch x"
                f" 2^(levels - 1) = {self.patch * halvings}"
            )
        channels = 3 * self.patch**2
        self.outputs = 2 if params.variance == "learned_range" else 1
        self.texture_std = params.texture_std
        products = build_scheduler(params).alphas_cumprod
        self.register_buffer("alphas_cumprod", products, persistent=False)
        plain_down, plain_up = {
            "resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
            "conv": ("DownBlock2D", "UpBlock2D"),
        }[unet.resample]
        down = [("AttnDownBlock2D" if a else plain_down) for a in unet.attention]
        up = [("AttnUpBlock2D" if a else plain_up) for a in reversed(unet.attention)]
        self.unet = UNet2DModel(
            sample_size=image_size // self.patch,
            in_channels=channels,
            out_channels=channels * self.outputs,
            layers_per_block=unet.layers_per_block,
            block_out_channels=tuple(unet.block_out_channels),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            attention_head_dim=unet.attention_head_dim,
            resnet_time_scale_shift=unet.time_scale_shift,
            downsample_type=unet.resample,
            upsample_type=unet.resample,
            norm_num_groups=unet.norm_num_groups,
            attn_norm_num_groups=unet.norm_num_groups,
            num_class_embeds=classes if classes > 1 else None,
        )

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """sample ``[B, 3, S, S]`` in about [-1, 1], timestep ``[B]`` or a number, label ``[B]``.

        Returns ``[B, 3, S, S]``, or ``[B, 6, S, S]`` with the variance logits behind.
        """
        patches = F.pixel_unshuffle(sample, self.patch) if self.patch > 1 else sample
        output = self.unet(patches, timestep, class_labels=label).sample.float()
        # Each of the output's groups (prediction, variance) is shuffled back on its own.
        groups = [
            F.pixel_shuffle(group, self.patch) if self.patch > 1 else group
            for group in output.chunk(self.outputs, 1)
        ]
        if self.texture_std is not None:
            groups[0] = self._keep_texture(groups[0], sample, timestep)
        return torch.cat(groups, 1)

    def _keep_texture(
        self, structure: torch.Tensor, sample: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """x_0 as the posterior mean of N(structure, texture_std^2) observed through x_t.

        A small network that predicts x_0 gives its structure but not its grain, and samples that
        are smoother than real images teach the detector that smooth means anomalous. Here grain
        of the given spread is taken over from x_t as far as the noise in x_t allows (our decision).
        """
        alpha = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noise = (1 - alpha) / alpha  # variance of x_t / sqrt(alpha) around x_0
        trust = self.texture_std**2 / (self.texture_std**2 + noise)
        return structure + trust * (sample / alpha.sqrt() - structure)


def classes_of(scope: str, categories: list[str]) -> int:
    """Size of the class embedding: one model per category needs none."""
    return len(categories) if scope == "dataset" else 1


def parameter_count(module: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in module.parameters())
