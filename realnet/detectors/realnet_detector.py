"""A trained RealNet as a function from images to anomaly margins."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import safetensors.torch
import torch

from realnet.compute.runtime import Runtime
from realnet.config.sections import Model
from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256
from realnet.detectors.base import AnomalyDetector, ModelInfo, Prediction
from realnet.metrics import image_score
from realnet.models.afs import selection_from
from realnet.models.features import FeatureExtractor, backbone_folder, load_backbone
from realnet.models.realnet import FeatureSelector, RealNet, margin


@dataclass(frozen=True)
class Detector(AnomalyDetector):
    """Backbone, cached channels and the trained part of one category, in eval mode."""

    method: ClassVar[str] = "realnet"

    extractor: FeatureExtractor
    selector: FeatureSelector
    model: RealNet
    image_size: int
    info: ModelInfo = field(default_factory=ModelInfo)

    @property
    def threshold(self) -> float:
        """A probability of 1/2, as a margin."""
        return 0.0

    @property
    def heat(self) -> tuple[float, float]:
        return -6.0, 2.0

    @torch.no_grad()
    def margins(self, images: torch.Tensor, runtime: Runtime, batch_size: int) -> torch.Tensor:
        """Logit margins float32 ``[N, S, S]`` (CPU) for uint8 images ``[N, 3, S, S]``.

        Positive means anomalous; the sigmoid of the margin is the paper's anomaly map.
        """
        parts = []
        for part in images.split(batch_size):
            with runtime.autocast():
                maps = self.extractor(part.to(runtime.device).float() / 255)
                logits, _ = self.model(self.selector(maps))
            parts.append(margin(logits).cpu())
        return torch.cat(parts)

    def predict(
        self, images: torch.Tensor, runtime: Runtime, batch_size: int, pool: int
    ) -> Prediction:
        """The margins, and image scores from them (:func:`realnet.metrics.image_score`)."""
        margins = self.margins(images, runtime, batch_size)
        return Prediction(margins, image_score(margins.numpy(), pool))

    def maps(self, margins: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        return margins.sigmoid()


def load_detector(folder: str | Path, runtime: Runtime, checkpoint: str = "last") -> Detector:
    """The detector that the stage `realnet` or `realnet import-realnet` wrote.

    ``checkpoint``: the ``"last"`` weights, or the ``"best"`` on the test set, where the training
    kept them (`training.select_every`). Digests of the model and of its backbone are verified. The
    backbone is where ``model.json`` says, relative to the folder, or in a folder ``backbone``
    inside it.
    UserError: no model there, no such checkpoint, other bytes than the recorded ones, or no
    backbone.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        raise UserError(
            f"{folder}: no model.json there; expected a folder of `realnet train` or"
            " `realnet import-realnet`"
        )
    meta = read_json(folder / "model.json")
    if not isinstance(meta, dict) or MODEL_KEYS - set(meta):
        raise UserError(f"{folder}/model.json: not of this program, or of another version of it")
    stored = meta if checkpoint == "last" else meta.get("best")
    if stored is None:
        raise UserError(
            f"{folder}: has no checkpoint that is best on the test set; train with"
            " training.select_every"
        )
    path = folder / FILES[checkpoint]
    if not path.is_file() or sha256(path) != stored["sha256"]:
        raise UserError(f"{path}: missing, or not the file of model.json; rerun the stage realnet")
    extractor = load_backbone(backbone_folder(folder, meta))
    params = Model.model_validate(meta["model"])
    selection = selection_from(meta["selection"])
    size = meta["image_size"]
    selector = FeatureSelector(params.blocks, selection, size, params.feature_scale)
    with torch.device("meta"):  # no random start that the weights would only overwrite
        model = RealNet(selector.channels, params, size)
    model.load_state_dict(safetensors.torch.load_file(path), assign=True)
    return Detector(
        runtime.place(extractor),
        selector.to(runtime.device),
        runtime.place(model).eval(),
        size,
        info_of(meta),
    )


def info_of(meta: Mapping) -> ModelInfo:
    """The facts of a ``model.json`` that are no structure; an import has no steps."""
    best = meta.get("best")
    return ModelInfo(
        meta["dataset"],
        meta["category"],
        meta.get("steps"),
        best["step"] if best else None,
        meta.get("image_score_pool"),
    )


FILES = {"last": "model.safetensors", "best": "best.safetensors"}
MODEL_KEYS = {"dataset", "category", "image_size", "model", "selection", "backbone", "sha256"}
