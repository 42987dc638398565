"""An end in good order: by SIGTERM (a cluster's pre-emption), Ctrl-C, or with the workflow.

Within :func:`realnet.core.progress.progress` a signal is only noted. The loop ends its step
and saves it, if it saves at all; then :class:`Stopped` ends the process. Outside, and at the second
signal, the end comes at once.
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
    """Asked to stop by ``signal``; no Exception, so that no handler of errors swallows it."""

    def __init__(self, number: int, place: str = ""):
        self.number = number
        where = f" {place}" if place else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{where}; run again to go on")


class _State:
    gentle = False
    asked: int | None = None


def listen() -> None:
    """Answer SIGTERM and SIGINT from now on, and end when the process in ``PARENT`` does.

    A `snakemake` that is killed leaves its jobs running; they would train on unseen, and hold the
    lock of the result that the next `snakemake` wants. Main thread only.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _answer)
    parent = os.environ.get(PARENT, "")
    if parent.isdecimal() and hasattr(os, "pidfd_open"):
        # Not there: on another machine, or in another container.
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(int(parent))
            threading.Thread(target=_end_with, args=(handle,), daemon=True).start()


def _end_with(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def _answer(number: int, _: object) -> None:
    if _State.gentle and _State.asked is None:
        _State.asked = number
        return
    raise Stopped(number)


@contextlib.contextmanager
def gently() -> Iterator[None]:
    """A first signal within is noted, and :func:`asked` tells of it."""
    _State.gentle = True
    try:
        yield
    finally:
        _State.gentle = False


def asked() -> int | None:
    """The signal that this process has been asked to stop by, if any."""
    return _State.asked


def ask(number: int = signal.SIGTERM) -> None:
    """As the signal would: for a process that hears of it from another one."""
    _State.asked = _State.asked or number


def forget() -> None:
    """Take the question back."""
    _State.asked = None
