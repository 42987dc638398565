"""Which images a training step sees: a function of the step, so a resumed run goes on alike."""

from collections.abc import Callable

import torch

from realnet.core.seeds import torch_generator


def shuffled_epochs(
    count: int, batch_size: int, seed: int, *names: str | int, short_last: bool = False
) -> Callable[[int], torch.Tensor]:
    """Returns ``step -> indices [batch_size]`` (int64), every image once per pass, passes shuffled.

    Batches run on across the end of a pass, so all have the same size. With ``short_last`` each
    pass has batches of its own, the last one as short as it comes out (the official loader).
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
