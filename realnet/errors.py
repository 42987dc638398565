"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in what the user gave us: a path, a key, a file, a shape.

    The message is one line: what is wrong, where, what was expected and what to do about it.
    The command line prints it without a traceback and exits with status 2.
    """
