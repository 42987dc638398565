"""The exception for mistakes that the user can fix."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

MOST = 1500  # characters of a message


class UserError(Exception):
    """A mistake in the user's input: a path, a key, a file, a shape.

    The message is one line: what is wrong, where, what was expected and what to do about it.
    The command line prints it without a traceback and exits with status 2. Characters that cannot
    be printed (a line break or an escape sequence in a file name) are escaped as in Python; the
    middle of a very long line is left out.
    """

    def __init__(self, message: str = ""):
        line = "".join(map(_shown, str(message)))
        super().__init__(line if len(line) <= MOST else f"{line[: MOST - 400]} ... {line[-390:]}")


def first_names(names: Sequence[str], most: int) -> str:
    """The first ``most`` names, and how many there are besides: ``a, b and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def as_user_error(*kinds: type[Exception]) -> Iterator[None]:
    """Turn a library's errors of these kinds into a UserError with the same message."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from error


def _shown(character: str) -> str:
    printable = character.isprintable()
    return character if printable else character.encode("unicode_escape").decode("ascii")
