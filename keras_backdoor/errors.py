"""Errors in the input of the user, and warnings about it."""

import warnings


class BadInput(ValueError):
    """Invalid input; the message is one sentence that says what to change."""


class HostileFile(BadInput):
    """A file that is refused because it could run code or exhaust memory or time."""


class UnreadableFile(BadInput):
    """A file that is damaged or has an unsupported format."""


class UnsupportedFile(UnreadableFile):
    """A harmless file with a layer or operation of Keras that is not supported yet."""


class MissingPackage(BadInput, ImportError):
    """A feature needs an optional package that is not installed."""


class Doubt(UserWarning):
    """Input that is probably not what the user means; the command line prints it."""


def warn(message: str) -> None:
    """Warn about input that is probably not what the user means, in one sentence."""
    warnings.warn(message, Doubt, stacklevel=3)


def one_line(error: BaseException, most: int = 200) -> str:
    """Return the message of an error as one line of ASCII, or its type if it has no message.

    Args:
        error: the error.
        most: the largest number of characters of the message.

    >>> one_line(ValueError("two\\nlines")), one_line(EOFError())
    ('two lines', 'EOFError')
    """
    text = " ".join(str(error).split())[:most] or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()
