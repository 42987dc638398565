"""RealNet: selected features -> reconstruction per block -> RRS -> discriminator."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from realnet.config.sections import Block, Model
from realnet.models.afs import Selection, resize_to
from realnet.models.reconstruction import ReconstructionUNet
from realnet.models.rrs import Discriminator, ResidualSelection, at_finest_size


class FeatureSelector(nn.Module):
    """Select the cached channels of each layer and resize them to their block's stride.

    With projections (selection `pca`) the channels are mixed to components instead.

    Input: the backbone's maps. Output: one map ``[B, m_block, H_block, W_block]`` per block.
    """

    def __init__(
        self, blocks: Sequence[Block], selection: Selection, image_size: int, scaled: bool
    ):
        super().__init__()
        self.layers = [list(block.layers) for block in blocks]
        self.sizes = [-(-image_size // block.stride) for block in blocks]
        for layer, chosen in enumerate(selection.indices):
            self.register_buffer(f"index{layer}", torch.tensor(chosen), persistent=False)
            scale = selection.scales[layer] if scaled else [1.0] * len(chosen)
            inverse = 1 / torch.tensor(scale).view(1, -1, 1, 1)
            self.register_buffer(f"inverse{layer}", inverse, persistent=False)
            if selection.projections is not None:
                mix = selection.projections[layer]
                self.register_buffer(f"components{layer}", mix.components, persistent=False)
                self.register_buffer(f"mean{layer}", mix.mean.view(1, -1, 1, 1), persistent=False)
        self.projects = selection.projections is not None
        self.channels = [sum(len(selection.indices[k]) for k in layers) for layers in self.layers]

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        blocks = []
        for layers, size in zip(self.layers, self.sizes, strict=True):
            parts = []
            for layer in layers:
                chosen = self.project(maps[layer], layer) if self.projects else maps[layer]
                chosen = chosen.index_select(1, getattr(self, f"index{layer}"))
                chosen = chosen * getattr(self, f"inverse{layer}")
                parts.append(resize_to(chosen, size))
            blocks.append(torch.cat(parts, dim=1))
        return blocks

    def project(self, maps: torch.Tensor, layer: int) -> torch.Tensor:
        """Components ``[B, m, H, W]`` of maps ``[B, c, H, W]``; float32 at any precision."""
        with torch.autocast(maps.device.type, enabled=False):
            centred = maps.float() - getattr(self, f"mean{layer}")
            return torch.einsum("mc,bchw->bmhw", getattr(self, f"components{layer}"), centred)


class RealNet(nn.Module):
    """The trainable part; the frozen backbone and the selector stay outside, and out of its files.

    forward: block features phi(A), list of ``[B, m_k, H_k, W_k]`` -> logits ``[B, 2, S, S]`` and
    the reconstructions G_k(phi_k(A)), same shapes as the input.
    """

    def __init__(self, channels: Sequence[int], params: Model, image_size: int):
        super().__init__()
        self.image_size = image_size
        self.reconstruct = nn.ModuleList(
            ReconstructionUNet(m, params.reconstruction) for m in channels
        )
        total = sum(channels)
        kept = total if params.rrs.mode == "all" else params.rrs.channels
        self.select = ResidualSelection(total, params.rrs)
        self.discriminate = Discriminator(kept, params.rrs)

    def forward(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        rebuilt = [net(f) for net, f in zip(self.reconstruct, features, strict=True)]
        selected = self.select(self.squared(features, rebuilt))
        return self.discriminate(selected, self.image_size), rebuilt

    def residuals(self, features: list[torch.Tensor], rebuilt: list[torch.Tensor]) -> torch.Tensor:
        """E = (phi(A) - G(phi(A)))^2 of all blocks at the finest one's size, ``[B, M, H, W]``."""
        return at_finest_size(self.squared(features, rebuilt))

    def squared(
        self, features: list[torch.Tensor], rebuilt: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """(phi_k(A) - G_k(phi_k(A)))^2 of each block at its own size, float32."""
        return [(f.float() - g.float()) ** 2 for f, g in zip(features, rebuilt, strict=True)]


def realnet_loss(
    logits: torch.Tensor,
    masks: torch.Tensor,
    rebuilt: list[torch.Tensor],
    normal: list[torch.Tensor],
    focal_gamma: float | None = None,
    cosine: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(segmentation, reconstruction): pixel cross-entropy, and sum_k MSE(G_k(phi_k(A)), phi_k(I)).

    logits ``[B, 2, S, S]``, masks bool ``[B, S, S]``; the weights of the sum stay outside.
    focal_gamma: focal loss instead of the cross-entropy (Lin et al. 2017, without class
    weights): each pixel's is multiplied by (1 - p)^gamma, p being its class's probability.
    cosine: 1 - cosine similarity of the feature vectors at each position instead of the MSE.
    """
    if focal_gamma is None:
        segmentation = _cross_entropy(logits.float(), masks.long())
    else:
        each = F.cross_entropy(logits.float(), masks.long(), reduction="none")
        segmentation = ((1 - (-each).exp()) ** focal_gamma * each).mean()
    pairs = [(g.float(), f.float()) for g, f in zip(rebuilt, normal, strict=True)]
    if cosine:
        terms = [1 - F.cosine_similarity(g, f, dim=1).mean() for g, f in pairs]
    else:
        terms = [F.mse_loss(g, f) for g, f in pairs]
    return segmentation, sum(terms, start=segmentation.new_zeros(()))


def _cross_entropy(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Mean over pixels. CUDA's kernel for it adds in any order; those for each pixel and for a mean
    do not. (The CPU's adds in one order, another than ``mean``'s, and is kept.)"""
    if logits.is_cuda:
        return F.cross_entropy(logits, classes, reduction="none").mean()
    return F.cross_entropy(logits, classes)


def margin(logits: torch.Tensor) -> torch.Tensor:
    """Anomalous minus normal logit, float32 ``[B, S, S]``; its sigmoid is the official map.

    Kept as the score since the softmax saturates: equal 1.0s would lose their order.
    """
    return (logits[:, 1] - logits[:, 0]).float()
