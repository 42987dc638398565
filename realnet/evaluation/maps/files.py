"""Readers of one array from one file: stacks, single maps and masks, in common formats."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from realnet.core.errors import UserError
from realnet.datasets.images import read_mask

STACKS = (".npy", ".npz")
MAPS = (".tiff", ".tif", ".npy", ".png")
MASKS = (".png", ".tiff", ".tif", ".bmp", ".npy")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, or {"": array} of an .npy, which is memory-mapped.

    UserError: no such file, not a NumPy file, pickled objects.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        # Pickled objects and empty arrays cannot be mapped; objects are refused in any case.
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except Exception as error:  # any parser error, of a header, an archive or its compression
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a NumPy file of numbers ({reason[:200]})") from None
    if path.suffix != ".npz":
        raise UserError(f"{path}: holds several arrays; expected one, saved with numpy.save")
    return arrays


def named_array(given: Path) -> tuple[Path, str]:
    """``FILE.npz:key`` -> the file and the key, "" where there is none."""
    file, colon, key = str(given).rpartition(":")
    if colon and file.endswith(".npz") and not given.exists():
        return Path(file), key
    return given, ""


def read_array(given: Path) -> np.ndarray:
    """The array of ``FILE.npy``, of ``FILE.npz`` with a single one, or of ``FILE.npz:key``.

    UserError: as :func:`read_arrays`; another extension; several arrays and no key; no such key.
    """
    path, key = named_array(given)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.suffix not in STACKS:
        raise UserError(
            f"{path}: unknown type of file; expected .npy, .npz, or a folder of"
            f" {', '.join(MAPS)} files"
        )
    arrays = read_arrays(path)
    if not key and len(arrays) == 1:
        return next(iter(arrays.values()))
    if key not in arrays:
        has = ", ".join(arrays) or "none"
        wanted = f"no array {key}" if key else f"{len(arrays)} arrays"
        raise UserError(f"{path}: has {wanted}; name one of those in it ({has}), as {path}:NAME")
    return arrays[key]


def stack(given: Path, values: np.ndarray) -> np.ndarray:
    """``values`` as [N, H, W]; a channel axis of length 1 is dropped. UserError: dtype, shape."""
    check_real(given, values)
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    elif values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or 0 in values.shape:
        raise UserError(
            f"{given}: shape {values.shape}; expected images x height x width"
            + (", for a single image too: array[None]" if values.ndim == 2 else "")
        )
    return values


def read_map(path: Path) -> np.ndarray:
    """An anomaly map [H, W] in the dtype of its file. UserError: not one channel of numbers."""
    values = _numpy(path) if path.suffix.lower() == ".npy" else _image(path)
    check_real(path, values)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or 0 in values.shape:
        picture = " (a colour picture of a map has no scores)" if values.ndim == 3 else ""
        raise UserError(f"{path}: shape {values.shape}; expected height x width{picture}")
    return values


def read_truth(path: Path) -> np.ndarray:
    """A mask, bool [H, W]: True where above 0, in any channel but alpha. UserError: as above."""
    if path.suffix.lower() != ".npy":
        return read_mask(path)
    values = _numpy(path)
    check_real(path, values)
    values = values.squeeze() if values.ndim == 3 else values
    if values.ndim != 2:
        raise UserError(f"{path}: shape {values.shape}; expected height x width")
    return values > 0


def check_real(path: Path | str, values: np.ndarray) -> None:
    if values.dtype.kind not in "fiub":
        raise UserError(f"{path}: dtype {values.dtype}; expected real numbers")


def _numpy(path: Path) -> np.ndarray:
    arrays = read_arrays(path)
    return np.asarray(next(iter(arrays.values())))


def _image(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    tiff = path.suffix.lower() in (".tif", ".tiff")
    with _silent_opencv():
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        pages = cv2.imcount(str(path)) if tiff and values is not None else 1
    if values is None and tiff:
        values = _half_float_tiff(path)
    if values is None:
        raise UserError(f"{path}: not a readable image; is it corrupt?")
    if pages > 1:
        raise UserError(f"{path}: holds {pages} pages; expected one map")
    return values


def _half_float_tiff(path: Path) -> np.ndarray | None:
    """A float16 TIFF without compression, which OpenCV and Pillow refuse; None: it is not one."""
    try:
        with path.open("rb") as source:
            header = source.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            source.seek(tags.next)
            tags.load(source)
            kind = [tags.get(key, (1,)) for key in (258, 339, 277, 259)]
            if [v[0] if isinstance(v, tuple) else v for v in kind] != [16, 3, 1, 1]:
                return None
            width, height = tags[256], tags[257]
            parts = []
            for offset, length in zip(tags[273], tags[279], strict=True):
                source.seek(offset)
                parts.append(source.read(length))
        order = "<" if header[:2] == b"II" else ">"
        values = np.frombuffer(b"".join(parts), f"{order}f2", count=math.prod((height, width)))
        return values.reshape(height, width).astype(np.float16)
    except Exception:  # any error of a corrupt header
        return None


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """OpenCV prints read errors to stderr; its return value is enough."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour, as the stages of the benchmark do it; bool [height, width]."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)) > 0


def resize_map(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear between pixel centres (torch: align_corners=False), float; no anti-aliasing."""
    kind = np.float64 if values.dtype == np.float64 else np.float32
    return cv2.resize(values.astype(kind), (width, height), interpolation=cv2.INTER_LINEAR)
