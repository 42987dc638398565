"""`realnet predict`: score any images with a trained model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from realnet.data.images import read_image
from realnet.errors import UserError
from realnet.evaluation.inference import load_detector
from realnet.evaluation.metrics import image_score
from realnet.io import atomic, write_csv, write_png
from realnet.params import Compute
from realnet.runtime import start


def predict(
    model: Path, images: Sequence[Path], out: Path, compute: Compute, pool: int, raw: bool
) -> list[tuple[Path, float]]:
    """Write a heat map per image, ``scores.csv``, and with ``raw`` the margin map as ``.npy``.

    Each image is squashed to the model's size; the heat map comes back at the image's own size.
    Returns (path, score) per image; the score is the maximum of the pooled anomaly map, in [0, 1].
    Files are called after their image; where two share a name, after its folder too.
    """
    names = result_names(images)
    runtime = start(compute)
    detector = load_detector(model, runtime)
    rows = []
    for name, path in zip(names, images, strict=True):
        picture = Image.fromarray(read_image(path))
        side = (detector.image_size, detector.image_size)
        small = np.array(picture.resize(side, Image.Resampling.BILINEAR))
        tensor = torch.from_numpy(small).permute(2, 0, 1)[None]
        margins = detector.margins(tensor, runtime, batch_size=1).numpy()
        score = float(image_score(margins, pool)[0])
        write_png(out / f"{name}_heatmap.png", overlay(picture, margins[0]))
        if raw:
            with atomic(out / f"{name}.npy") as temporary:
                np.save(temporary, margins[0])
        rows.append({"path": path, "score": score})
    write_csv(out / "scores.csv", rows, ["path", "score"])
    return [(row["path"], row["score"]) for row in rows]


def result_names(images: Sequence[Path]) -> list[str]:
    """``001`` for a/001.png; ``a_001`` and ``b_001`` where both are given.

    Raises UserError when that is not enough to tell two results apart.
    """
    names = [path.stem for path in images]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}_{path.stem}" for path in images]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two images would both write {name}_heatmap.png; give them apart")
    return names


def overlay(picture: Image.Image, margin: np.ndarray) -> np.ndarray:
    """The image under its heat map, uint8 ``[H, W, 3]``.

    Colour is the margin from -6 (nothing) to +2 (certain), a fixed scale, so that heat maps of
    different images can be compared.
    """
    import matplotlib

    heat = Image.fromarray(((margin + 6) / 8).clip(0, 1).astype(np.float32))
    level = np.array(heat.resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    colour = matplotlib.colormaps["inferno"](level)[..., :3] * 255
    mixed = 0.5 * np.asarray(picture, np.float32) + 0.5 * colour
    return mixed.round().astype(np.uint8)
