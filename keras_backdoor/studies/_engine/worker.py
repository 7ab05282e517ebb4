"""Compute one cell of a study; a process of its own where a study runs on one machine.

Reads a task as JSON from standard input and writes one JSON object a line: `progress` while it
works, and `outcome` at the end.
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
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.metrics import Rate

if TYPE_CHECKING:
    from keras_backdoor.studies._engine.workspace import Workspace

ENVIRONMENT = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "KERAS_BACKDOOR_QUIET": "1",
}
"""One thread a cell: sums come out in the same order however many cells run at a time."""
PERIOD = 0.5
"""Seconds between two lines on the progress."""


@dataclass(frozen=True)
class Task:
    """One cell that is to be computed; plain values, so that it can go to another machine."""

    study: str
    scale: str
    name: str
    key: str
    data: tuple[str, ...]
    cache: str

    @property
    def path(self) -> Path:
        """The file of the finished cell."""
        return Path(self.cache) / "cells" / f"{self.key}.json"


def finished(task: Task) -> dict[str, Any] | None:
    """The outcome of a cell that has been computed before."""
    if not task.path.is_file():
        return None
    try:
        outcome: dict[str, Any] = read_json(task.path)
    except UnreadableFile:
        return None
    return outcome if outcome.get("key") == task.key else None


def work(task: Task) -> dict[str, Any]:
    """Compute a cell and write it at once; what is wrong with the input is an outcome too."""
    from keras_backdoor.studies._engine.workspace import Workspace

    try:
        workspace = Workspace(tuple(map(Path, task.data)), Path(task.cache))
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
    return outcome


def _plain(figures: Any) -> Any:
    if isinstance(figures, Rate):
        return plain(figures.as_dict())
    if isinstance(figures, dict):
        return {str(k): _plain(v) for k, v in figures.items()}
    return list(map(_plain, figures)) if isinstance(figures, list | tuple) else plain(figures)


def main() -> None:
    """The process of one cell; it ends with the process that started it."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed, by whomever, must not be read as a line of ours

    def say(**content: Any) -> None:
        print(json.dumps(content), file=lines, flush=True)

    task = Task(**parse_json(sys.stdin.readline(), "the task"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with progress.listening(_reporter(say)):
        outcome = work(task)
    say(outcome=outcome)


def _end_with_parent() -> None:
    """Standard input stays open as long as the parent lives."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _reporter(say: Any) -> Any:
    last = [0.0]

    def tracked(items: Iterable[Any], description: str, total: int | None) -> Iterator[Any]:
        for number, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - last[0] >= PERIOD:
                last[0] = time.monotonic()
                say(progress=[description, number, total])

    return tracked


if __name__ == "__main__":
    main()
