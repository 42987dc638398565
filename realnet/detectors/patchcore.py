"""PatchCore (Roth et al., CVPR 2022): fit a memory of normal patches, predict distances to it.

Nothing is trained. Patch features of the frozen backbone are collected from the normal images, a
coreset of them is the memory, and a test patch is as anomalous as it is far from the memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import safetensors.torch
import torch

from realnet.compute.runtime import Runtime
from realnet.config.sections import PatchCore
from realnet.core.errors import UserError
from realnet.core.io import sha256
from realnet.core.seeds import derive, torch_generator
from realnet.detectors.base import AnomalyDetector, ModelInfo, Prediction
from realnet.detectors.patch_memory import (
    Memory,
    distance_maps,
    greedy_coreset,
    patch_features,
    random_projection,
)
from realnet.models.features import FeatureExtractor, backbone_folder, load_backbone

FILE = "memory.safetensors"
KEYS = {"dataset", "category", "image_size", "backbone", "patchcore", "sha256"}
KEYS |= {"threshold", "typical"}
HELD_OUT = 64  # training images, evenly spaced, that show how far normal patches are
PERCENTILE = 99.5  # of their pixels' distances: the threshold


@dataclass(frozen=True)
class PatchFeatures:
    """Patch features of images, from the frozen backbone."""

    extractor: FeatureExtractor
    params: PatchCore
    runtime: Runtime

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 ``[B, h, w, D]`` of uint8 images ``[B, 3, S, S]``."""
        with self.runtime.autocast():
            maps = self.extractor(images.to(self.runtime.device).float() / 255)
        return patch_features(maps, self.params.layers, self.params.neighbourhood)

    def stream(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """float32 ``[P, D]`` of one image after the other, computed in batches."""
        for part in images.split(self.params.batch_size):
            for features in self(part):
                yield features.flatten(0, 1)


@dataclass(frozen=True)
class Fit:
    """The fitted memory, and how far normal patches are from it."""

    rows: torch.Tensor  # the memory, float32 [M, D]
    patches: int  # of all training images, of which the memory keeps M
    radius: float  # largest distance of a (projected) patch from the memory
    typical: float  # median distance of normal pixels
    threshold: float


def fit(features: PatchFeatures, images: torch.Tensor, seed: int, *names: str) -> Fit:
    """Fit the memory to normal images, uint8 ``[N, 3, S, S]``.

    The images are passed through the backbone twice, so that only the projected features and the
    chosen ones are ever held: 4 N projection + 4 M D bytes for N patches. Random numbers depend on
    ``seed`` and ``names``.

    ``threshold``, of the map's distances, is the 99.5th percentile over the pixels of normal
    training images, each compared with the memory's rows from the other images (ours; the paper
    leaves it open). It only draws contours and scales colours: no metric uses it.
    """
    params, device = features.params, features.runtime.device
    width = check_layers(params, features.extractor, images.shape[-1])
    generator = torch_generator(seed, *names, "projection")
    matrix = torch.eye(width)
    if params.projection is not None and params.projection < width:
        matrix = random_projection(width, params.projection, generator)
    matrix = matrix.to(device)
    projected = torch.cat([part @ matrix for part in features.stream(images)])
    patches = len(projected)
    count = max(1, int(patches * params.coreset_fraction))
    first = derive(seed, *names, "first") % patches
    chosen, radius = greedy_coreset(projected, count, first)
    del projected
    # Sorted by image, so that equal sets give equal files.
    chosen = chosen.sort().values.cpu()
    rows = _rows(features.stream(images), chosen)
    origin = chosen // (patches // len(images))  # the image of each row
    typical, threshold = _normal_distances(features, images, Memory(rows), origin)
    return Fit(rows, patches, radius, typical, threshold)


def check_layers(params: PatchCore, extractor: FeatureExtractor, size: int) -> int:
    """Width of a patch feature at inputs of ``size`` pixels. UserError: no such layer."""
    shapes = extractor.shapes(size)
    if max(params.layers) >= len(shapes):
        raise UserError(
            f"patchcore.layers is {params.layers}, but the backbone has layers 0 to"
            f" {len(shapes) - 1} (backbone.out_indices)"
        )
    return sum(shapes[layer][0] for layer in params.layers)


def _rows(patches: Iterable[torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
    """The rows ``chosen`` (ascending indices) of all patches, computed image by image."""
    rows, first = [], 0
    for features in patches:
        low, high = torch.searchsorted(chosen, torch.tensor([first, first + len(features)]))
        rows.append(features[(chosen[low:high] - first).to(features.device)])
        first += len(features)
    return torch.cat(rows)


def _normal_distances(
    features: PatchFeatures, images: torch.Tensor, memory: Memory, origin: torch.Tensor
) -> tuple[float, float]:
    """Median and ``PERCENTILE`` of the maps of normal images, from rows of other images.

    ``origin`` int64 ``[M]``: the image of each row. Compared with its own patches, an image in the
    memory would look more normal than any new one.
    """
    places = torch.linspace(0, len(images) - 1, min(HELD_OUT, len(images))).round().long()
    side = images.shape[-1]
    maps = []
    for place in places.tolist():
        queries = features(images[place, None])
        own = (origin == place).to(queries.device)
        without = own if own.any() and not own.all() else None
        distances, _ = memory.nearest(queries[0].flatten(0, 1), without=without)
        grid = distances.view(queries.shape[:3])
        maps.append(distance_maps(grid, side, features.params.smoothing))
    found = np.percentile(torch.cat(maps).numpy(), (50, PERCENTILE))
    return float(found[0]), float(found[1])


@dataclass(frozen=True)
class PatchCoreDetector(AnomalyDetector):
    """Backbone and memory of one category."""

    method: ClassVar[str] = "patchcore"

    extractor: FeatureExtractor
    memory: Memory
    params: PatchCore
    image_size: int
    typical: float  # median distance of the pixels of normal training images
    limit: float  # distance that 99.5 % of those pixels stay below
    info: ModelInfo = field(default_factory=ModelInfo)

    @property
    def threshold(self) -> float:
        return self.limit

    @property
    def heat(self) -> tuple[float, float]:
        """From the typical distance to a third past the threshold."""
        return self.typical, self.typical + (self.limit - self.typical) * 4 / 3

    @torch.no_grad()
    def forward(
        self, images: torch.Tensor, features: PatchFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps float32 ``[B, S, S]`` (CPU) and scores float32 ``[B]`` of one batch."""
        patches = features(images)
        queries = patches.flatten(1, 2)
        # Image by image, so that the shape of a search does not depend on the batch size.
        found = [self.memory.nearest(one) for one in queries]
        distances, places = (torch.stack(both).squeeze(2) for both in zip(*found, strict=True))
        scores = self.memory.image_scores(queries, distances, places, self.params.neighbours)
        grid = distances.view(patches.shape[:3])
        return distance_maps(grid, self.image_size, self.params.smoothing), scores

    def predict(
        self, images: torch.Tensor, runtime: Runtime, batch_size: int, pool: int = 1
    ) -> Prediction:
        """Maps of distances, and image scores (:meth:`Memory.image_scores`).

        Both have no upper end and are comparable within one model only. ``pool`` is RealNet's and
        is ignored.
        """
        features = PatchFeatures(self.extractor, self.params, runtime)
        found = [self.forward(part, features) for part in images.split(batch_size)]
        maps, scores = zip(*found, strict=True)
        return Prediction(
            torch.cat(maps), torch.cat([score.double().cpu() for score in scores]).numpy()
        )

    def maps(self, margins: torch.Tensor) -> torch.Tensor:
        """The distances themselves."""
        return margins


def load_patchcore(folder: Path, meta: Mapping, runtime: Runtime) -> PatchCoreDetector:
    """The detector that the stage `patchcore` wrote; ``meta`` is its ``model.json``.

    Digests of the memory and of the backbone are verified. The backbone is where ``model.json``
    says, relative to the folder, or in a folder ``backbone`` inside it. UserError: neither, or
    other bytes than the recorded ones.
    """
    if KEYS - set(meta):
        raise UserError(f"{folder}/model.json: not of this program, or of another version of it")
    path = folder / FILE
    if not path.is_file() or sha256(path) != meta["sha256"]:
        raise UserError(
            f"{path}: missing, or not the file of model.json; make it with `realnet patchcore`"
        )
    extractor = load_backbone(backbone_folder(folder, meta))
    rows = safetensors.torch.load_file(path)["memory"]
    return PatchCoreDetector(
        runtime.place(extractor),
        Memory(rows.to(runtime.device)),
        PatchCore.model_validate(meta["patchcore"]),
        meta["image_size"],
        meta["typical"],
        meta["threshold"],
        ModelInfo(meta["dataset"], meta["category"]),
    )
