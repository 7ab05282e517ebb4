"""What can be wrong with the user's input, as one sentence."""


class BadInput(ValueError):
    """Input that cannot be used; the message is one sentence that says what to change."""


class HostileFile(BadInput):
    """A model file that is refused because it could run code or exhaust the machine."""


class UnreadableFile(BadInput):
    """A file that is damaged or of a kind that is not supported."""


class MissingPackage(BadInput, ImportError):
    """An optional package is needed for what was asked."""


def one_line(error: BaseException, most: int = 200) -> str:
    """An error's text in one line that can be printed; its name where it has none.

    >>> one_line(ValueError("two\\nlines")), one_line(EOFError())
    ('two lines', 'EOFError')
    """
    text = " ".join(str(error).split())[:most] or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()
