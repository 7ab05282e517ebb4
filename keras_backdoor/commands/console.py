"""Console output of the command line: tables, error messages and exit codes."""

import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_backdoor._safe.files import check_output, plain, write_json
from keras_backdoor._safe.temporary import discard
from keras_backdoor.errors import BadInput, Doubt

NOTHING, FOUND, ERROR, INCONCLUSIVE, STOPPED = 0, 1, 2, 3, 130
INTERRUPTED = (
    "Interrupted; no partial file is left, and the next run reuses finished work (check: its "
    "folder; train: --checkpoint; methods: --workdir; study: the cache)."
)
EXIT = {
    "nothing": NOTHING,
    "repaired": NOTHING,
    "explained": NOTHING,
    "found": FOUND,
    "inconclusive": INCONCLUSIVE,
}
STDOUT = Path("-")
"""The path that stands for stdout."""
WIDE = 10_000
"""Width of text that is not written to a terminal, so that no row is wrapped."""
out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def start() -> None:
    """Print tables on stdout; called before a command runs."""
    out.file = None  # type: ignore[assignment]
    out.quiet = False


def to_stderr() -> None:
    """Print tables on stderr, because stdout gets JSON."""
    out.file = sys.stderr


def prepare_json(path: Path | None, *, force: bool) -> None:
    """Check that JSON can be written to a path; with `-`, print tables on stderr from now on.

    Raises:
        BadInput: if the file cannot be written.
    """
    if path == STDOUT:
        to_stderr()
    elif path is not None:
        check_output(path, force=force, folder=False)


def write_results(path: Path | None, content: Any, *, schema: int) -> None:
    """Write results as JSON to a file, or to stdout with `-`; None writes nothing.

    Args:
        path: the file, `-` or None.
        content: JSON values.
        schema: the version of the keys, which docs/json.md describes.
    """
    if path is None:
        return
    content = {"schema": schema, **content}
    if path == STDOUT:
        sys.stdout.write(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")
    else:
        write_json(path, content)


def be_quiet() -> None:
    """Print no tables; errors and the exit code remain."""
    out.quiet = True


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
    """On Ctrl-C, end the process at once with one sentence on stderr and exit code 130.

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
        os._exit(STOPPED)

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


def warn(message: str) -> None:
    """Print a warning on stderr."""
    Console(stderr=True, highlight=False).print(f"Warning: {safe(message)}", soft_wrap=True)


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Print the warnings of this package as one sentence each; hide those of other packages."""

    def shown(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, Doubt):
            warn(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", Doubt)
        warnings.showwarning = shown
        yield


def fail(message: str) -> NoReturn:
    """Print an error message and exit with code 2."""
    say(message)
    sys.exit(ERROR)
