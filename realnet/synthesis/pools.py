"""What AFS and RealNet training both need before the first anomaly: pools and foregrounds."""

from pathlib import Path

import torch

from realnet.config.sections import Synthesis
from realnet.core.errors import UserError
from realnet.synthesis.foreground import foregrounds, rule_for
from realnet.synthesis.sources import dtd_pool, sdas_pool, texture_pool


def build_pools(
    params: Synthesis,
    sdas: Path | None,
    seed: int,
    dataset: str,
    category: str,
    size: int,
    normal: torch.Tensor | None = None,
    covers: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Source name -> uint8 ``[N, 3, S, S]``, for the sources that have a weight above zero.

    normal: the training images, uint8 ``[N, 3, S, S]``; covers: their foregrounds, bool
    ``[N, S, S]``. The source `nsa` takes its patches from them, and so its pools are ``nsa`` and
    ``nsa_covers``; no other source needs them, and `cutpaste` needs no pool.
    """
    pools = {}
    for name, weight in params.sources.items():
        if weight <= 0 or name == "normal":
            continue
        if name == "sdas":
            if sdas is None:
                raise UserError("synthesis.sources has sdas: give --sdas, the folder of that stage")
            pools[name] = sdas_pool(sdas, size)
        elif name == "dtd":
            pools[name] = dtd_pool(params.dtd_root, size)
        elif name == "nsa":
            pools |= {"nsa": normal, "nsa_covers": covers}
        elif name == "texture":
            pools[name] = texture_pool(seed, dataset, category, size)
    return pools


def training_foregrounds(
    normal: torch.Tensor, params: Synthesis, dataset: str, category: str
) -> torch.Tensor:
    """bool ``[N, S, S]`` for the normal training images uint8 ``[N, 3, S, S]``."""
    return foregrounds(normal, rule_for(params.foreground, dataset, category))
