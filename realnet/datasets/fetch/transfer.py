"""What download and extraction share: sizes in words, progress, room on the disk."""

import contextlib
import errno
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from realnet.core.errors import UserError


def in_words(size: float) -> str:
    """1234567 -> ``1.2 MB`` (powers of 1000, as download pages count)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


@contextlib.contextmanager
def byte_progress(
    label: str, total: int | None, done: int = 0
) -> Iterator[Callable[[int], object]]:
    """Yield a function to be called with each new byte count.

    In a terminal a bar with rate and ETA; elsewhere now and then a line: for each tenth of what
    takes long, at least once a minute.
    """
    if sys.stderr.isatty():
        with tqdm(
            total=total,
            initial=done,
            desc=label,
            unit="B",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
        ) as bar:
            yield bar.update
        return
    start = last = time.monotonic()
    have, tenth = done, 10 * done // total if total else 0

    def update(count: int) -> None:
        nonlocal have, tenth, last
        have += count
        now = time.monotonic()
        reached = 10 * have // total if total else 0
        if now - last < (5 if reached > tenth else 60):
            return
        tenth, last = reached, now
        rate = (have - done) / max(now - start, 1e-3)
        text = f"{label}: {in_words(have)}"
        if total:
            left = (total - have) / max(rate, 1.0)
            text += f" of {in_words(total)} ({100 * have // total} %)"
            text += f", {int(left // 60)} min {int(left % 60)} s left" if have < total else ""
        print(f"{text}, {in_words(rate)}/s", file=sys.stderr, flush=True)

    yield update


def require_room(folder: Path, needed: int, purpose: str) -> None:
    """UserError when the file system of ``folder`` has fewer than ``needed`` free bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {in_words(needed)} needed for {purpose}, {in_words(free)} free; make room"
            " or choose another disk with --root"
        )


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full or failing disk while writing below ``folder`` as a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{folder}: the disk is full; make room or choose another with --root"
            ) from None
        raise UserError(f"{folder}: cannot write there ({error.strerror or error})") from None
