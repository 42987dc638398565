"""Determinism on one type of device: settings of torch, and nondeterministic operations.

On the CPU every kernel used here adds in a fixed order. On CUDA some use atomic additions:

- Backward passes must be deterministic (:func:`backward`): torch then takes its slower forms, of
  attention (flash and memory-efficient) and of bilinear upsampling among others, and raises an
  error where there is none. With warnings only, it would keep the fast forms of attention.
- Forward passes warn. A kernel without a deterministic form is reported in the job's log and under
  ``nondeterministic`` in its ``stage.json``. Of torch's list only one was found in use,
  the mean of the cross-entropy over pixels, and is avoided
  (:func:`realnet.models.realnet.realnet_loss`).
"""

import os
import re
import warnings

import torch

_SAID = re.compile(
    r"(\S+) does not have a deterministic implementation"
    r"|(\w[\w ]*?) defaults to a non-deterministic algorithm"
    r"|this operation is not deterministic because it uses (\w+)"
)
_named: list[str] = []


def ask() -> None:
    """Deterministic kernels from here on, in this process; operations without one are collected."""
    # Without it cuBLAS may sum in another order each time. Read when CUDA starts, so not too late.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Would fill each new tensor with NaN (11 % of a training step on the CPU), to show the use of
    # uninitialised memory; results are the same.
    # (A property of the module's class, which the stubs lack.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # Always: Python shows a warning once, and torch's could have been shown before.
    warnings.filterwarnings("always", message=f".*({_SAID.pattern})")
    if not isinstance(warnings.showwarning, _Listening):
        warnings.showwarning = _Listening(warnings.showwarning)


class _Listening:
    """``warnings.showwarning`` that collects the names, and shows each once."""

    def __init__(self, show):
        self.show = show

    def __call__(self, message, *arguments, **options) -> None:
        name = kernel(str(message))
        if name in _named:
            return
        if name is not None:
            _named.append(name)
        self.show(message, *arguments, **options)


def kernel(said: str) -> str | None:
    """The operation that a warning or error of torch reports as not deterministic; else None."""
    found = _SAID.search(said)
    return next(filter(None, found.groups())) if found else None


def named() -> list[str]:
    """The operations without a deterministic form that ran in this process, by torch's names."""
    return list(_named)


def backward(loss: torch.Tensor) -> None:
    """``loss.backward()`` by deterministic kernels; torch's RuntimeError names one without."""
    torch.use_deterministic_algorithms(True)
    try:
        loss.backward()
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)
