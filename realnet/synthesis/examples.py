"""Example anomalies for the figures: the same normal images for every source."""

from pathlib import Path

import numpy as np
import torch

from realnet.config.sections import Synthesis
from realnet.core.io import atomic
from realnet.core.seeds import derive
from realnet.synthesis.pools import NormalImages
from realnet.synthesis.synthesiser import AnomalySynthesiser

KEPT, TRIED = 8, 16  # examples in all; items per source, since some masks are empty


def save_examples(
    path: Path,
    params: Synthesis,
    pools: dict[str, torch.Tensor],
    normal: NormalImages,
    seed: int,
    dataset: str,
    category: str,
) -> None:
    """Write an npz with up to ``KEPT`` anomalies as the training draws them, spread over sources.

    normal: on the CPU; pools: as of ``build_pools``. The file has ``normal`` and ``anomalous``
    uint8 ``[K, S, S, 3]``, ``masks`` bool ``[K, S, S]``, ``sources`` and ``items``, both ``[K]``.

    The random numbers depend on (seed, dataset, category, item) alone and are not those of the
    training, so variants with other sources have anomalies on the same normal images, for
    comparison. Sources with masks of Perlin noise share these masks too. Source: ours.
    """
    names = ("examples", dataset, category)
    sources = [name for name, weight in params.sources.items() if weight > 0 and name != "normal"]
    chosen = [derive(seed, *names, "image", i) % len(normal) for i in range(TRIED)]
    originals, foregrounds = normal.images[chosen], normal.foregrounds[chosen]
    found = []
    for name in sources:
        only = params.model_copy(update={"sources": {name: 1.0}})
        drawn = AnomalySynthesiser(only, pools, seed, *names)(originals, foregrounds, 0)
        changed = torch.nonzero(drawn.masks.flatten(1).any(1)).flatten().tolist()
        for item in changed[: max(1, KEPT // len(sources))]:
            found.append((name, item, drawn.images[item], drawn.masks[item]))
    items = [item for _, item, _, _ in found]
    size = originals.shape[-1]
    images = [image.permute(1, 2, 0).numpy() for _, _, image, _ in found]
    masks = [mask.numpy() for _, _, _, mask in found]
    with atomic(path) as temporary:
        np.savez_compressed(
            temporary,
            normal=originals[items].permute(0, 2, 3, 1).numpy(),
            anomalous=np.array(images, np.uint8).reshape(-1, size, size, 3),
            masks=np.array(masks, bool).reshape(-1, size, size),
            sources=np.array([name for name, _, _, _ in found], str),
            items=np.array(items, np.int64),
        )
