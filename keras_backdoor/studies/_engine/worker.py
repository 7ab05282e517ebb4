"""Worker that computes one cell of a study, as a separate process or as a Ray task.

The process reads a task as one line of JSON from standard input. It writes JSON objects to standard
output, one per line: `progress` during the computation and `outcome` at the end.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_backdoor import progress
from keras_backdoor._safe.files import parse_json, plain, read_json, write_json
from keras_backdoor.errors import BadInput, UnreadableFile, warn
from keras_backdoor.metrics import Rate
from keras_backdoor.studies._engine.store import Store, is_url

if TYPE_CHECKING:
    from keras_backdoor.studies._engine.workspace import Workspace

ENVIRONMENT = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "KERAS_BACKDOOR_QUIET": "1",
}
"""One thread per cell, so that the order of summation does not depend on parallel cells."""
PERIOD = 0.5
"""Minimum interval between two progress lines, in seconds."""


@dataclass(frozen=True)
class Task:
    """One cell to compute, as plain values that can be sent to another machine.

    Attributes:
        study: the name of the study, or the path of its file.
        scale: `full` or `smoke`.
        name: the name of the cell.
        key: the hash of the cell, see `Study.key`.
        data: folders with data files, or prefixes of object stores.
        cache: the folder of the cache.
        store: the prefix of an object store with which the cache is shared, or an empty string.
    """

    study: str
    scale: str
    name: str
    key: str
    data: tuple[str, ...]
    cache: str
    store: str = ""

    @property
    def path(self) -> Path:
        """The cache file of the finished cell."""
        return Path(self.cache) / "cells" / f"{self.key}.json"


def finished(task: Task, *, shared: bool = True) -> dict[str, Any] | None:
    """Return the cached outcome of a cell, or None.

    Args:
        task: the cell.
        shared: whether to look into the object store too.
    """
    if shared and task.store:
        _exchange(task)
    if not task.path.is_file():
        return None
    try:
        outcome: dict[str, Any] = read_json(task.path)
    except UnreadableFile:
        return None
    return outcome if outcome.get("key") == task.key else None


def _exchange(task: Task) -> None:
    """Fetch a cell that another machine has finished, or send one that is only here."""
    store, name = Store(task.store), f"cells/{task.key}.json"
    if not task.path.is_file():
        store.fetch(name, task.path)
    elif not store.has(name):
        store.send(task.path, name)


def work(task: Task) -> dict[str, Any]:
    """Compute a cell and cache it; on bad input, the outcome is an error message."""
    from keras_backdoor.studies._engine.workspace import Workspace

    try:
        places = tuple(p for p in task.data if is_url(p) or Path(p).is_dir())
        workspace = Workspace(places, Path(task.cache), task.store)
        with workspace.alone(f"cell-{task.key}"):
            return finished(task) or _compute(task, workspace)
    except BadInput as error:
        return {"key": task.key, "error": str(error)}


def _compute(task: Task, workspace: "Workspace") -> dict[str, Any]:
    from keras_backdoor.studies._engine.results import surroundings
    from keras_backdoor.studies.base import load_study

    start = time.perf_counter()
    study = load_study(task.study, task.scale)  # type: ignore[arg-type]
    cell = next((c for c in study.cells() if c.name == task.name), None)
    if cell is None or study.key(cell, workspace) != task.key:
        raise BadInput("The study or its data has changed since the run began: run it again.")
    outcome = {
        "key": task.key,
        "name": task.name,
        "figures": _plain(study.compute(cell, workspace)),
        "seconds": round(time.perf_counter() - start, 1),
        "made_with": surroundings(),
    }
    write_json(task.path, outcome)
    if task.store:
        try:
            _exchange(task)
        except BadInput as error:  # the next run sends it
            warn(f"The finished cell '{task.name}' was not sent: {error}")
    return outcome


def _plain(figures: Any) -> Any:
    if isinstance(figures, Rate):
        return plain(figures.as_dict())
    if isinstance(figures, dict):
        return {str(k): _plain(v) for k, v in figures.items()}
    return list(map(_plain, figures)) if isinstance(figures, list | tuple) else plain(figures)


def main() -> None:
    """Run the worker process; it ends when its parent process ends."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other printed text must not mix with the JSON lines

    def send(**content: Any) -> None:
        print(json.dumps(content), file=lines, flush=True)

    task = Task(**parse_json(sys.stdin.readline(), "the task"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with progress.listening(_reporter(send)):
        outcome = work(task)
    send(outcome=outcome)


def _end_with_parent() -> None:
    """End this process when standard input closes, which happens when the parent ends."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _reporter(send: Any) -> Any:
    last = [0.0]

    def tracked(items: Iterable[Any], description: str, total: int | None) -> Iterator[Any]:
        for number, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - last[0] >= PERIOD:
                last[0] = time.monotonic()
                send(progress=[description, number, total])

    return tracked


if __name__ == "__main__":
    main()
