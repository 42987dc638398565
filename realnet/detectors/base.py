"""The common interface of fitted detectors, which the evaluation uses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from realnet.compute.runtime import Runtime


@dataclass(frozen=True)
class ModelInfo:
    """Properties of a detector in ``model.json`` besides its architecture."""

    dataset: str = ""
    category: str = ""
    steps: int | None = None  # of the training
    best_step: int | None = None  # of the checkpoint that was best on the test set
    image_score_pool: int | None = None  # that an imported model was trained for


class Prediction(NamedTuple):
    """Anomaly maps and image scores; higher where more anomalous."""

    margins: torch.Tensor  # float32 [N, S, S], on the CPU
    scores: np.ndarray  # float64 [N]


class AnomalyDetector(ABC):
    """A detector of one category: ``predict`` maps images to anomaly maps and scores."""

    method: ClassVar[str]
    image_size: int
    info: ModelInfo

    @property
    @abstractmethod
    def threshold(self) -> float | None:
        """Threshold of the margins for contours in figures; None: no contour."""

    @property
    @abstractmethod
    def heat(self) -> tuple[float, float]:
        """Margins at the two ends of a heat map's colours."""

    @abstractmethod
    def predict(
        self, images: torch.Tensor, runtime: Runtime, batch_size: int, pool: int
    ) -> Prediction:
        """Margins and scores of uint8 images ``[N, 3, S, S]``.

        pool: side of the window that image scores are averaged over, where the method has one.
        """

    @abstractmethod
    def maps(self, margins: torch.Tensor) -> torch.Tensor:
        """Anomaly maps as the method defines them, of margins as :meth:`predict` returns them."""
