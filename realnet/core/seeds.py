"""Seeds: every random number comes from a generator named by its purpose.

A seed is the hash of the run seed and a path of names, e.g. ``(0, "sdas", "demo", "hex_nut", 17)``.
The order of jobs, the number of workers and the order of files in a folder change nothing, and a
resumed run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # rendering the demo dataset needs none
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the item that ``names`` identify.

    Source: our decision (the official code seeds training globally and sampling not at all).
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU ``torch.Generator``; draws made on the CPU are the same for every device."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


@dataclass(frozen=True)
class SeedPath:
    """A run seed and the names that all draws of one stage start with, e.g. ("ddpm", "demo")."""

    seed: int
    names: tuple[str | int, ...]

    def __str__(self) -> str:
        return "/".join(map(str, self.names))

    def derive(self, *names: str | int) -> int:
        """As :func:`derive`, of the item that ``names`` describe below this path."""
        return derive(self.seed, *self.names, *names)

    def generator(self, *names: str | int) -> torch.Generator:
        """As :func:`torch_generator`, of the item that ``names`` describe below this path."""
        return torch_generator(self.seed, *self.names, *names)


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy ``Generator`` for the item that ``names`` identify."""
    return np.random.default_rng(derive(seed, *names))
