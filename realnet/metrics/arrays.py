"""Validation of the inputs: NumPy and torch arrays of real numbers."""

import warnings
from typing import Any

import numpy as np


class MetricInputError(ValueError):
    """An array or option that a metric cannot be computed from. The message is one line."""


class UndefinedMetricWarning(UserWarning):
    """A metric is NaN because the data does not define it."""


def undefined(names: str, missing: str) -> None:
    """Warn that the metrics ``names`` are NaN because there are no ``missing``."""
    warnings.warn(f"{names}: undefined, no {missing}", UndefinedMetricWarning, stacklevel=4)


def on_device(values: Any) -> bool:
    """Whether ``values`` is a torch tensor on a GPU, where counting is cheaper than copying."""
    return hasattr(values, "detach") and values.device.type != "cpu"


def array(values: Any) -> np.ndarray:
    """Convert an array-like or a torch tensor (any device) to a NumPy array that sorts exactly.

    float16 and bfloat16 become float32, bool becomes uint8; other dtypes stay.
    Raises ValueError for a dtype that is not real.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    result = np.asarray(values)
    if result.dtype.kind not in "fiub":
        raise MetricInputError(f"scores and masks must be real numbers, found dtype {result.dtype}")
    if result.dtype == np.float16:
        return result.astype(np.float32)
    return result.view(np.uint8) if result.dtype == bool else result


def maps(values: Any, name: str = "scores") -> np.ndarray:
    """Convert to an array of shape (N, H, W). Raises ValueError for another or an empty shape."""
    result = array(values)
    if result.ndim != 3 or 0 in result.shape:
        raise MetricInputError(
            f"{name}: expected images x height x width, found shape {result.shape}"
        )
    return result


def binary(masks: Any) -> np.ndarray:
    """Contiguous bool array of shape (N, H, W), True where the mask is above 0.

    Raises ValueError for another shape or NaN.
    """
    values = maps(masks, "masks")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise MetricInputError("masks contain NaN")
    if str(getattr(masks, "dtype", "")) in ("bool", "torch.bool"):
        return np.ascontiguousarray(values).view(bool)  # no copy
    return np.ascontiguousarray(values > 0)


def defect_and_normal(masks: Any, pixel_labelled: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels are defects and which are normal, each a bool array of shape (N, H, W).

    Every pixel metric gets its pixels here. ``pixel_labelled`` [N]: which images have a pixel
    ground truth; the pixels of all others are neither, whatever their mask. None: all have one.
    Raises ValueError for another shape or NaN.
    """
    defect = binary(masks)
    if pixel_labelled is None:
        return defect, ~defect
    labelled = array(pixel_labelled) > 0
    if labelled.shape != defect.shape[:1]:
        raise MetricInputError(
            f"pixel_labelled: expected {len(defect)}, one per image, found {labelled.shape}"
        )
    labelled = labelled[:, None, None]
    return defect & labelled, ~defect & labelled


def same_shape(margins: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError if ``margins`` do not have the ``shape`` of the masks."""
    if tuple(margins.shape) != shape:
        raise MetricInputError(
            f"scores have shape {tuple(margins.shape)}, masks {shape}: resize one to the"
            " other first"
        )


def is_limit(limit: float, name: str = "pro_limit") -> None:
    """Raise ValueError if ``limit`` is not in (0, 1]."""
    if not 0 < limit <= 1:
        raise MetricInputError(f"{name} is {limit}, expected a false positive rate in (0, 1]")


def no_nan(ascending: np.ndarray, name: str) -> None:
    """Raise ValueError for NaN, which sorts last: the last element of a sorted array decides."""
    if len(ascending) and ascending.dtype.kind == "f" and np.isnan(ascending[-1]):
        raise MetricInputError(f"{name} contain NaN: the model diverged, or the file is corrupt")
