"""BatchNorm statistics of a trained network as averages over several batches.

BatchNorm's running statistics belong mostly to the last batches of a training: with the momentum
0.9 of RRS's ranking, nine tenths to the very last one. Recomputed over many batches with fixed
weights ("PreciseBN", Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021), they do not depend on
which batch came last. The official code does not do this.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from realnet.compute.shared_norm import SharedBatchNorm2d


@torch.no_grad()
def recompute_statistics(
    model: nn.Module,
    forward: Callable[[int], object],
    batches: int,
    first: Collection[nn.BatchNorm2d] = (),
) -> None:
    """Set the running statistics of all BatchNorm layers to their mean over ``batches`` batches.

    ``forward(k)`` passes batch k through ``model``, which is in training mode then. Weights do not
    change, nor, for 0 batches, the statistics; only this process takes part.
    ``torch.optim.swa_utils.update_bn`` does the same for one process.

    first: layers whose running statistics the network uses in training mode too, such as RRS with
    `rrs.scaled`. They have a pass of their own, and stay fixed in the one for the others.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    training = model.training
    model.train()
    passes = [set(first), set(norms) - set(first)] if first else [set(norms)]
    with _alone(norms):
        for recomputed in passes:
            for k in range(batches):
                for norm in norms:  # a cumulative mean, or no change
                    norm.momentum = 1 / (k + 1) if norm in recomputed else 0.0
                forward(k)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.train(training)


@contextmanager
def statistics_restored(model: nn.Module) -> Iterator[None]:
    """Restore the running statistics at the end, so that a training continues with its own."""
    before = {name: value.clone() for name, value in model.named_buffers()}
    try:
        yield
    finally:
        for name, value in model.named_buffers():
            value.copy_(before[name])


@contextmanager
def _alone(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Without the other processes of a training."""
    shared = [norm for norm in norms if isinstance(norm, SharedBatchNorm2d)]
    before = [(norm.alone, norm.counts) for norm in shared]
    for norm in shared:
        norm.alone, norm.counts = True, 1.0
    yield
    for norm, (alone, counts) in zip(shared, before, strict=True):
        norm.alone, norm.counts = alone, counts
