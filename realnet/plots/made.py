"""What each module of a figure returns: a figure with title and caption, or why it is missing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from realnet.core.errors import UserError
from realnet.plots import style


@dataclass(frozen=True)
class Drawn:
    """A figure; ``caption``: what is shown, the sample size, and what the whiskers are."""

    name: str  # of its files, without suffix
    title: str
    caption: str
    figure: Figure
    dataset: str | None = None
    dpi: int = style.DPI


@dataclass(frozen=True)
class Skipped:
    """A figure without data."""

    name: str
    title: str
    reason: str
    dataset: str | None = None


Entry = Drawn | Skipped


def paged(name: str, page: int) -> str:
    """The file name of a page: the first page has no number."""
    return name if page == 0 else f"{name}_{page + 1}"


def part_of(page: int, pages: int) -> str:
    """The page number for the end of a title; empty if there is one page."""
    return "" if pages == 1 else f" ({page + 1} of {pages})"


def arrays(path: Path, *wanted: str) -> dict[str, np.ndarray] | None:
    """The arrays of an npz file, all or those wanted; None if the file does not exist.

    Raises:
        UserError: a corrupt file, or one without these arrays.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in (wanted or file.files)}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: corrupt, or written by another version ({error}); run its stage again"
        ) from None


def counted(number: int, thing: str, things: str | None = None) -> str:
    """``1 category``, ``3 categories``."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"
