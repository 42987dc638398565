"""Sources of anomalies: pools of images P to blend in, and the augmentations of DTD."""

from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

from realnet.core.errors import UserError
from realnet.core.io import read_csv, sha256
from realnet.core.seeds import numpy_generator
from realnet.datasets.images import read_image
from realnet.synthesis.textures import CLASSES, paint_image

TEXTURE_POOL = 256  # procedural textures per category
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}


def resized(image: np.ndarray, size: int) -> torch.Tensor:
    """uint8 ``[3, size, size]`` from an RGB image, bilinear."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return tensor if tensor.shape[1:] == (size, size) else TF.resize(tensor, [size, size])


def sdas_pool(folder: str | Path, size: int) -> torch.Tensor:
    """uint8 ``[N, 3, S, S]`` of the stage `sdas`; every file is checked against its manifest."""
    folder = Path(folder)
    rows = read_csv(folder / "manifest.csv")
    if not rows:
        raise UserError(f"{folder / 'manifest.csv'}: lists no image; run the stage sdas again")
    images = []
    for row in rows:
        path = folder / row["path"]
        if not path.is_file() or sha256(path) != row["sha256"]:
            raise UserError(f"{path}: missing, or changed since it was sampled; run sdas again")
        images.append(resized(read_image(path), size))
    return torch.stack(images)


def texture_pool(seed: int, dataset: str, category: str, size: int) -> torch.Tensor:
    """Procedural textures, uint8 ``[256, 3, S, S]``: the demo's stand-in for DTD."""
    pictures = []
    for index in range(TEXTURE_POOL):
        rng = numpy_generator(seed, "texture", dataset, category, index)
        pictures.append(paint_image(rng, CLASSES[index % len(CLASSES)], size))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def dtd_pool(root: str, size: int) -> torch.Tensor:
    """Every image under ``<root>/images/*/``, sorted by name, uint8 ``[N, 3, S, S]``."""
    folder = Path(root) / "images"
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(
            f"synthesis.dtd_root: no images under {folder}/<texture>/; extract the Describable"
            " Textures Dataset there"
        )
    return torch.stack([resized(read_image(path), size) for path in files])


def _hue_saturation(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    turned = TF.adjust_hue(image, (u[0] - 0.5) * 2 * 50 / 255)
    return TF.adjust_saturation(turned, 1 + (u[1] - 0.5) * 2 * 50 / 128)


def _gamma(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    planes = [TF.adjust_gamma(c[None], 0.5 + 1.5 * g) for c, g in zip(image, u, strict=True)]
    return torch.cat(planes)


def _brightness(image: torch.Tensor, u: list[float]) -> torch.Tensor:
    changed = image.float() * (0.8 + 0.4 * u[0]) + (u[1] - 0.5) * 60
    return changed.round().clamp(0, 255).to(torch.uint8)


# The official ten operations on DTD textures (there with imgaug, which no longer runs), by
# their published ranges; each takes uint8 [3, S, S] and three uniform numbers.
AUGMENTATIONS = (
    _gamma,
    _brightness,
    lambda image, u: TF.adjust_sharpness(image, 0.5 + 1.5 * u[0]),
    _hue_saturation,
    lambda image, u: TF.solarize(image, 32 + 96 * u[1]) if u[0] < 0.5 else image,
    lambda image, u: TF.posterize(image, 4 + int(4 * u[0])),
    lambda image, _: TF.invert(image),
    lambda image, _: TF.autocontrast(image),
    lambda image, _: TF.equalize(image),
    lambda image, u: TF.rotate(image, (u[0] - 0.5) * 90),
)


def augment_texture(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Three of the ten operations, without replacement, in random order."""
    chosen = torch.randperm(len(AUGMENTATIONS), generator=generator)[:3].tolist()
    for index in chosen:
        image = AUGMENTATIONS[index](image, torch.rand(3, generator=generator).tolist())
    return image
