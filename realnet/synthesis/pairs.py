"""The local anomalies of the training one by one, with the source of each."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from realnet.core.errors import UserError
from realnet.synthesis.pools import NormalImages
from realnet.synthesis.synthesiser import AnomalySynthesiser

PATIENCE = 4000  # consecutive items without an anomaly before giving up


@dataclass(frozen=True)
class Pair:
    """One anomalous item of the training."""

    item: int  # its number in the training
    normal: int  # of the normal training images, in the manifest's order
    source: str  # "sdas", "texture", "dtd", "cutpaste" or "nsa"
    source_index: int  # of the source's images; of the normal ones for cutpaste and nsa
    opacity: float  # delta; 1 for cutpaste and nsa
    image: torch.Tensor  # A, uint8 [3, S, S]
    mask: torch.Tensor  # M, bool [S, S], not empty
    patch: torch.Tensor  # P, uint8 [3, S, S]; A for cutpaste and nsa


def draw_pairs(
    synthesise: AnomalySynthesiser,
    normal: NormalImages,
    batch_of: Callable[[int], torch.Tensor],
    batch_size: int,
) -> Iterator[Pair]:
    """The anomalous items, batch after batch, without end.

    batch_of: step -> int64 indices of normal images. Everything is computed on the CPU (a GPU may
    differ in single pixels at the rim of a mask).

    UserError after ``PATIENCE`` items without an anomaly.
    """
    waited = 0
    for step in itertools.count():
        chosen = batch_of(step)
        originals = normal.images[chosen]
        drawn = synthesise(originals, normal.foregrounds[chosen], step * batch_size)
        for row, number in enumerate(chosen.tolist()):
            source = drawn.sources[row]
            # The opacity may be too low for the smallest masks to change a grey level.
            changed = not torch.equal(drawn.images[row], originals[row])
            if source == "normal" or not (changed and drawn.masks[row].any()):
                waited += 1
                continue
            waited = 0
            yield Pair(
                item=step * batch_size + row,
                normal=number,
                source=source,
                source_index=number if source == "cutpaste" else int(drawn.source_index[row]),
                opacity=float(drawn.opacity[row]),
                image=drawn.images[row],
                mask=drawn.masks[row],
                patch=drawn.patch(row).cpu(),
            )
        if waited > PATIENCE:
            name = "/".join(map(str, synthesise.names[1:]))
            raise UserError(
                f"{name}: no anomaly among the last {waited} items; give a source other than"
                " normal more weight (synthesis.sources), or check the foregrounds"
                " (`realnet data foregrounds`)"
            )
