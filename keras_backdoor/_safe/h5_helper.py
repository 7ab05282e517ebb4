"""A process of its own in which a stranger's HDF5 file is read first.

The HDF5 library is large and written in C: a damaged file can make it crash, run for ever or take
all memory. So a helper with bounded memory and time reads the file before this process does; what
it does not survive is refused. The helper starts with the first file and serves until the process
ends.
"""

import atexit
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_backdoor._safe.h5_checks import check_tree
from keras_backdoor.errors import BadInput, HostileFile, UnreadableFile, one_line

MEMORY = 2 * 2**30
"""Address space of the helper, in bytes."""
SECONDS, BYTES_A_SECOND = 10, 10**7
"""What the helper may take: so long, and longer for large files."""
MAX_WORDS = 2**26
"""Bytes of all attributes of a file."""
SLICE = 2**24
"""Numbers of an array that the helper reads at a time."""
LIFE = 2000
"""Files after which a new helper is started."""


class Helper:
    """The client's side: one helper, restarted when it died.

    Args:
        seconds: what a file may take, beyond what its size allows.
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self.seconds = seconds
        self.process: Any = None
        self.served = 0
        self.lock = threading.Lock()

    def ask(self, path: Path, *, arrays: bool) -> None:
        """Raise where the helper does not survive the file.

        Args:
            path: the file.
            arrays: whether the arrays are read too, not only the structure.
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
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


HELPER = Helper()
atexit.register(HELPER.close)


def serve(seconds: int) -> None:
    """The helper's side: a path a line in, `ok` or what is wrong a line out."""
    _bound_memory()
    for line in sys.stdin:
        try:
            path, arrays = json.loads(line)
            with _bounded_time(path, seconds):
                _read(path, arrays=arrays)
            print("ok", flush=True)
        except BadInput:
            print("ok", flush=True)  # the other side finds the same and says it better
        except MemoryError:
            print("memory", flush=True)
        except Exception as error:
            print(one_line(error), flush=True)


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # a system without limits
        return
    import h5py  # noqa: F401  # what it maps at the start counts

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def _bounded_time(path: str, seconds: int) -> Iterator[None]:
    """An alarm that ends the helper, also inside the library and when nobody waits any more."""
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
        waiting, words = [file], 0
        while waiting:
            item = waiting.pop()
            for key in item.attrs:
                words += _length(item.attrs[key])
                if words > MAX_WORDS:
                    raise ValueError(f"its attributes are longer than {MAX_WORDS} bytes")
            if isinstance(item, h5py.Group):
                waiting.extend(item[key] for key in item)
            elif arrays:
                _read_array(item)


def _length(value: Any) -> int:
    """Bytes of an attribute, text of variable length included."""
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
    row = max(1, data.size // max(1, data.shape[0]))
    step = max(1, SLICE // row)
    for start in range(0, data.shape[0], step):
        data[start : start + step]
