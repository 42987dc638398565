"""A trained RealNet as a function from images to anomaly margins."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import safetensors.torch
import torch

from realnet.compute.runtime import Runtime
from realnet.config.sections import Model
from realnet.core.errors import UserError
from realnet.core.io import read_json, sha256
from realnet.metrics import image_score
from realnet.models.features import FeatureExtractor, backbone_folder, load_backbone
from realnet.models.realnet import FeatureSelector, RealNet, margin
from realnet.stages.afs import selection_from


@dataclass(frozen=True)
class Detector:
    """Backbone, cached channels and the trained part of one category, in eval mode."""

    method: ClassVar[str] = "realnet"
    threshold: ClassVar[float | None] = 0.0  # probability 1/2: where the model draws the line
    heat: ClassVar[tuple[float, float]] = (-6.0, 2.0)  # ends of a heat map's colours

    extractor: FeatureExtractor
    selector: FeatureSelector
    model: RealNet
    image_size: int
    meta: dict

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

    def detect(
        self, images: torch.Tensor, runtime: Runtime, batch_size: int, pool: int
    ) -> tuple[torch.Tensor, np.ndarray]:
        """The margins, and a score of each image from them, float64 ``[N]``: see `image_score`."""
        margins = self.margins(images, runtime, batch_size)
        return margins, image_score(margins.numpy(), pool)

    def maps(self, margins: torch.Tensor) -> torch.Tensor:
        """Anomaly maps as the method defines them: probabilities."""
        return margins.sigmoid()


def load_detector(folder: str | Path, runtime: Runtime, checkpoint: str = "last") -> Detector:
    """What the stage `realnet` or `realnet import-realnet` wrote.

    ``checkpoint``: the ``"last"`` weights, or the ``"best"`` on the test set, where the training
    kept them (`training.select_every`). Digests of the model and of its backbone are verified. The
    backbone lies where ``model.json`` says, relative to the folder, or else in a folder
    ``backbone`` inside it.
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
        raise UserError(f"{path}: missing, or not the file of model.json; make the model again")
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
        meta,
    )


FILES = {"last": "model.safetensors", "best": "best.safetensors"}
MODEL_KEYS = {"dataset", "category", "image_size", "model", "selection", "backbone", "sha256"}
