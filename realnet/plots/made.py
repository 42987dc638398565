"""What every figure's module gives: a figure with its words, or why there is none."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.core.errors import UserError
from realnet.plots import style


@dataclass(frozen=True)
class Drawn:
    """A figure; ``caption``: sentences that say what is shown, n, and what the whiskers are."""

    name: str  # of its files
    title: str
    caption: str
    figure: Figure
    dataset: str | None = None
    dpi: int = style.DPI


@dataclass(frozen=True)
class Skipped:
    """A figure that has no data."""

    name: str
    title: str
    reason: str
    dataset: str | None = None


Entry = Drawn | Skipped


def paged(name: str, page: int) -> str:
    """The name of a figure's file: the first page has no number."""
    return name if page == 0 else f"{name}_{page + 1}"


def part_of(page: int, pages: int) -> str:
    """For the end of a title."""
    return "" if pages == 1 else f" ({page + 1} of {pages})"


def arrays(path: Path, *wanted: str) -> dict[str, np.ndarray] | None:
    """An npz file's arrays, all of them or those wanted; None where there is no such file.

    UserError: another file than expected.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in (wanted or file.files)}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a file of this version ({error}); make it again") from None


def counted(number: int, thing: str, things: str | None = None) -> str:
    """``1 category``, ``3 categories``."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"
