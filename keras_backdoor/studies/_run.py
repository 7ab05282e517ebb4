"""Run the cells of a study and collect them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from keras_backdoor.errors import BadInput
from keras_backdoor.progress import track
from keras_backdoor.studies import _executors
from keras_backdoor.studies._place import Place
from keras_backdoor.studies._results import Results, check, known_cells, surroundings
from keras_backdoor.studies._worker import Task, finished
from keras_backdoor.studies.base import Scale, Study, load_study

Executor = Literal["local", "ray"]


def run(
    name: str,
    *,
    scale: Scale = "full",
    place: Place | None = None,
    out: Path | str | None = None,
    only: Sequence[str] = (),
    jobs: int | None = None,
    executor: Executor = "local",
    address: str | None = None,
    known: Path | None = None,
    force: bool = False,
) -> Results:
    """Compute the cells of a study that are not finished yet, and collect all.

    Args:
        name: the study's word, or a Python file with a Study.
        scale: full, or smoke: the same steps in seconds.
        place: folders of data and cache.
        out: JSON file that is written anew after every cell.
        only: compute only the cells whose name contains one of these texts.
        jobs: cells that are computed at a time; None is the number of cores.
        executor: local processes, or Ray.
        address: of a Ray cluster; None starts one on this machine.
        known: an earlier results file whose finished cells are taken where the cache lacks them.
        force: let `out` replace a file of another study.

    Returns:
        The results; cells that failed have an `error`.

    Raises:
        BadInput: no such study or cell, missing data, or a result that cannot be written.
    """
    study, place = load_study(name, scale), place or Place()
    if jobs is not None and jobs < 1:
        raise BadInput(f"jobs must be 1 or more. Received: jobs={jobs}")
    if executor not in ("local", "ray"):
        raise BadInput(f"executor must be local or ray. Received: {executor}")
    if address and executor != "ray":
        raise BadInput("An address is that of a Ray cluster: pass --executor ray too.")
    results = start(study, name, place, known)
    tasks = _tasks(study, name, place, results, only)
    if out is not None:
        check(out, results.about, force=force)
        results.save(out, force=force)
    workers = min(jobs or os.cpu_count() or 1, max(1, len(tasks)))
    for task, outcome in track(_execute(tasks, executor, address, workers), study.word, len(tasks)):
        cell = next(c for c in results.cells if c["name"] == task.name)
        cell.update({k: v for k, v in outcome.items() if k in ("figures", "seconds", "error")})
        if out is not None:
            _derive(study, results)
            results.save(out, force=True)
    _derive(study, results)
    if out is not None:
        results.save(out, force=True)
    return results


def _execute(
    tasks: Sequence[Task], executor: Executor, address: str | None, workers: int
) -> Iterator[tuple[Task, dict[str, Any]]]:
    if not tasks:
        return iter(())
    if executor == "ray":
        return _executors.ray(tasks, address, workers)
    return _executors.local(tasks, workers)


def start(study: Study, name: str, place: Place, known: Path | None) -> Results:
    """The results as far as they are in the cache (or in an earlier file)."""
    suffix = "" if study.scale == "full" else f" --scale {study.scale}"
    about = {
        "study": study.word,
        "title": study.title,
        "paper": study.paper,
        "scale": study.scale,
        "command": f"keras-backdoor study {name}{suffix}",
        "data": {file: place.digest(file) for file in study.files},
        **surroundings(),
    }
    earlier = dict(known_cells(known))
    results = Results(about, dict(study.columns))
    for cell in study.cells():
        key = study.key(cell, place)
        row = {
            "name": cell.name,
            "key": key,
            "settings": cell.settings,
            "published": dict(cell.published),
        }
        task = _task(study, name, place, cell.name, key)
        outcome = finished(task) or earlier.get(key) or {}
        results.cells.append(
            row | {k: v for k, v in outcome.items() if k in ("figures", "seconds")}
        )
    names = [c["name"] for c in results.cells]
    if len(set(names)) < len(names):
        raise BadInput(f"Two cells of the study '{study.word}' have one name.")
    return results


def _tasks(
    study: Study, name: str, place: Place, results: Results, only: Sequence[str]
) -> list[Task]:
    chosen = [c for c in results.cells if not only or any(text in c["name"] for text in only)]
    if not chosen:
        names = ", ".join(c["name"] for c in results.cells)
        raise BadInput(f"No cell's name contains {' or '.join(only)}; the cells: {names}.")
    return [_task(study, name, place, c["name"], c["key"]) for c in chosen if "figures" not in c]


def _task(study: Study, name: str, place: Place, cell: str, key: str) -> Task:
    data = tuple(str(Path(folder).resolve()) for folder in place.data)
    path = str(Path(name).resolve()) if name.endswith(".py") else name
    return Task(path, study.scale, cell, key, data, str(Path(place.cache).resolve()))


def _derive(study: Study, results: Results) -> None:
    study.derive(results.figures())
