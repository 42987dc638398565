"""Progress bars of loops that stop at signals. Imports no torch: rendering the demo dataset needs
none."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from realnet.core import stopping


def first_process() -> bool:
    """Whether this is the main process of its job; only that one prints progress."""
    together = sys.modules.get("torch.distributed")
    return together is None or not together.is_initialized() or together.get_rank() == 0


def progress(first: int, total: int, label: str) -> Iterator[tuple[int, tqdm]]:
    """Yield steps ``first .. total-1`` with a bar: live in a terminal, a few lines in a log.

    Only the main process shows it. A signal ends the loop between two steps: see
    :mod:`realnet.core.stopping`.
    """
    with stopping.gently(), progress_bar(first, total, label) as bar:
        for step in range(first, total):
            yield step, bar
            bar.update()
            if (number := stopping.due()) is not None:
                raise stopping.Stopped(number, f"after step {step + 1} of {total}")


def progress_bar(first: int, total: int, label: str, unit: str = "step") -> tqdm:
    """The bar of :func:`progress`, for loops that keep nothing and simply end at a signal."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=first,
        desc=label,
        unit=unit,
        dynamic_ncols=interactive,
        mininterval=0.5 if interactive else 20.0,
        maxinterval=5.0 if interactive else 60.0,
        ascii=not interactive,
        leave=True,
        disable=not first_process(),
    )


def in_threads(function: Callable[[Any], Any], items: Sequence[Any], label: str) -> list[Any]:
    """``function`` of each item, in order, with a bar in a terminal.

    For reading and hashing files, which release the interpreter's lock.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(function, items)
        return list(tqdm(found, total=len(items), desc=label, disable=not sys.stderr.isatty()))
