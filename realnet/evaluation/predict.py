"""`realnet predict`: score any images with a trained or imported model."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from realnet.compute.runtime import start
from realnet.config.sections import Compute
from realnet.core.errors import UserError, as_user_error
from realnet.core.io import atomic, write_csv, write_png
from realnet.datasets.images import read_image
from realnet.detectors.base import AnomalyDetector
from realnet.detectors.loading import load
from realnet.metrics import MetricInputError


@dataclass(frozen=True)
class Predictions:
    """The results, in the order of the images; duplicates are scored once."""

    scores: list[tuple[Path, float]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # one line per image, with the reason


@dataclass(frozen=True)
class PredictOptions:
    """How images are scored, and which maps are written beside the heat maps.

    pool: side of the averaged window in pixels; None: that of the model, else ``default_pool``.
    """

    pool: int | None = None
    default_pool: int = 16
    raw: bool = False
    margins: bool = False
    batch_size: int = 16


def predict(
    model: Path,
    images: Sequence[Path],
    out: Path,
    compute: Compute,
    options: PredictOptions | None = None,
) -> Predictions:
    """Write ``<name>_heatmap.png`` per image and ``scores.csv`` (path, score, name).

    With ``raw`` also ``<name>.npy``: the anomaly map of the paper and the official code (softmax of
    the anomalous class), float32 ``[S, S]`` in [0, 1] at the model's input size S. With ``margins``
    also ``<name>_margin.npy``: its logit, float32 ``[S, S]``, which still ranks pixels where
    the map is saturated. For a PatchCore model both are its map of distances.

    Each image is resized to S x S, ignoring its aspect ratio; the heat map has the size of the
    image. The score is the maximum of the map after averaging ``pool`` x ``pool`` windows (imported
    models have the official 16). Names: see :func:`result_names`.
    An image that cannot be read is skipped and reported. Precision ``auto`` means fp32 here, also
    on a GPU: it costs little, and bf16 is visible in a map.
    """
    options = options or PredictOptions()
    if compute.precision == "auto":
        compute = compute.model_copy(update={"precision": "fp32"})
    images = list(dict.fromkeys(images))
    names = result_names(images)
    runtime = start(compute)
    detector = load(model, runtime)
    pool = options.pool or detector.info.image_score_pool or options.default_pool
    if pool > detector.image_size:
        raise UserError(f"a window of {pool} pixels does not fit maps of {detector.image_size}")
    done, rows = Predictions(), []
    readable = _read(zip(names, images, strict=True), done.unreadable)
    while batch := list(itertools.islice(readable, options.batch_size)):
        pixels = torch.stack([_squashed(picture, detector) for _, _, picture in batch])
        with as_user_error(MetricInputError):
            found, scores = detector.predict(pixels, runtime, options.batch_size, pool)
        maps = detector.maps(found).numpy()
        for (name, path, picture), margin, level, score in zip(
            batch, found.numpy(), maps, scores, strict=True
        ):
            write_png(out / f"{name}_heatmap.png", overlay(picture, margin, detector.heat))
            if options.raw:
                _save(out / f"{name}.npy", level)
            if options.margins:
                _save(out / f"{name}_margin.npy", margin)
            done.scores.append((path, float(score)))
            rows.append({"path": path, "score": float(score), "name": name})
    write_csv(out / "scores.csv", rows, ["path", "score", "name"])
    return done


def _read(
    given: Iterator[tuple[str, Path]], unreadable: list[str]
) -> Iterator[tuple[str, Path, Image.Image]]:
    """Read the images one by one; errors are appended to ``unreadable``."""
    for name, path in given:
        try:
            if path.is_dir():
                raise UserError(f"{path}: a folder; name its image files, e.g. {path}/*.png")
            yield name, path, Image.fromarray(read_image(path))
        except UserError as error:
            unreadable.append(str(error))


def _squashed(picture: Image.Image, detector: AnomalyDetector) -> torch.Tensor:
    """uint8 ``[3, S, S]``, as the stages resize their images."""
    side = (detector.image_size, detector.image_size)
    small = picture.resize(side, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def _save(path: Path, values: np.ndarray) -> None:
    with atomic(path) as temporary:
        np.save(temporary, values)


def result_names(images: Sequence[Path]) -> list[str]:
    """A unique name for the files of each image.

    ``001`` for a/001.png; where two images share a name, all are prefixed with as many folders as
    needed (``a_001``, ``b_001``), and suffixed where even that is not unique (``a_001_jpg``).
    UserError if no such name is unique.
    """
    parts = [Path(os.path.abspath(path)).parts[1:] for path in images]
    depth = max(map(len, parts), default=0)
    for suffixed in (False, True):
        for above in range(depth):
            names = []
            for folders in parts:
                file = Path(folders[-1])
                stem = f"{file.stem}_{file.suffix[1:]}" if suffixed else file.stem
                names.append("_".join([*folders[-1 - above : -1], stem]))
            files = [f"{name}{end}" for name in names for end in (".npy", "_margin.npy")]
            if len(set(files)) == len(files):
                return names
    if not images:
        return []
    raise UserError("two images would write the same files; score them into different folders")


def overlay(picture: Image.Image, margin: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """The image under its heat map, uint8 ``[H, W, 3]``.

    The colour scale runs from ``ends[0]`` (normal) to ``ends[1]`` (certainly anomalous), the same
    for all images of a model, so that their heat maps are comparable.
    """
    import matplotlib

    low, high = ends
    heat = Image.fromarray(((margin - low) / (high - low)).clip(0, 1).astype(np.float32))
    level = np.array(heat.resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    colour = matplotlib.colormaps["inferno"](level)[..., :3] * 255
    mixed = 0.5 * np.asarray(picture, np.float32) + 0.5 * colour
    return mixed.round().astype(np.uint8)
