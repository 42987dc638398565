"""The reconstruction network G_k: a UNet without time embedding (paper sec. 3.2, official sizes).

For m input channels: base width m/2, multipliers 1-2-4, two residual blocks per level, attention
at rates 2 and 4. The last convolution starts at zero, so training starts from a zero output.
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from realnet.config.sections import Reconstruction

Layer = TypeVar("Layer", bound=nn.Module)


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    # The official 32 groups where they divide the channels; small demo widths need fewer.
    return nn.GroupNorm(math.gcd(groups, channels), channels)


def _zero(module: Layer) -> Layer:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """norm, SiLU, (resample), one 3x3 convolution, plus skip. resample: None, "down" or "up"."""

    resample: nn.Module
    resample_skip: nn.Module

    def __init__(self, inputs: int, outputs: int, groups: int, resample: str | None = None):
        super().__init__()
        self.norm = _norm(inputs, groups)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        if resample == "down":
            self.resample, self.resample_skip = nn.AvgPool2d(2), nn.AvgPool2d(2)
        elif resample == "up":  # each branch has its own weights, as in the official code
            self.resample = nn.ConvTranspose2d(inputs, inputs, 4, stride=2, padding=1)
            self.resample_skip = nn.ConvTranspose2d(inputs, inputs, 4, stride=2, padding=1)
        else:
            self.resample, self.resample_skip = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.conv(self.resample(F.silu(self.norm(x))))
        return self.skip(self.resample_skip(x)) + inner


class Attention(nn.Module):
    """Self-attention over positions, zero-initialised output, q-k-v interleaved per head."""

    def __init__(self, channels: int, head_channels: int, groups: int):
        super().__init__()
        self.heads = max(1, channels // head_channels)
        while channels % self.heads:  # demo widths need not be multiples of head_channels
            self.heads -= 1
        self.norm = _norm(channels, groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        # Channels last [B, HW, channels]: torch's fused attention needs each head's in one piece.
        rows = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        packed = F.linear(rows, self.qkv.weight.squeeze(-1), self.qkv.bias)
        # "Legacy" order of guided diffusion: channels = heads x (q, k, v) x width of a head.
        packed = packed.view(batch, height * width, self.heads, 3, -1)
        q, k, v = packed.permute(3, 0, 2, 1, 4)  # each [B, heads, HW, channels / heads]
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(1, 2).reshape(batch, height, width, channels)
        return x + F.linear(mixed, self.out.weight.squeeze(-1), self.out.bias).permute(0, 3, 1, 2)


class ReconstructionUNet(nn.Module):
    """``[B, m, H, W]`` -> ``[B, m, H, W]``; H and W are padded inside to a multiple of 2^levels."""

    def __init__(self, channels: int, params: Reconstruction):
        super().__init__()
        groups, head = params.norm_groups, params.head_channels
        base = max(1, round(channels * params.width_ratio))
        levels = len(params.multipliers)
        self.multiple = 2 ** (levels - 1)
        width = base * params.multipliers[0]

        def stage(inputs: int, outputs: int, rate: int) -> nn.Sequential:
            parts: list[nn.Module] = [ResBlock(inputs, outputs, groups)]
            if rate in params.attention_rates:
                parts.append(Attention(outputs, head, groups))
            return nn.Sequential(*parts)

        self.down = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])
        skips, rate = [width], 1
        for level, multiplier in enumerate(params.multipliers):
            for _ in range(params.res_blocks):
                self.down.append(stage(width, base * multiplier, rate))
                width = base * multiplier
                skips.append(width)
            if level < levels - 1:
                self.down.append(ResBlock(width, width, groups, "down"))
                skips.append(width)
                rate *= 2
        self.middle = nn.Sequential(
            ResBlock(width, width, groups),
            Attention(width, head, groups),
            ResBlock(width, width, groups),
        )
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(params.multipliers))):
            for block in range(params.res_blocks + 1):
                step = stage(width + skips.pop(), base * multiplier, rate)
                width = base * multiplier
                if level > 0 and block == params.res_blocks:
                    step.append(ResBlock(width, width, groups, "up"))
                    rate //= 2
                self.up.append(step)
        self.out = nn.Sequential(
            _norm(width, groups), nn.SiLU(), _zero(nn.Conv2d(width, channels, 3, padding=1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        pad = (-width % self.multiple, -height % self.multiple)
        h = F.pad(x, (0, pad[0], 0, pad[1]), mode="replicate") if any(pad) else x
        skips = []
        for block in self.down:
            h = block(h)
            skips.append(h)
        h = self.middle(h)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1))
        return self.out(h)[..., :height, :width]
