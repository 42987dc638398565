"""RRS, Reconstruction Residuals Selection, and the discriminator behind it (paper sec. 3.3)."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from realnet.config.sections import Rrs
from realnet.models.afs import resize_to


def at_finest_size(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """All channels of maps ``[B, m_k, H_k, W_k]`` at the size of the finest, ``[B, M, H, W]``."""
    finest = max(m.shape[-1] for m in maps)
    return torch.cat([resize_to(m, finest) for m in maps], dim=1)


class ResidualSelection(nn.Module):
    """Keep the r most informative residual maps of each image.

    Input: residuals E >= 0 of each block at its own size, ``[B, m_k, H_k, W_k]``. Output: those
    selected, at the size of the finest, ``[B, r, H, W]`` (or all M for mode "all").
    Mode "max_mean": the r/2 channels with the largest global maximum, then the r/2 with the largest
    global mean, each list in descending order; a channel may be in both. So a slot is a rank,
    not a channel.

    Ranking uses BatchNorm-standardised residuals (momentum 0.9, no affine), as in the official
    code (the paper does not say); gradients flow through the un-normalised ones.

    With ``scaled`` (our option) the discriminator gets residuals divided by that norm's running
    standard deviation of their channel, which is a constant for the gradient. A slot is a rank, so
    without it a slot has another unit in each image: that of the channel that happens to be there.
    """

    def __init__(self, channels: int, params: Rrs):
        super().__init__()
        self.mode, self.kept, self.scaled = params.mode, params.channels, params.scaled
        self.norm = (
            nn.BatchNorm2d(channels, momentum=0.9, affine=False) if params.ranking_norm else None
        )

    def forward(self, residuals: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.mode == "all":
            selected = at_finest_size(residuals)
            if not self.scaled:
                return selected
            if self.training:
                self.standardised(selected)  # updates the statistics
            return selected * self.inverse_deviations().view(-1, 1, 1)
        # Its gather needs the numbers of channels per block, for which a GPU would have to wait.
        few = torch.is_grad_enabled() and residuals[0].device.type == "cpu"
        with torch.no_grad() if few else nullcontext():
            resized = at_finest_size(residuals)
        ranked = self.ranking(resized)
        if few:
            selected = _resized_channels(residuals, ranked)
        else:
            index = ranked.view(*ranked.shape, 1, 1).expand(-1, -1, *resized.shape[2:])
            selected = resized.gather(1, index)
        if self.scaled:
            selected = selected * self.inverse_deviations()[ranked][..., None, None]
        return selected

    @torch.no_grad()
    def standardised(self, residuals: torch.Tensor) -> torch.Tensor:
        """``[B, M, H, W]`` after the BatchNorm, whose statistics are updated in training mode."""
        return residuals if self.norm is None else self.norm(residuals)

    def inverse_deviations(self) -> torch.Tensor:
        """``[M]``: 1 / running standard deviation of each channel."""
        assert self.norm is not None and self.norm.running_var is not None  # the section says so
        return (self.norm.running_var + self.norm.eps).rsqrt()

    @torch.no_grad()
    def ranking(self, residuals: torch.Tensor) -> torch.Tensor:
        """Channel indices int64 ``[B, r]``."""
        standard = self.standardised(residuals)
        peak, mean = standard.amax((2, 3)), standard.mean((2, 3))
        if self.mode == "max":
            return peak.topk(self.kept, dim=1).indices
        if self.mode == "mean":
            return mean.topk(self.kept, dim=1).indices
        half = self.kept // 2
        first, second = peak.topk(self.kept - half, dim=1), mean.topk(half, dim=1)
        return torch.cat([first.indices, second.indices], dim=1)


def _resized_channels(maps: Sequence[torch.Tensor], channels: torch.Tensor) -> torch.Tensor:
    """``at_finest_size(maps)`` at ``channels`` ``[B, r]`` of each image, ``[B, r, H, W]``.

    Only these channels are resized, so that the backward pass has r channels to resize, not M.
    """
    parts, places, first, size = [], [], 0, max(m.shape[-1] for m in maps)
    for level in maps:
        mine = (channels >= first) & (channels < first + level.shape[1])
        image, slot = mine.nonzero(as_tuple=True)
        if len(image):
            chosen = level[image, channels[image, slot] - first]
            parts.append(resize_to(chosen[None], size)[0])
            places.append(image * channels.shape[1] + slot)
        first += level.shape[1]
    order = torch.cat(places).argsort()
    return torch.cat(parts)[order].unflatten(0, channels.shape)


class ResidualUnit(nn.Module):
    """x + conv1x1(ReLU(conv3x3(ReLU(x)))), without biases."""

    def __init__(self, channels: int, padding: Literal["zeros", "replicate"]):
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding, bias=False)
        self.narrow = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(F.relu(self.wide(F.relu(x))))


class Discriminator(nn.Module):
    """Selected residuals ``[B, r, H, W]`` -> logits ``[B, 2, size, size]`` (normal, anomalous).

    ``params.padding``: with ``zeros``, as in the official code, the border sees residuals of zero
    beyond it. After a short training its logits differ from those inside, so that nearly every
    normal image has its largest score there; with ``replicate`` (our option) it sees its own.
    """

    def __init__(self, channels: int, params: Rrs):
        super().__init__()
        a, b, c, d = params.hidden

        def conv(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=params.padding)

        units = [ResidualUnit(channels, params.padding) for _ in range(2)]
        self.units = nn.Sequential(*units, nn.ReLU())
        self.reduce = nn.Sequential(
            conv(channels, a), nn.BatchNorm2d(a), nn.ReLU(),
            conv(a, b), nn.ReLU(),
            conv(b, c), nn.ReLU(),
        )  # fmt: skip
        self.refine = nn.Sequential(conv(c, d), nn.ReLU(), conv(d, 2))

    def forward(self, selected: torch.Tensor, size: int) -> torch.Tensor:
        h = self.reduce(self.units(selected))
        h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
        return F.interpolate(self.refine(h), (size, size), mode="bilinear", align_corners=True)
