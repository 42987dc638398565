"""Reading images and masks: 8-bit RGB from common camera formats, or an error with the reason."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from realnet.core.errors import UserError
from realnet.datasets.items import Entry, Item, read_manifest

if TYPE_CHECKING:  # listing and checking a dataset needs no torch
    import torch

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
# Filters of warnings belong to the whole process, and images are read in threads too.
_FILTERS = threading.Lock()
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


def read_image(path: str | Path, data: bytes | None = None) -> np.ndarray:
    """An image as uint8 ``[H, W, 3]``, RGB; decoded from ``data``, its bytes, if given.

    Rotated as its EXIF orientation says. Grey is repeated over three channels, palettes are looked
    up, 16-bit grey keeps its upper eight bits. UserError: empty, corrupt or truncated, several
    frames, floating point, or transparent pixels (their colour would be a guess).
    """
    return rgb_of(open_image(path, data), path)


def rgb_of(image: Image.Image, path: str | Path) -> np.ndarray:
    """An opened image as :func:`read_image` returns it; ``path`` is for messages."""
    if image.mode in _SIXTEEN_BIT:
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(
            f"{path}: {image.mode}-mode image (32 bits a pixel); expected 8 or 16 bits, convert it"
        )
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            raise UserError(f"{path}: has transparent pixels; flatten it onto its background")
        return np.ascontiguousarray(rgba[..., :3])
    return np.array(image.convert("RGB"))


def read_mask(
    path: str | Path, data: bytes | None = None, threshold: int | None = None
) -> np.ndarray:
    """A ground-truth mask as bool ``[H, W]``: True where any channel is above ``threshold``.

    None: above 0 or, in a JPEG, where zero does not survive compression, above 127. Alpha is
    ignored. Source: the official code compares resized masks with zero.
    """
    image = open_image(path, data)
    return mask_values(image) > mask_threshold(image, threshold)


def mask_values(image: Image.Image) -> np.ndarray:
    """The values of an opened mask ``[H, W]``: the highest of its channels, of the file's dtype."""
    if image.mode in _SIXTEEN_BIT or image.mode in ("1", "L", "I", "F"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB")).max(axis=-1)


def mask_threshold(image: Image.Image, threshold: int | None = None) -> int:
    """The value above which an opened mask marks an anomaly; ``threshold``: its dataset's rule."""
    if threshold is not None:
        return threshold
    return 127 if image.format == "JPEG" else 0


def checked(path: Path, digest: str) -> bytes:
    """The bytes of a file, checked against ``digest`` (SHA-256 in hex; "" is not checked).

    UserError: no such file, or its content has changed since its manifest was written.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such image")
    data = path.read_bytes()
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise UserError(
            f"{path}: changed or damaged since its manifest was written; put the file back, or"
            " write the manifest again (stage data)"
        )
    return data


def load_images(items: Sequence[Entry], size: int) -> torch.Tensor:
    """The items' images, resized, as uint8 ``[N, 3, size, size]``.

    Both sides become ``size`` (aspect ratio is not kept, nothing is cropped), PIL bilinear.
    UserError: a file whose digest is not its item's. (Entries have none yet.)
    """
    import torch

    images = torch.empty((len(items), 3, size, size), dtype=torch.uint8)
    for row, item in zip(images, items, strict=True):
        data = checked(item.path, getattr(item, "sha256", ""))
        image = Image.fromarray(read_image(item.path, data))
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
        row.copy_(torch.from_numpy(np.array(resized)).permute(2, 0, 1))
    return images


def load_training_images(manifests: Sequence[Path], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal training images uint8 ``[N, 3, S, S]`` of all manifests, and the manifest of each.

    The second tensor, int64 ``[N]``, is the manifest's position: the class of a joint model.
    """
    import torch

    parts = [
        load_images([item for item in read_manifest(path) if item.split == "train"], size)
        for path in manifests
    ]
    counts = torch.tensor([len(part) for part in parts])
    return torch.cat(parts), torch.arange(len(parts)).repeat_interleave(counts)


def load_masks(items: Sequence[Item], size: int) -> torch.Tensor:
    """The items' masks as bool ``[N, size, size]``, nearest neighbour; zeros for normal images.

    All zeros where no item has a mask: own data may come without. UserError: an anomalous item
    without a mask beside others that have one. A thin defect may lose all its pixels at a small
    size; the item's label says anomalous all the same.
    """
    import torch

    masks = torch.zeros((len(items), size, size), dtype=torch.bool)
    some = any(item.mask_path for item in items)
    for row, item in zip(masks, items, strict=True):
        if item.mask_path is None:
            if item.label and some:
                raise UserError(f"{item.path}: anomalous, but the manifest names no mask for it")
            continue
        data = checked(item.mask_path, getattr(item, "mask_sha256", ""))
        marked = read_mask(item.mask_path, data, getattr(item, "mask_threshold", None))
        mask = Image.fromarray(marked.astype(np.uint8) * 255)
        resized = mask.resize((size, size), Image.Resampling.NEAREST)
        row.copy_(torch.from_numpy(np.array(resized) > 0))
    return masks


def open_image(path: str | Path, data: bytes | None = None) -> Image.Image:
    """Open, decode to the last byte, rotate by EXIF orientation; ``format`` and ``info`` stay.

    ``info["turned"]`` says whether it was rotated. UserError: as :func:`read_image`.
    """
    path = Path(path)
    if data is None and not path.is_file():
        raise UserError(f"{path}: no such image")
    if (path.stat().st_size if data is None else len(data)) == 0:
        raise UserError(f"{path}: empty file (0 bytes); copy it again from its source")
    try:
        with _opened(path if data is None else BytesIO(data)) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames > 1:
                raise UserError(f"{path}: holds {frames} frames; expected a single image")
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            upright.format = opened.format
            upright.info["turned"] = opened.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be read; copy it again") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: too large to read ({error})") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow may raise any on a corrupt header
        raise UserError(f"{path}: corrupt or cut off ({error}); copy it again") from None
    return upright


def _opened(source: Path | BytesIO) -> Image.Image:
    """Open a file's header; a size beyond Pillow's limit is an error."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(source)
