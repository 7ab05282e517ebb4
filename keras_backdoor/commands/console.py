"""Console output of the command line: tables, error messages and exit codes."""

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
    "Interrupted; no partial file is left, and the next run reuses finished work (train: "
    "--checkpoint; methods: --workdir; study: the cache)."
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
    """Escape control characters and markup in text from an untrusted file."""
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a two-column table without a header; its text is escaped."""
    table = Table(title=safe(title), show_header=False, title_justify="left", box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(safe(name), safe(value))
    out.print(table)


def print_columns(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table with a header; its text is escaped."""
    table = Table(title=escape(title) or None, title_justify="left", box=None)
    for index, name in enumerate(header):
        table.add_column(
            escape(name),
            justify="right" if name else "left",
            no_wrap=not (index or name),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(safe, row))
    out.print(table)


@contextmanager
def one_sentence() -> Iterator[None]:
    """On an error, print one sentence on stderr and exit with code 2."""
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
        fail(f"{type(error).__name__}: {text} (set KERAS_BACKDOOR_DEBUG=1 to see the traceback).")


@contextmanager
def interruptible(clear: Callable[[], None]) -> Iterator[None]:
    """On Ctrl-C, end the process at once with one sentence on stderr and exit code 2.

    The handler does not raise an exception: a destructor would swallow it, and Python code that is
    called from TensorFlow's C++ code would crash.

    Args:
        clear: a function that removes the progress bars.
    """

    def end(*_: object) -> NoReturn:
        # The interrupted code may hold the locks of the progress bars or of the stream, so the
        # handler must not wait for them.
        cleared = threading.Thread(target=clear, daemon=True)
        cleared.start()
        cleared.join(timeout=1)
        discard()
        with suppress(OSError):
            os.write(2, f"Error: {INTERRUPTED}\n".encode())
        os._exit(ERROR)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # a shell ignores SIGINT for background jobs
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(message: str) -> None:
    """Print an error message on stderr."""
    Console(stderr=True, highlight=False).print(f"Error: {safe(message)}", soft_wrap=True)
    sys.stdout.flush()
    sys.stderr.flush()


def fail(message: str) -> NoReturn:
    """Print an error message and exit with code 2."""
    say(message)
    sys.exit(ERROR)
