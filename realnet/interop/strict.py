"""Strict comparison of a foreign checkpoint's keys and shapes with the expected ones."""

from collections.abc import Mapping

import torch

from realnet.core.errors import UserError


def compare_keys(
    state: Mapping[str, torch.Tensor],
    expected: Mapping[str, tuple[int, ...]],
    where: str,
    kind: str,
) -> None:
    """UserError: a key of ``expected`` (key -> shape) is missing, unexpected or of another shape.

    ``where``: the file; ``kind``: what it should have been, for the message.
    """
    problems = [f"misses {key}" for key in expected if key not in state]
    problems += [f"has an unknown key {key}" for key in state if key not in expected]
    problems += [
        f"{key} has shape {list(state[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != tuple(shape)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{where}: {problems[0]}{more}; expected {kind}")
