"""Principal components of normal features: an alternative to AFS (selection `pca`)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Projection:
    """One layer's c_k channels x -> m_k components: ``components @ (x - mean)`` per position."""

    components: torch.Tensor  # float32 [m, c], orthonormal rows, by falling variance
    mean: torch.Tensor  # float32 [c]

    def pack(self) -> dict[str, Any]:
        """For JSON, every bit kept."""
        return {"components": _pack(self.components), "mean": _pack(self.mean)}

    @staticmethod
    def unpack(packed: dict[str, Any]) -> "Projection":
        """Rebuild what :meth:`pack` returned."""
        return Projection(_unpack(packed["components"]), _unpack(packed["mean"]))


class Moments:
    """Mean and covariance of the channels over images and positions, in float64 on the CPU."""

    def __init__(self, channels: int):
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, maps: torch.Tensor) -> None:
        """Maps ``[B, C, H, W]``."""
        rows = maps.double().movedim(1, -1).flatten(0, -2)
        self.count += len(rows)
        self.total += rows.sum(0).cpu()
        self.products += (rows.T @ rows).cpu()

    def principal(self, count: int) -> tuple[Projection, list[float]]:
        """The first ``count`` principal components and their standard deviations.

        LAPACK's symmetric solver; each component's sign is such that its largest entry is positive.
        """
        mean = self.total / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance)
        components = vectors.T.flip(0)[:count]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * largest.sign()
        deviations = values.flip(0)[:count].clamp(min=0).sqrt()
        return Projection(components.float(), mean.float()), deviations.tolist()


def pack_all(projections: Sequence[Projection] | None) -> list[dict[str, Any]] | None:
    return None if projections is None else [p.pack() for p in projections]


def unpack_all(packed: Sequence[dict[str, Any]] | None) -> list[Projection] | None:
    return None if packed is None else [Projection.unpack(p) for p in packed]


def _pack(tensor: torch.Tensor) -> dict[str, Any]:
    raw = tensor.contiguous().numpy().astype("<f4").tobytes()
    return {"shape": list(tensor.shape), "float32": base64.b64encode(raw).decode("ascii")}


def _unpack(packed: dict[str, Any]) -> torch.Tensor:
    raw = np.frombuffer(base64.b64decode(packed["float32"]), dtype="<f4")
    return torch.from_numpy(raw.astype(np.float32)).view(packed["shape"])
