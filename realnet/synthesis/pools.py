"""What anomalies are synthesised from: normal images with foregrounds, and images to blend in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from realnet.config.sections import Synthesis
from realnet.core.errors import UserError
from realnet.datasets.images import load_images
from realnet.datasets.items import Item
from realnet.synthesis.foreground import foregrounds, rule_for
from realnet.synthesis.sources import dtd_pool, sdas_pool, texture_pool


@dataclass(frozen=True)
class NormalImages:
    """The normal training images of a category, and where anomalies may be in them."""

    images: torch.Tensor  # uint8 [N, 3, S, S]
    foregrounds: torch.Tensor  # bool [N, S, S]

    @classmethod
    def load(
        cls, items: Sequence[Item], size: int, params: Synthesis, dataset: str, category: str
    ) -> Self:
        """Read the images at ``size`` pixels and compute their foreground masks, on the CPU."""
        images = load_images(items, size)
        return cls(images, training_foregrounds(images, params, dataset, category))

    def to(self, device: torch.device) -> "NormalImages":
        return NormalImages(self.images.to(device), self.foregrounds.to(device))

    def __len__(self) -> int:
        return len(self.images)


def build_pools(
    params: Synthesis,
    sdas: Path | None,
    seed: int,
    dataset: str,
    category: str,
    size: int,
    normal: NormalImages | None = None,
) -> dict[str, torch.Tensor]:
    """Source name -> uint8 ``[N, 3, S, S]``, for the sources that have a weight above zero.

    The source `nsa` takes its patches from ``normal``, so its pools are ``nsa`` and
    ``nsa_foregrounds``, bool ``[N, S, S]``; no other source needs it. `cutpaste` needs no pool.
    """
    pools: dict[str, torch.Tensor] = {}
    for name, weight in params.sources.items():
        if weight <= 0 or name == "normal":
            continue
        if name == "sdas":
            if sdas is None:
                raise UserError("synthesis.sources has sdas: give --sdas, the folder of that stage")
            pools[name] = sdas_pool(sdas, size)
        elif name == "dtd":
            if params.dtd_root is None:
                raise ValueError("the source dtd needs dtd_root")
            pools[name] = dtd_pool(params.dtd_root, size)
        elif name == "nsa":
            if normal is None:
                raise ValueError("the source nsa needs the normal images")
            pools |= {"nsa": normal.images, "nsa_foregrounds": normal.foregrounds}
        elif name == "texture":
            pools[name] = texture_pool(seed, dataset, category, size)
    return pools


def training_foregrounds(
    normal: torch.Tensor, params: Synthesis, dataset: str, category: str
) -> torch.Tensor:
    """bool ``[N, S, S]`` for the normal training images uint8 ``[N, 3, S, S]``."""
    return foregrounds(normal, rule_for(params.foreground, dataset, category))
