"""The test images of a dataset, their anomaly maps, and the metrics of one checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from realnet.compute.runtime import Runtime
from realnet.config.sections import Evaluate
from realnet.datasets.images import load_images, load_masks
from realnet.datasets.items import Item, read_manifest
from realnet.detectors.base import AnomalyDetector
from realnet.evaluation.assemble import localisation, metrics
from realnet.evaluation.protocols import CheckpointMetrics, official
from realnet.metrics import Localisation


@dataclass(frozen=True)
class TestSet:
    """The N test images of a manifest at the detector's resolution S."""

    __test__ = False  # not a test of pytest

    items: list[Item]
    images: torch.Tensor  # uint8 [N, 3, S, S]
    masks: np.ndarray  # bool [N, S, S]; all False without masks
    has_masks: bool  # whether any anomalous image has a pixel ground truth
    labels: np.ndarray  # uint8 [N], 1 anomalous

    @property
    def truth(self) -> np.ndarray | None:
        """The masks, or None where the dataset has none."""
        return self.masks if self.has_masks else None

    @property
    def pixel_labelled(self) -> np.ndarray:
        """bool [N]: which images have a pixel ground truth, where the dataset has masks."""
        return np.array([item.pixel_labelled for item in self.items], bool)

    @property
    def defects(self) -> list[str]:
        """Defect type of each image."""
        return [item.defect for item in self.items]

    @property
    def paths(self) -> list[str]:
        """File of each image."""
        return [str(item.path) for item in self.items]


def read_test_set(manifest: Path, size: int) -> TestSet:
    """The images of the split ``test``, resized to ``size`` pixels."""
    items = [item for item in read_manifest(manifest) if item.split == "test"]
    return TestSet(
        items=items,
        images=load_images(items, size),
        masks=load_masks(items, size).numpy(),
        has_masks=any(item.mask_path and item.pixel_labelled for item in items),
        labels=np.array([item.label for item in items], np.uint8),
    )


@dataclass(frozen=True)
class Scored:
    """What one checkpoint gives on a test set."""

    margins: np.ndarray  # float32 [N, S, S]
    scores: np.ndarray  # float64 [N], of the images
    found: Localisation | None  # None without masks
    metrics: CheckpointMetrics


def score(
    detector: AnomalyDetector, test: TestSet, runtime: Runtime, params: Evaluate, step: int | None
) -> Scored:
    """Score the test images and measure; ``step``: see :class:`CheckpointMetrics`."""
    maps, scores = detector.predict(
        test.images, runtime, params.batch_size, params.image_score_pool
    )
    margins = maps.numpy()
    labelled = test.pixel_labelled
    found = localisation(margins, test.truth, test.labels, params.pro_limit, labelled)
    # The official metrics need probabilities, which the maps of other methods are not.
    truth = test.truth if detector.method == "realnet" else None
    measured = CheckpointMetrics(
        strict=metrics(found, scores, test.labels),
        official=official(margins, truth, params.image_score_pool, labelled),
        step=step,
    )
    return Scored(margins, scores, found, measured)
