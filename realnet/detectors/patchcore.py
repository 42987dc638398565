"""Stage `patchcore`: remember what normal patches look like (PatchCore, Roth et al., CVPR 2022).

Nothing is trained. Patch features of the frozen backbone are collected from the normal images, a
coreset of them is the memory, and a test patch is as anomalous as it is far from the memory.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch

from realnet.compute.runtime import Runtime, start
from realnet.config.sections import PatchCore
from realnet.core.errors import UserError
from realnet.core.io import read_json, save_weights, sha256, write_json
from realnet.core.seeds import derive, torch_generator
from realnet.datasets.images import load_images
from realnet.datasets.items import read_manifest
from realnet.detectors.patch_memory import (
    Memory,
    distance_maps,
    greedy_coreset,
    patch_features,
    random_projection,
)
from realnet.models.features import FeatureExtractor, backbone_folder, load_backbone
from realnet.provenance.record import Record

FILE = "memory.safetensors"
KEYS = {"dataset", "category", "image_size", "backbone", "patchcore", "sha256"}
KEYS |= {"threshold", "typical"}
HELD_OUT = 64  # training images, evenly spaced, that show how far normal patches are
PERCENTILE = 99.5  # of their pixels' distances: the threshold


def fit_patchcore(
    stage: Any, manifest: Path, backbone: Path, dataset: str, category: str, seed: int, out: Path
) -> None:
    """Write ``memory.safetensors`` (``memory`` float32 ``[M, D]``) and ``model.json``.

    The images are passed through the backbone twice, so that only the projected features and the
    chosen ones are ever held: 4 N projection + 4 M D bytes for N patches.

    ``threshold``, of the map's distances, is the 99.5th percentile over the pixels of normal
    training images, each compared with what the memory has of the other images (ours; the paper
    leaves it open). It only draws contours and scales colours: no metric uses it.
    UserError: no such layer, or no training images.
    """
    runtime = start(stage.compute)
    params: PatchCore = stage.patchcore
    inputs = {"manifest": manifest, "backbone": backbone / "backbone.json"}
    record = Record(
        "patchcore", stage.model_dump(), inputs, dataset=dataset, category=category, seed=seed
    )
    size, names = stage.data.image_size, ("patchcore", dataset, category)
    extractor = runtime.place(load_backbone(backbone))
    width = check_layers(params, extractor, size)
    images = load_images([item for item in read_manifest(manifest) if item.split == "train"], size)
    if not len(images):
        raise UserError(f"{manifest}: no training images, so nothing to remember")

    narrow = params.projection is not None and params.projection < width
    draw = torch_generator(seed, *names, "projection")
    matrix = random_projection(width, params.projection, draw) if narrow else torch.eye(width)
    matrix = matrix.to(runtime.device)
    projected = torch.cat(
        [part @ matrix for part in _patches(extractor, params, images, runtime)],
    )
    count = max(1, int(len(projected) * params.coreset_fraction))
    first = derive(seed, *names, "first") % len(projected)
    chosen, radius = greedy_coreset(projected, count, first)
    patches = len(projected)
    del projected
    # Of a memory in the images' order, neighbours lie together, and equal sets are equal files.
    chosen = chosen.sort().values.cpu()
    rows = _rows(_patches(extractor, params, images, runtime), chosen)
    each = patches // len(images)  # patches of an image
    typical, threshold = _normal_distances(
        extractor, params, images, Memory(rows), chosen // each, runtime
    )
    digest = save_weights(out / FILE, {"memory": rows})
    facts = {"patches": patches, "rows": len(rows), "width": width, "radius": radius}
    write_json(
        out / "model.json",
        {
            "method": "patchcore",
            "dataset": dataset,
            "category": category,
            "seed": seed,
            "image_size": size,
            "patchcore": params.model_dump(),
            # Relative, so that a results folder can be moved or pulled elsewhere as a whole.
            "backbone": {
                "path": os.path.relpath(backbone, out),
                "sha256": read_json(backbone / "backbone.json")["sha256"],
            },
            "memory": facts,
            "typical": typical,
            "threshold": threshold,
            "sha256": digest,
        },
    )
    record.write(out, runtime.name, **facts)


def check_layers(params: PatchCore, extractor: FeatureExtractor, size: int) -> int:
    """Width of a patch feature at inputs of ``size`` pixels. UserError: no such layer."""
    shapes = extractor.shapes(size)
    if max(params.layers) >= len(shapes):
        raise UserError(
            f"patchcore.layers is {params.layers}, but the backbone has layers 0 to"
            f" {len(shapes) - 1} (backbone.out_indices)"
        )
    return sum(shapes[layer][0] for layer in params.layers)


@torch.no_grad()
def _patches(
    extractor: FeatureExtractor, params: PatchCore, images: torch.Tensor, runtime: Runtime
) -> Iterator[torch.Tensor]:
    """Patch features float32 ``[P, D]`` of one image after the other, uint8 ``[N, 3, S, S]``."""
    for part in images.split(params.batch_size):
        for features in _features(extractor, params, part, runtime):
            yield features.flatten(0, 1)


def _features(
    extractor: FeatureExtractor, params: PatchCore, images: torch.Tensor, runtime: Runtime
) -> torch.Tensor:
    with runtime.autocast():
        maps = extractor(images.to(runtime.device).float() / 255)
    return patch_features(maps, params.layers, params.neighbourhood)


def _rows(patches: Iterable[torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
    """The chosen of all patches (ascending indices), the patches coming image by image."""
    rows, first = [], 0
    for features in patches:
        low, high = torch.searchsorted(chosen, torch.tensor([first, first + len(features)]))
        rows.append(features[(chosen[low:high] - first).to(features.device)])
        first += len(features)
    return torch.cat(rows)


def _normal_distances(
    extractor: FeatureExtractor,
    params: PatchCore,
    images: torch.Tensor,
    memory: Memory,
    origin: torch.Tensor,
    runtime: Runtime,
) -> tuple[float, float]:
    """Median and ``PERCENTILE`` of the maps of normal images, by what other images left behind.

    ``origin`` int64 ``[M]``: the image of each row. Compared with its own patches, an image that
    is remembered would look more normal than any new one.
    """
    places = torch.linspace(0, len(images) - 1, min(HELD_OUT, len(images))).round().long()
    side = images.shape[-1]
    maps = []
    for place in places.tolist():
        features = _features(extractor, params, images[place, None], runtime)
        own = (origin == place).to(features.device)
        without = own if own.any() and not own.all() else None
        distances, _ = memory.nearest(features[0].flatten(0, 1), without=without)
        maps.append(distance_maps(distances.view(features.shape[:3]), side, params.smoothing))
    found = np.percentile(torch.cat(maps).numpy(), (50, PERCENTILE))
    return float(found[0]), float(found[1])


@dataclass(frozen=True)
class PatchCoreDetector:
    """Backbone and memory of one category."""

    extractor: FeatureExtractor
    memory: Memory
    params: PatchCore
    image_size: int
    meta: dict
    method: ClassVar[str] = "patchcore"

    @property
    def threshold(self) -> float:
        """Distance that 99.5 % of the pixels of normal training images stay below."""
        return self.meta["threshold"]

    @property
    def heat(self) -> tuple[float, float]:
        """Ends of a colour scale: the usual distance, and a third past the threshold."""
        low, threshold = self.meta["typical"], self.threshold
        return low, low + (threshold - low) * 4 / 3

    @torch.no_grad()
    def detect(
        self, images: torch.Tensor, runtime: Runtime, batch_size: int, pool: int | None = None
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Maps of distances float32 ``[N, S, S]`` (CPU) and image scores float64 ``[N]``.

        images: uint8 ``[N, 3, S, S]``. Both have no upper end and are comparable within one model
        only. ``pool`` is RealNet's and does nothing: the score is that of
        :meth:`Memory.image_scores`.
        """
        maps, scores = [], []
        for part in images.split(batch_size):
            features = _features(self.extractor, self.params, part, runtime)
            queries = features.flatten(1, 2)
            # Image by image: searches of one shape, whatever the batches.
            found = [self.memory.nearest(one) for one in queries]
            distances, places = (torch.stack(both).squeeze(2) for both in zip(*found, strict=True))
            score = self.memory.image_scores(queries, distances, places, self.params.neighbours)
            grid = distances.view(features.shape[:3])
            maps.append(distance_maps(grid, self.image_size, self.params.smoothing))
            scores.append(score.double().cpu())
        return torch.cat(maps), torch.cat(scores).numpy()

    def margins(self, images: torch.Tensor, runtime: Runtime, batch_size: int) -> torch.Tensor:
        """The maps of :meth:`detect`: distances, no logits."""
        return self.detect(images, runtime, batch_size)[0]

    def maps(self, margins: torch.Tensor) -> torch.Tensor:
        """Anomaly maps as the method defines them: the distances."""
        return margins


def load_patchcore(folder: Path, meta: dict, runtime: Runtime) -> PatchCoreDetector:
    """What the stage `patchcore` wrote; ``meta`` is its ``model.json``.

    Digests of the memory and of the backbone are verified. The backbone lies where ``model.json``
    says, relative to the folder, or else in a folder ``backbone`` inside it. UserError: neither,
    or other bytes than the recorded ones.
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
        meta,
    )
