"""Run the cells of a study and collect the results."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from keras_backdoor._safe.files import check_output
from keras_backdoor.errors import BadInput
from keras_backdoor.progress import track
from keras_backdoor.studies._engine import executors
from keras_backdoor.studies._engine.results import Results, check, finished_cells
from keras_backdoor.studies._engine.worker import Task, finished
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies.base import Scale, Study, load_study

Executor = Literal["local", "ray"]
OUTCOME = ("figures", "seconds", "made_with")


def run(
    name: str | Study,
    *,
    scale: Scale = "full",
    workspace: Workspace | None = None,
    out: Path | str | None = None,
    only: Sequence[str] = (),
    jobs: int | None = None,
    executor: Executor = "local",
    address: str | None = None,
    known: Path | None = None,
    again: bool = False,
    force: bool = False,
    on_end: Callable[[dict[str, Any]], None] = lambda cell: None,
) -> Results:
    """Compute the unfinished cells of a study and collect the results of all cells.

    Args:
        name: the name of a study, a Python file with a study, or a `Study`.
        scale: `full`, or `smoke` for a test run of the same steps in seconds.
        workspace: the folders of data and cache; None uses the defaults.
        out: a JSON file that is rewritten after every cell. Finished cells in it are reused.
        only: compute only the cells whose name contains one of these strings.
        jobs: the number of cells to compute in parallel; None is the number of cores.
        executor: `local` for processes on this machine, or `ray`.
        address: the address of a Ray cluster; None starts Ray on this machine.
        known: an earlier results file whose finished cells are reused.
        again: compute the chosen cells even if `out` contains them. Cached cells are still reused.
        force: allow `out` to replace a file of another study or cells of other settings.
        on_end: a function that is called with every cell that ends.

    Returns:
        The results. Cells that failed have an `error`.

    Raises:
        BadInput: if there is no such study or cell, data is missing, or `out` cannot be written.
    """
    study = name if isinstance(name, Study) else load_study(name, scale)
    workspace = workspace or Workspace()
    _check_request(jobs, executor, address)
    results, tasks = prepare(study, workspace, only=only, known=known, out=out, again=again)
    if out is not None:
        check(out, results, coming={task.key for task in tasks}, force=force)
    check_output(workspace.cache / "cells" / "cell")
    ended = _execute(tasks, executor, address, jobs)
    cells = {c["name"]: c for c in results.cells}
    for task, outcome in track(ended, study.word, len(tasks)):
        cells[task.name].update({k: outcome[k] for k in (*OUTCOME, "error") if k in outcome})
        on_end(cells[task.name])
        _collect(study, results, tasks, out)
    _collect(study, results, tasks, out)
    return results


def prepare(
    study: Study,
    workspace: Workspace,
    *,
    only: Sequence[str] = (),
    known: Path | None = None,
    out: Path | str | None = None,
    again: bool = False,
) -> tuple[Results, list[Task]]:
    """Return the results of the finished cells and the tasks that remain.

    See `run` for the arguments.
    """
    suffix = "" if study.scale == "full" else f" --scale {study.scale}"
    about = {
        "study": study.word,
        "title": study.title,
        "paper": study.paper,
        "scale": study.scale,
        "command": f"keras-backdoor study {study.location}{suffix}",
        "data": {file: workspace.digest(file) for file in study.read()},
    }
    in_out = dict(finished_cells(out, about, must=False))
    earlier = dict(finished_cells(known, about))
    names = [cell.name for cell in study.cells()]
    if len(set(names)) < len(names):
        raise BadInput(
            f"Two cells of the study '{study.word}' have the same name: make the names unique."
        )
    chosen = _chosen(names, only)
    results, tasks = Results(about, dict(study.columns)), []
    for cell in study.cells():
        task = _task(study, workspace, cell.name, study.key(cell, workspace))
        outcome = finished(task) or earlier.get(task.key) or {}
        if not outcome and not (again and cell.name in chosen):
            outcome = in_out.get(task.key, {})
        content = {
            "name": cell.name,
            "group": cell.group,
            "key": task.key,
            "settings": cell.settings,
        }
        content["published"] = dict(cell.published)
        results.cells.append(content | {k: outcome[k] for k in OUTCOME if k in outcome})
        tasks.append(task)
    study.derive(results.figures())
    missing = set(results.missing)
    return results, [t for t in tasks if t.name in chosen and t.name in missing]


def _check_request(jobs: int | None, executor: str, address: str | None) -> None:
    if jobs is not None and jobs < 1:
        raise BadInput(f"jobs must be 1 or more. Received: jobs={jobs}")
    if executor not in ("local", "ray"):
        raise BadInput(f"executor must be local or ray. Received: {executor}")
    if address and executor != "ray":
        raise BadInput("--address is the address of a Ray cluster: pass --executor ray too.")


def _chosen(names: Sequence[str], only: Sequence[str]) -> set[str]:
    only = (only,) if isinstance(only, str) else only
    for text in only:
        if not any(text in name for name in names):
            raise BadInput(f"No cell's name contains {text}; the cells: {', '.join(names)}.")
    return {n for n in names if not only or any(text in n for text in only)}


def _execute(
    tasks: Sequence[Task], executor: Executor, address: str | None, jobs: int | None
) -> Iterator[tuple[Task, dict[str, Any]]]:
    if not tasks:
        return iter(())
    if executor == "ray":
        return executors.ray(tasks, address, jobs)
    return executors.local(tasks, min(jobs or os.cpu_count() or 1, len(tasks)))


def _collect(study: Study, results: Results, tasks: Sequence[Task], out: Path | str | None) -> None:
    """Add cells that another run of the same study has finished, and write the results."""
    cells = {c["name"]: c for c in results.cells}
    for task in tasks:
        if "figures" not in cells[task.name]:
            outcome = finished(task, shared=False) or {}
            cells[task.name].update({k: outcome[k] for k in OUTCOME if k in outcome})
    study.derive(results.figures())
    if out is not None:
        results.save(out)


def _task(study: Study, workspace: Workspace, cell: str, key: str) -> Task:
    name = study.location
    path = str(Path(name).resolve()) if name.endswith(".py") else name
    cache = str(Path(workspace.cache).resolve())
    return Task(path, study.scale, cell, key, workspace.places, cache, workspace.store)
