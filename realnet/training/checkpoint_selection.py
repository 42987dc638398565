"""The official checkpoint selection: the best of many evaluations on the test set.

Its result is no honest headline, since the number reported is the one maximised. It is here to
repeat the official protocol, and to measure how much the selection gains. It does not affect the
training: it draws no random number, keeps BatchNorm statistics, and the last weights are the same
bits.
"""

from pathlib import Path
from typing import Any

import torch

from realnet.compute.runtime import Runtime
from realnet.config.sections import Training
from realnet.core.errors import as_user_error
from realnet.core.io import save_weights, write_csv
from realnet.datasets.images import load_images, load_masks
from realnet.datasets.items import Item
from realnet.detectors.realnet_detector import FILES, Detector
from realnet.metrics.arrays import MetricInputError
from realnet.metrics.official import key_metric, official_metrics

FIELDS = ["step", "image_auroc", "pixel_auroc", "key", "is_best"]
SELECTION = "selection.csv"


class BestOnTest:
    """Evaluates the network during training, and keeps a copy of its best weights.

    Source: official training script, every 5 epochs: the mean of image and pixel AUROC
    (:mod:`realnet.metrics.official`), ties to the later one. Here also after the last step.
    """

    def __init__(
        self,
        detector: Detector,
        images: torch.Tensor,
        masks: torch.Tensor,
        pool: int,
        every: int,
        last: int,
        batch_size: int,
    ):
        self.detector, self.images, self.masks = detector, images, masks.numpy()
        self.pool, self.every, self.last, self.batch_size = pool, every, last, batch_size
        self.rows: list[dict[str, Any]] = []
        self.weights: dict[str, torch.Tensor] | None = None

    def due(self, step: int) -> bool:
        """Whether to evaluate after ``step`` updates of the weights."""
        return step % self.every == 0 or step == self.last

    def look(self, step: int, runtime: Runtime) -> None:
        """Evaluate, in eval mode, and keep the weights if they are the best so far."""
        model = self.detector.model
        training = model.training
        model.eval()
        margins = self.detector.margins(self.images, runtime, self.batch_size)
        model.train(training)
        with as_user_error(MetricInputError):  # NaN: the training has diverged
            measured = official_metrics(margins.sigmoid(), self.masks, self.pool, pro=False)
        key = key_metric(measured)
        if not self.rows or key >= max(row["key"] for row in self.rows):
            # A copy, since the training continues in place.
            state = model.state_dict().items()
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in state}
        image, pixel = measured["image_auroc_official"], measured["pixel_auroc_official"]
        self.rows.append({"step": step, "image_auroc": image, "pixel_auroc": pixel, "key": key})

    @property
    def best(self) -> dict[str, Any]:
        """The row of the kept weights."""
        return max(self.rows, key=lambda row: (row["key"], row["step"]))

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint of the training."""
        return {"rows": self.rows, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore :meth:`state_dict`; copies, since it may be mapped from the checkpoint's file."""
        self.rows = list(state["rows"])
        weights = state["weights"]
        self.weights = weights and {name: value.clone() for name, value in weights.items()}

    def write(self, out: Path) -> dict[str, Any]:
        """``best.safetensors`` and ``selection.csv``; returns their entry in ``model.json``."""
        best = self.best
        digest = save_weights(out / FILES["best"], self.weights)
        rows = [{**row, "is_best": int(row is best)} for row in self.rows]
        write_csv(out / SELECTION, rows, FIELDS)
        return {**best, "evaluations": len(rows), "sha256": digest}


def best_on_test(
    items: list[Item],
    detector: Detector,
    params: Training,
    pool: int | None,
    steps: int,
    per_epoch: int,
) -> BestOnTest | None:
    """The selection configured by ``params.select_every``, or None.

    Also None, with a line in the log, where the test images (split ``test`` of ``items``) do not
    define the metrics: no masks, or only normal or only anomalous images. Images without pixel
    ground truth are left out, since the official metrics have their labels from the masks.
    """
    if params.select_every is None or pool is None:  # one is None where the other is
        return None
    tested = [item for item in items if item.split == "test" and item.pixel_labelled]
    masks = load_masks(tested, detector.image_size)
    anomalous = masks.flatten(1).any(1)
    if not tested:
        reason = "there are no test images"
    elif not any(item.mask_path for item in tested):
        reason = "the test images have no masks"
    elif anomalous.all() or not anomalous.any():
        reason = f"no test image is {'normal' if anomalous.all() else 'anomalous'}"
    else:
        every = params.select_every * (per_epoch if params.epochs is not None else 1)
        images = load_images(tested, detector.image_size)
        return BestOnTest(detector, images, masks, pool, every, steps, params.batch_size)
    print(f"training.select_every: no checkpoint is chosen on the test set: {reason}")
    return None
