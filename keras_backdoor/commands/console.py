"""What the command line prints, and how it ends: tables, one sentence for an error, exit codes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_backdoor._safe.temporary import discard
from keras_backdoor.errors import BadInput

NOTHING, FOUND, ERROR, INCONCLUSIVE = 0, 1, 2, 3
INTERRUPTED = (
    "Interrupted; no half-written file is left, and what was finished is used next time "
    "(train: --checkpoint; methods: --workdir; study: its cache)."
)
EXIT = {
    "nothing": NOTHING,
    "repaired": NOTHING,
    "explained": NOTHING,
    "found": FOUND,
    "inconclusive": INCONCLUSIVE,
}
out = Console(highlight=False)


def safe(text: str) -> str:
    """Text that may come from a stranger's file: control characters and markup made visible."""
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """A two-column table; text that comes from files is escaped."""
    table = Table(title=safe(title), show_header=False, title_justify="left", box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(safe(name), safe(value))
    out.print(table)


def print_columns(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table with a header."""
    table = Table(title=escape(title) or None, title_justify="left", box=None)
    for place, name in enumerate(header):
        table.add_column(
            escape(name),
            justify="right" if name else "left",
            no_wrap=not (place or name),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(safe, row))
    out.print(table)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Errors of the user's input end the program with one sentence on stderr and exit code 2."""
    try:
        yield
    except BadInput as error:
        fail(str(error))
    except BrokenPipeError:
        sys.exit(ERROR)
    except MemoryError:
        fail("Not enough memory: use fewer images (--take) or a smaller model.")
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or ''}")
    except Exception as error:
        if hasattr(error, "show"):
            error.show()
            sys.exit(ERROR)
        if os.environ.get("KERAS_BACKDOOR_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        fail(f"{type(error).__name__}: {text} (KERAS_BACKDOOR_DEBUG=1 shows where).")


@contextmanager
def interruptible(clear: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C ends the program where it is, with one sentence on stderr and exit code 2.

    An exception would be raised wherever the signal happens to arrive: in a destructor, which
    swallows it, or in Python that TensorFlow's C++ called, which crashes on it.

    Args:
        clear: takes the progress bars away.
    """

    def end(*_: object) -> NoReturn:
        # What was interrupted may hold the locks of the bars or of the stream: nobody waits for
        # either.
        cleared = threading.Thread(target=clear, daemon=True)
        cleared.start()
        cleared.join(timeout=1)
        discard()
        with suppress(OSError):
            os.write(2, f"Error: {INTERRUPTED}\n".encode())
        os._exit(ERROR)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # a shell has it ignored in the background
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(message: str) -> None:
    """One sentence on stderr."""
    Console(stderr=True, highlight=False).print(f"Error: {safe(message)}", soft_wrap=True)
    sys.stdout.flush()
    sys.stderr.flush()


def fail(message: str) -> NoReturn:
    """Say what is wrong and stop."""
    say(message)
    sys.exit(ERROR)
