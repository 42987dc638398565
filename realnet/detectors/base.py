"""A fitted detector of any method, from its folder."""

from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from realnet.compute.runtime import Runtime
from realnet.core.errors import UserError
from realnet.core.io import read_json
from realnet.detectors.patchcore import PatchCoreDetector, load_patchcore
from realnet.detectors.realnet_detector import load_detector


class AnyDetector(Protocol):
    """What an evaluation needs of a method."""

    method: ClassVar[str]
    threshold: float | None  # of margins: where a contour is drawn; None: nowhere
    heat: tuple[float, float]  # ends of a heat map's colours
    image_size: int
    meta: dict[str, Any]

    def detect(
        self, images: torch.Tensor, runtime: Runtime, batch_size: int, pool: int
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Margins float32 ``[N, S, S]`` (CPU), higher where more anomalous, and image scores
        float64 ``[N]``, of uint8 images ``[N, 3, S, S]``."""

    def margins(self, images: torch.Tensor, runtime: Runtime, batch_size: int) -> torch.Tensor:
        """The margins alone."""

    def maps(self, margins: torch.Tensor) -> torch.Tensor:
        """Anomaly maps as the method defines them."""


def load(folder: str | Path, runtime: Runtime, checkpoint: str = "last") -> AnyDetector:
    """What a stage `realnet` or `patchcore` or `realnet import-realnet` wrote.

    ``checkpoint`` as for :func:`~realnet.detectors.realnet_detector.load_detector`. UserError: as
    there.
    """
    folder = Path(folder)
    path = folder / "model.json"
    meta = read_json(path) if path.is_file() else {}
    if not isinstance(meta, dict) or meta.get("method", "realnet") != PatchCoreDetector.method:
        return load_detector(folder, runtime, checkpoint)
    if checkpoint != "last":
        raise UserError(f"{folder}: PatchCore is not trained, so it has no {checkpoint} checkpoint")
    return load_patchcore(folder, meta, runtime)
