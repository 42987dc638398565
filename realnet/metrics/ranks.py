"""Ranks of the defect scores among the normal scores, from which every metric follows.

For each defect score s the ranks are #{normal > s} and #{normal >= s}. They are integers, so
they can be counted in parts, in any order, by any number of threads, on any device, and added
without rounding. Only *values* of normal scores are sorted, never their positions.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from realnet.metrics.arrays import no_nan

THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


@dataclass(frozen=True)
class Thresholds:
    """The U distinct values of P defect scores."""

    values: np.ndarray  # [U], ascending
    counts: np.ndarray  # int64 [U]: number of defect scores equal to each
    inverse: np.ndarray  # int64 [P]: index of each score in `values`

    @classmethod
    def of(cls, defect: np.ndarray, name: str = "scores") -> "Thresholds":
        """Of the ``defect`` scores, named ``name`` in errors. Raises ValueError for NaN."""
        order = np.argsort(defect)  # an unstable sort is enough: equal scores get the same ranks
        ascending = defect[order]
        no_nan(ascending, name)
        first = np.ones(len(ascending), bool)
        np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
        inverse = np.empty(len(defect), np.int64)
        inverse[order] = np.cumsum(first) - 1
        starts = np.flatnonzero(first)
        counts = np.diff(starts, append=len(ascending))
        return cls(ascending[starts], counts, inverse)


@dataclass(frozen=True)
class Ranks:
    """Number of normal scores (of ``normals``) above, and at or above, each threshold."""

    thresholds: Thresholds
    above: np.ndarray  # int64 [U]: normal scores > threshold
    reaching: np.ndarray  # int64 [U]: normal scores >= threshold
    normals: int

    @property
    def defects(self) -> int:
        return len(self.thresholds.inverse)

    @cached_property
    def found(self) -> np.ndarray:
        """int64 [U]: defect scores >= threshold."""
        return np.cumsum(self.thresholds.counts[::-1])[::-1]

    @cached_property
    def wrong(self) -> np.ndarray:
        """int64 [U]: twice the pairs lost by a defect score at each threshold (ties half)."""
        return self.above + self.reaching

    def __add__(self, other: "Ranks") -> "Ranks":
        """Ranks of the same thresholds among the normal scores of both."""
        return Ranks(
            self.thresholds,
            self.above + other.above,
            self.reaching + other.reaching,
            self.normals + other.normals,
        )

    # --- metrics that depend only on ranks ---

    def auroc(self) -> float:
        """1 - lost pairs / pairs: exact up to one division."""
        lost = sum(int(part) for part in self._lost())
        return 1 - lost / (2 * self.defects * self.normals)

    def _lost(self) -> np.ndarray:
        """Partial sums that do not overflow (one product is below 2 normals * defects)."""
        product = self.wrong.astype(np.uint64) * self.thresholds.counts.astype(np.uint64)
        return np.add.reduceat(product, np.arange(0, len(product), 4096))

    def ap(self) -> float:
        """Average precision: sum of precision times recall step over the thresholds."""
        precision = self.found / (self.found + self.reaching)
        return float(np.sum(precision * self.thresholds.counts) / self.defects)

    def f1_max(self) -> float:
        """Maximum F1, at a defect score: other thresholds only add false positives."""
        return float(np.max(2 * self.found / (self.defects + self.found + self.reaching)))


def none_counted(thresholds: Thresholds) -> Ranks:
    """Ranks among no normal scores: the neutral element of addition."""
    zero = np.zeros(len(thresholds.values), np.int64)
    return Ranks(thresholds, zero, zero, 0)


def rank(thresholds: Thresholds, normal: np.ndarray, name: str = "scores") -> Ranks:
    """Ranks among ``normal``, which is sorted in place. Raises ValueError for NaN."""
    normal.sort()
    no_nan(normal, name)
    values, n = thresholds.values, len(normal)
    reaching = np.searchsorted(normal, values, side="left")
    # Ties between a defect and a normal score are rare unless scores are coarse: only tied
    # thresholds need the second search.
    tied = np.flatnonzero(np.take(normal, reaching, mode="clip") == values) if n else reaching[:0]
    np.subtract(n, reaching, out=reaching)
    above = reaching.copy()
    above[tied] = n - np.searchsorted(normal, values[tied], side="right")
    return Ranks(thresholds, above, reaching, n)


def rank_top(thresholds: Thresholds, normal: np.ndarray, rate: float) -> Ranks:
    """Ranks among ``normal``, exact where the false positive rate is at most ``rate``.

    For lower thresholds the counts are only known to exceed that rate.
    """
    n = len(normal)
    wanted = min(n, int(np.ceil(rate * n)) + 1)
    if not wanted:
        return none_counted(thresholds)
    top = rank(thresholds, normal[normal >= np.partition(normal, n - wanted)[n - wanted]])
    return Ranks(thresholds, top.above, top.reaching, n)


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Map in threads, results in order. NumPy releases the GIL where it copies and sorts."""
    if len(items) < 2 or THREADS < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items)


def total(thresholds: Thresholds, parts: Iterable[Ranks]) -> Ranks:
    """Sum of ranks that were counted in parts."""
    return sum(parts, none_counted(thresholds))


# --- on a GPU ------------------------------------------------------------------------------------


def rank_on_device(thresholds: Thresholds, normal: Any) -> Ranks:
    """As :func:`rank`, for a torch tensor on any device; returns the same integers."""
    import torch

    if normal.dtype in (torch.float16, torch.bfloat16):
        normal = normal.float()
    normal = normal.sort().values
    if len(normal):
        no_nan(normal[-1:].cpu().numpy(), "scores")
    values = torch.from_numpy(thresholds.values).to(normal.device, normal.dtype)
    right = torch.searchsorted(normal, values, right=True).cpu().numpy()
    left = torch.searchsorted(normal, values).cpu().numpy()
    n = len(normal)
    return Ranks(thresholds, n - right, n - left, n)
