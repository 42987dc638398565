"""Which images a step sees: a function of the step, so that a resumed run sees the same."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from realnet.core.seeds import torch_generator


@dataclass(frozen=True)
class LabelledImages:
    """Normal training images uint8 ``[N, 3, S, S]`` and their classes, int64 ``[N]``."""

    images: torch.Tensor
    labels: torch.Tensor
    classes: int


def shuffled_epochs(
    count: int, batch_size: int, seed: int, *names: str | int, short_last: bool = False
) -> Callable[[int], torch.Tensor]:
    """Returns ``step -> indices [batch_size]`` (int64), every image once per pass, passes shuffled.

    Batches continue across the end of a pass, so all have the same size. With ``short_last`` each
    pass has batches of its own, of which the last may be shorter (as in the official loader).
    """
    passes: dict[int, torch.Tensor] = {}

    def order(index: int) -> torch.Tensor:
        if index not in passes:
            passes.clear() if len(passes) > 2 else None
            passes[index] = torch.randperm(
                count, generator=torch_generator(seed, *names, "pass", index)
            )
        return passes[index]

    def batch(step: int) -> torch.Tensor:
        if short_last:
            index, place = divmod(step, -(-count // batch_size))
            return order(index)[place * batch_size : (place + 1) * batch_size]
        positions = range(step * batch_size, (step + 1) * batch_size)
        return torch.stack([order(p // count)[p % count] for p in positions])

    return batch
