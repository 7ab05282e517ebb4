"""A helper process that reads an untrusted HDF5 file before the main process does.

The HDF5 library is written in C, and a damaged file can make it crash, loop forever or exhaust
memory. The helper has limited memory and time. A file that makes it crash or exceed a limit is
refused. The helper starts with the first file and runs until the main process ends.
"""

import atexit
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_backdoor._safe.h5_checks import check_tree
from keras_backdoor._safe.limits import bound_memory
from keras_backdoor.errors import BadInput, HostileFile, UnreadableFile, one_line

MEMORY = 2 * 2**30
"""Limit of the address space of the helper, in bytes."""
SECONDS, BYTES_A_SECOND = 10, 10**7
"""Time limit for a file: `SECONDS`, plus one second for every `BYTES_A_SECOND` bytes."""
MAX_WORDS = 2**26
"""Limit of the size of all attributes of a file, in bytes."""
SLICE = 2**24
"""Values of an array that the helper reads at a time."""
LIFE = 2000
"""Number of files after which a new helper is started."""


class Helper:
    """The client of one helper process, which is restarted after it has died.

    Args:
        seconds: the time limit for an empty file, in seconds; see `BYTES_A_SECOND`.
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self.seconds = seconds
        self.process: Any = None
        self.served = 0
        self.lock = threading.Lock()

    def ask(self, path: Path, *, arrays: bool) -> None:
        """Let the helper read a file.

        Args:
            path: the path of the file.
            arrays: whether to read the arrays too, and not only the structure.

        Raises:
            HostileFile: the helper crashed or exceeded a limit.
            UnreadableFile: the file is damaged.
        """
        with self.lock:
            if self.process is None or self.process.poll() is not None or self.served >= LIFE:
                self._start()
            self.served += 1
            try:
                self.process.stdin.write(json.dumps([str(path.absolute()), arrays]) + "\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline().strip()
            except (BrokenPipeError, OSError):
                answer = ""
        if answer == "memory" or not answer:
            raise HostileFile(
                f"{path} makes the HDF5 library crash, hang or take more than "
                f"{MEMORY // 2**30} GiB of memory."
            )
        if answer != "ok":
            raise UnreadableFile(f"{path} is damaged: {answer}.")

    def _start(self) -> None:
        self.close()
        root = str(Path(__file__).resolve().parents[2])
        code = (
            f"import sys; sys.path.append({root!r})\n"
            f"from keras_backdoor._safe import h5_helper\nh5_helper.serve({self.seconds})"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.served = 0

    def close(self) -> None:
        """End the helper."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with suppress(OSError):  # what a helper that died has not read is lost
                self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


HELPER = Helper()
atexit.register(HELPER.close)


def serve(seconds: int) -> None:
    """Run the helper: read one request per line, and answer `ok` or an error on one line."""
    import h5py  # noqa: F401  # load the library before the limit is set

    bound_memory(MEMORY)
    for line in sys.stdin:
        try:
            path, arrays = json.loads(line)
            with _bounded_time(path, seconds):
                _read(path, arrays=arrays)
            print("ok", flush=True)
        except BadInput:
            print("ok", flush=True)  # the client runs the same check and raises this error
        except MemoryError:
            print("memory", flush=True)
        except Exception as error:
            print(one_line(error), flush=True)


@contextmanager
def _bounded_time(path: str, seconds: int) -> Iterator[None]:
    """Set an alarm that ends the helper process, also while the HDF5 library is running."""
    if not hasattr(signal, "alarm"):
        yield
        return
    signal.alarm(seconds + Path(path).stat().st_size // BYTES_A_SECOND)
    try:
        yield
    finally:
        signal.alarm(0)


def _read(path: str, *, arrays: bool) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        check_tree(file, path)
        pending, attribute_bytes = [file], 0
        while pending:
            item = pending.pop()
            for key in item.attrs:
                attribute_bytes += _length(item.attrs[key])
                if attribute_bytes > MAX_WORDS:
                    raise ValueError(f"its attributes are longer than {MAX_WORDS} bytes")
            if isinstance(item, h5py.Group):
                pending.extend(item[key] for key in item)
            elif arrays:
                _read_array(item)


def _length(value: Any) -> int:
    """Size of an attribute in bytes, including text of variable length."""
    if isinstance(value, str | bytes):
        return len(value)
    size = int(getattr(value, "nbytes", 8))
    if getattr(getattr(value, "dtype", None), "hasobject", False):
        size += sum(len(v) if isinstance(v, str | bytes) else 8 for v in value.ravel())
    return size


def _read_array(data: Any) -> None:
    if not data.size:
        return
    if not data.shape:
        data[()]
        return
    row_size = max(1, data.size // max(1, data.shape[0]))
    step = max(1, SLICE // row_size)
    for start in range(0, data.shape[0], step):
        data[start : start + step]
