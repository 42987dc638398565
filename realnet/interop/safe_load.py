"""Loading of PyTorch checkpoints of other programs without executing their code.

A checkpoint is a pickle, and a pickle may call any function. `torch.load` with ``weights_only``
calls only its own; other classes of published checkpoints are replaced by inert placeholders, and
any other name is refused before loading.
"""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from realnet.core.errors import UserError


class _Settings:
    """In the place of `easydict.EasyDict`: its items, in a plain ordered mapping.

    The reader fills mappings of exactly that type only, no subclass, so that is what is made.
    """

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict:  # type: ignore[misc]  # see above
        return OrderedDict()


class _Dropped:
    """Placeholder for a numpy scalar (such as the best metric) and its dtype, without content."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Settings, "easydict.EasyDict"),
    (_Dropped, "numpy.core.multiarray.scalar"),  # numpy 1
    (_Dropped, "numpy._core.multiarray.scalar"),
    (_Dropped, "numpy.dtype"),
]


def load_checkpoint(path: str | Path) -> Any:
    """Load the object that ``torch.save`` wrote, tensors on the CPU, without executing code.

    `easydict.EasyDict` becomes an OrderedDict of its items, a numpy scalar a placeholder.
    UserError: no such file, not a checkpoint, truncated, or an object of any other kind inside.
    Large files are memory-mapped, so unused tensors cost nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a' if path.is_dir() else 'no such'} checkpoint")
    zipped = zipfile.is_zipfile(path)
    with safe_globals(_STAND_INS):
        try:
            foreign = sorted(get_unsafe_globals_in_checkpoint(path)) if zipped else []
            if foreign:
                raise _foreign(path, foreign)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except UserError:
            raise
        except Exception as error:  # any error of a parser on a damaged or malicious file
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            if named:  # files of torch < 1.6 are read, but cannot be looked through before
                raise _foreign(path, [named[1]]) from None
            raise UserError(
                f"{path}: not a PyTorch checkpoint, corrupt, or truncated; copy it again from its"
                f" source ({type(error).__name__})"
            ) from None


def _foreign(path: Path, names: list[str]) -> UserError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return UserError(
        f"{path}: refused, and nothing in it was run: it holds an object {names[0]}{more}, which"
        " weights do not need; if you trust its source, save its tensors alone"
    )
