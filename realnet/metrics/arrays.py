"""What the metrics accept: NumPy and torch arrays of real numbers, checked."""

import warnings
from typing import Any

import numpy as np

from realnet.core.errors import UserError


class UndefinedMetricWarning(UserWarning):
    """A metric is NaN because the data do not define it."""


def undefined(names: str, missing: str) -> None:
    """Warn that the metrics ``names`` are NaN, since there is no ``missing``."""
    warnings.warn(f"{names}: undefined, no {missing}", UndefinedMetricWarning, stacklevel=4)


def on_device(values: Any) -> bool:
    """Whether this is a torch tensor on a GPU, where it is better counted than copied."""
    return hasattr(values, "detach") and values.device.type != "cpu"


def array(values: Any) -> np.ndarray:
    """NumPy array of a NumPy-like or torch (any device) input, in a dtype that sorts exactly."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    result = np.asarray(values)
    if result.dtype.kind not in "fiub":
        raise UserError(f"scores and masks must be real numbers, found dtype {result.dtype}")
    if result.dtype == np.float16:
        return result.astype(np.float32)
    return result.view(np.uint8) if result.dtype == bool else result


def maps(values: Any, name: str = "scores") -> np.ndarray:
    """``[N, H, W]``, none of them 0. UserError: another shape."""
    result = array(values)
    if result.ndim != 3 or 0 in result.shape:
        raise UserError(f"{name}: expected images x height x width, found shape {result.shape}")
    return result


def binary(masks: Any) -> np.ndarray:
    """bool ``[N, H, W]``, contiguous: where the mask is above 0. UserError: shape, NaN."""
    values = maps(masks, "masks")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError("masks contain NaN")
    if str(getattr(masks, "dtype", "")) in ("bool", "torch.bool"):
        return np.ascontiguousarray(values).view(bool)  # no copy
    return np.ascontiguousarray(values > 0)


def same_shape(margins: Any, shape: tuple[int, ...]) -> None:
    """UserError: ``margins`` have not the ``shape`` of the masks."""
    if tuple(margins.shape) != shape:
        raise UserError(
            f"scores have shape {tuple(margins.shape)}, masks {shape}: resize one to the"
            " other first"
        )


def is_limit(limit: float, name: str = "pro_limit") -> None:
    if not 0 < limit <= 1:
        raise UserError(f"{name} is {limit}, expected a false positive rate in (0, 1]")


def no_nan(ascending: np.ndarray, name: str) -> None:
    """NaN sorts last, so looking at the end of a sorted array is enough."""
    if len(ascending) and ascending.dtype.kind == "f" and np.isnan(ascending[-1]):
        raise UserError(f"{name} contain NaN: the model diverged, or the file is damaged")
