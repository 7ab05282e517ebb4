"""Implementation of the command `study`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_backdoor import reports
from keras_backdoor._internals import discovery
from keras_backdoor._safe.files import check_output
from keras_backdoor.commands import console
from keras_backdoor.studies._engine import cards, runner
from keras_backdoor.studies._engine.results import Results
from keras_backdoor.studies._engine.store import is_url
from keras_backdoor.studies._engine.workspace import Workspace, default_cache
from keras_backdoor.studies.base import Study, load_study

Blocks = list[tuple[str, list[tuple[str, str]]]]


def studies() -> Blocks:
    """Return table rows of all studies, with title, number of cells and paper."""
    rows = []
    for key in discovery.keys("studies"):
        study = load_study(key)
        text = f"{study.title} ({len(study.cells())} cells; {study.paper})"
        text += f"; unfinished: {study.unfinished}" if study.unfinished else ""
        rows.append((discovery.word(key), text))
    return [("studies", rows), ("cache", [("folder", str(default_cache()))])]


def run(
    name: str,
    *,
    list_only: bool,
    settings: dict[str, Any],
    data: Sequence[str],
    cache: str | None,
    out: Path | None,
    models: Path | None,
    report: Path | None,
) -> list[str]:
    """Run a study and print its table, or list its cells.

    Args:
        name: the name of a study, or a Python file with a study.
        list_only: list the cells without running them.
        settings: keyword arguments of `runner.run`.
        data: folders with data files, or URLs of object stores.
        cache: the folder of finished cells and networks, a URL of an object store, or None for the
            default.
        out: the results file, or None for the default path.
        models: a folder for the trained networks, or None.
        report: a folder for the report, or None.

    Returns:
        The names of the cells that failed.
    """
    study, force = load_study(name, settings["scale"]), settings["force"]
    suffix = "" if study.scale == "full" else f"-{study.scale}"
    out = out or Path("results") / f"{study.word.replace('-', '_')}{suffix}.json"
    workspace = _workspace(data, cache)
    if list_only:
        chosen = {k: settings[k] for k in ("only", "known", "again")}
        _print_cells(*runner.prepare(study, workspace, out=out, **chosen))
        return []
    if report is not None:
        check_output(report, force=force)
    if models is not None:
        cards.check(study, models, force=force)
    results = runner.run(
        study, workspace=workspace, out=out, on_end=_line_printer(study), **settings
    )
    header, *rows = results.table(compact=True)
    console.print_columns(results.about["title"], header, rows)
    failed = [c for c in results.cells if "error" in c]
    for cell in failed:
        console.say(f"{cell['name']}: {cell['error']}")
    lines = [("results", str(out))]
    if any(c.get("published") for c in results.cells):
        lines.append(("in brackets", f"published: {study.paper}"))
    if results.missing:
        lines.append(("not computed", f"{len(results.missing)} of {len(results.cells)} cells"))
    if models is not None:
        saved = cards.keep(study, results, workspace, models, force=force)
        lines += [("model", str(p)) for p in saved]
    if report is not None:
        page = reports.write(reports.page_of(results), report, force=force)
        lines.append(("page", str(page)))
    console.print_rows("", lines)
    return [c["name"] for c in failed]


def _workspace(data: Sequence[str], cache: str | None) -> Workspace:
    places = tuple(text if is_url(text) else Path(text) for text in data)
    if cache is None:
        return Workspace(places)
    if is_url(cache):
        return Workspace(places, store=cache)
    return Workspace(places, Path(cache), "")


def _line_printer(study: Study) -> Any:
    """Return a callback that prints a line for each finished cell if stderr is not a terminal.

    On a terminal, the progress bar shows the same.
    """
    ended: list[str] = []

    def print_line(cell: dict[str, Any]) -> None:
        ended.append(cell["name"])
        status = "failed" if "error" in cell else f"{cell.get('seconds', 0):.0f} s"
        print(f"{study.word}: {cell['name']}: {status} ({len(ended)} done)", file=sys.stderr)

    return (lambda cell: None) if sys.stderr.isatty() else print_line


def _print_cells(results: Results, tasks: list[Any]) -> None:
    waiting = {task.name for task in tasks}
    rows = [
        (
            c["name"],
            "finished" if "figures" in c else "to compute" if c["name"] in waiting else "",
            f"{c.get('seconds', '')}",
        )
        for c in results.cells
    ]
    console.print_columns(results.about["title"], ("", "", "seconds"), rows)
