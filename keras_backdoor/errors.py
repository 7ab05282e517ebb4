"""Errors in the input of the user, and warnings about it."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_command_line = False
_PAIR = re.compile(r"(--[a-z](?:(?!--)[^()])*?) \((\w+=(?:[^()]|\([^()]*\))*)\)")
_NAME = re.compile(r"(\w+) \((--[\w-]+) on the command line\)")
_SETTING = re.compile(r"--set (?=\w)")
_OPTION = re.compile(r"--([a-z][\w-]*)")


@contextmanager
def on_command_line() -> Iterator[None]:
    """In this block, messages name the options of the command line instead of those of Python."""
    global _command_line
    before, _command_line = _command_line, True
    try:
        yield
    finally:
        _command_line = before


def worded(message: str) -> str:
    """Keep either the options of the command line or the arguments of Python in a message.

    A message may name both, as in `--size HxW (size=(height, width))` and
    `clean (--clean on the command line)`.

    >>> worded("pass --force (force=True) to replace it")
    'pass force=True to replace it'
    >>> worded("name a layer with --set layer=NAME, or leave out --classes")
    'name a layer with layer=NAME, or leave out classes'
    """
    if _command_line:
        return _NAME.sub(r"\2", _PAIR.sub(r"\1", message))
    message = _SETTING.sub("", _NAME.sub(r"\1", _PAIR.sub(r"\2", message)))
    return _OPTION.sub(lambda match: match[1].replace("-", "_"), message)


class BadInput(ValueError):
    """Invalid input; the message is one sentence that says what to change."""

    def __str__(self) -> str:
        return worded(super().__str__())


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
    warnings.warn(worded(message), Doubt, stacklevel=3)


_COLOR = re.compile(r"\x1b\[[0-9;]*m")
"""A sequence that changes the color of a terminal, which Keras puts into its messages."""


def one_line(error: BaseException, most: int = 200) -> str:
    """Return the message of an error as one line of ASCII, or its type if it has no message.

    Args:
        error: the error.
        most: the largest number of characters of the message.

    >>> one_line(ValueError("two\\nlines")), one_line(EOFError())
    ('two lines', 'EOFError')
    """
    text = " ".join(_COLOR.sub("", str(error)).split())[:most] or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()
