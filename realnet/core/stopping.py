"""Graceful shutdown: at SIGTERM (a cluster's pre-emption), at Ctrl-C, or with the workflow.

Within :func:`realnet.core.progress.progress` a first signal is only noted: the loop finishes and
saves its step, then :class:`Stopped` ends the process. Outside, and at a second signal, the process
ends at once.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator

# The process that started this stage, as workflow/rules/common.smk sets it.
PARENT = "REALNET_PARENT"


class Stopped(BaseException):
    """Stopped by a signal; a BaseException, so that no handler of errors swallows it."""

    def __init__(self, number: int, place: str = ""):
        self.number = number
        where = f" {place}" if place else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{where}; run again to resume")


class _State:
    gentle = False
    asked: int | None = None  # the signal, of this process or of another one of the training
    signalled = False  # whether this process itself has received one
    postponed = False  # whether the current step was declared not to be the last one


def listen() -> None:
    """Handle SIGTERM and SIGINT from now on, and stop when the process in ``PARENT`` ends.

    A `snakemake` that is killed leaves its jobs running, which would hold the locks that the next
    `snakemake` needs. Main thread only.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _answer)
    parent = os.environ.get(PARENT, "")
    if parent.isdecimal() and hasattr(os, "pidfd_open"):
        # No such process: it runs on another machine or in another container.
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(int(parent))
            threading.Thread(target=_end_with, args=(handle,), daemon=True).start()


def _end_with(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def _answer(number: int, _: object) -> None:
    if _State.gentle and not _State.signalled:
        _State.signalled = True
        ask(number)
        return
    raise Stopped(number)


@contextlib.contextmanager
def gently() -> Iterator[None]:
    """Within, a first signal is only noted; :func:`asked` returns it."""
    _State.gentle, _State.postponed = True, False
    try:
        yield
    finally:
        _State.gentle = False


def asked() -> int | None:
    """The signal that this process has been asked to stop by, if any."""
    return _State.asked


def postpone() -> None:
    """Continue after the current step: a signal that arrives from now on ends the next one.

    Whether a step is the last is decided once, before its checkpoint, and with several processes by
    all together. A later signal must not end the loop without the checkpoint, or one process alone.
    """
    _State.postponed = True


def due() -> int | None:
    """The signal that ends the loop after the current step, if any."""
    postponed, _State.postponed = _State.postponed, False
    return None if postponed else _State.asked


def ask(number: int = signal.SIGTERM) -> None:
    """Set the stop request, for a process that learns of the signal from another one."""
    _State.asked = _State.asked or number


def forget() -> None:
    """Clear the stop request."""
    _State.asked, _State.signalled, _State.postponed = None, False, False
