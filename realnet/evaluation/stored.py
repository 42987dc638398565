"""Files of an evaluation that hold arrays: the statistics of intervals, and curves."""

import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from realnet.core.errors import UserError
from realnet.core.io import atomic
from realnet.metrics import PerImage
from realnet.metrics.curves import Curve


def save_per_image(path: str | Path, stats: PerImage) -> None:
    """Write a compressed .npz, about 100 KB for a hundred images."""
    save_arrays(path, {f.name: np.asarray(getattr(stats, f.name)) for f in fields(stats)})


def load_per_image(path: str | Path) -> PerImage:
    """Read what :func:`save_per_image` wrote. UserError: no such file, or another kind of file."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {field.name: stored[field.name] for field in fields(PerImage)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no statistics of images ({error}); evaluate again") from None
    return PerImage(**arrays | {"pro_limit": float(arrays["pro_limit"])})


def pixel_labelled(stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which images of a scores.npz have a pixel ground truth, bool [N]; all, if it does not say."""
    if "pixel_labelled" in stored:
        return stored["pixel_labelled"]
    return np.ones(len(stored["labels"]), bool)


def save_curves(path: Path, curves: Mapping[str, Curve]) -> None:
    """Write an .npz with ``<curve>_x`` and ``<curve>_y``, float64; undefined curves are empty."""
    flat = {
        f"{name}_{axis}": values
        for name, curve in curves.items()
        for axis, values in zip("xy", curve, strict=True)
    }
    save_arrays(path, flat)


def save_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed .npz of arrays by name.

    The values are Any: by its stub, NumPy could take an array of a mapping for `allow_pickle`.
    """
    with atomic(path) as temporary, temporary.open("wb") as target:
        np.savez_compressed(target, **arrays)
