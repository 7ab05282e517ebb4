"""Results of a study: the collected cells as a JSON file and as a table."""

import os
import platform
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_backdoor._safe.files import check_output, existing, read_json, write_json
from keras_backdoor.errors import BadInput

if TYPE_CHECKING:
    from keras_backdoor.reports.page import Page


@dataclass(frozen=True, eq=False)
class Results:
    """The collected cells of a study.

    Attributes:
        about: the keys `study`, `title`, `paper`, `scale`, `command` and `data` (SHA-256 by file
            name).
        columns: the column titles, by key of a result.
        cells: one dictionary per cell with the keys `name`, `group`, `key`, `settings`,
            `published`, `figures`, `seconds` and `made_with` (versions and machine). A cell that
            has not been computed has no `figures`; a cell that failed has an `error`.
    """

    about: dict[str, Any]
    columns: dict[str, str]
    cells: list[dict[str, Any]] = field(default_factory=list)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return the results of the finished cells, by name of the cell."""
        return {c["name"]: c["figures"] for c in self.cells if "figures" in c}

    def finished(self, group: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """(name, figures, published figures) of the finished cells of a group."""
        return [
            (c["name"], c["figures"], c.get("published", {}))
            for c in self.cells
            if c.get("group") == group and "figures" in c
        ]

    def groups(self, figure: str) -> dict[str, list[dict[str, Any]]]:
        """Return, by group, the results of the finished cells that contain a given result.

        Args:
            figure: the key of the result.
        """
        groups: dict[str, list[dict[str, Any]]] = {}
        for cell in self.cells:
            if figure in cell.get("figures", {}):
                groups.setdefault(cell["group"], []).append(cell["figures"])
        return groups

    @property
    def missing(self) -> list[str]:
        """The names of the cells without results."""
        return [c["name"] for c in self.cells if "figures" not in c]

    def is_like(self, about: dict[str, Any]) -> bool:
        """Return whether `about` describes the same study and scale."""
        return all(self.about.get(k) == about[k] for k in ("study", "scale"))

    def table(self, *, compact: bool = False) -> list[tuple[str, ...]]:
        """Return the header and the rows of the finished cells.

        Args:
            compact: omit intervals and append published figures in parentheses; otherwise include
                intervals and put published figures in separate columns.
        """
        done = [c for c in self.cells if "figures" in c]
        keys = [k for k in self.columns if any(k in c["figures"] for c in done)]
        beside = {k for k in keys if any(k in c.get("published", {}) for c in done)}
        header = [""]
        for key in keys:
            header += [self.columns[key], *(["published"] if key in beside and not compact else [])]
        rows = [tuple(header)]
        for cell in done:
            row = [cell["name"]]
            for key in keys:
                ours = text(cell["figures"].get(key), interval=not compact)
                theirs = text(cell.get("published", {}).get(key))
                row += _pair(ours, theirs, key in beside, compact)
            rows.append(tuple(row))
        return rows

    def page(self) -> "Page":
        """Return the report of the study: its own sections if it has some, else its table."""
        from keras_backdoor.studies._engine.page import page_of

        return page_of(self)

    def save(self, path: Path | str) -> None:
        """Write the results to a JSON file, replacing an existing file; call `check` first."""
        write_json(path, {**self.about, "columns": self.columns, "cells": self.cells})


def check(
    path: Path | str, results: Results, *, coming: Collection[str] = (), force: bool = False
) -> None:
    """Check that writing results does not lose a file of another study or finished cells.

    Args:
        path: the file to write.
        results: the results to write.
        coming: the keys of the cells that are going to be computed.
        force: allow the loss.

    Raises:
        BadInput: if a file of another study or finished cells would be lost.
    """
    path = Path(path)
    if not path.is_file() or force:
        check_output(path, force=force)
        return
    try:
        before = load_results(path)
        same = before.is_like(results.about)
    except BadInput:
        same = False
    check_output(path, force=same)
    keys = {c["key"] for c in results.cells if "figures" in c} | set(coming)
    lost = [c["name"] for c in before.cells if "figures" in c and c["key"] not in keys]
    if lost:
        raise BadInput(
            f"{path} has {len(lost)} finished cells of other settings or data (for example "
            f"{lost[0]}): pass --force to replace them, or another --out."
        )


def load_results(path: Path | str) -> Results:
    """Load collected results from a JSON file.

    Raises:
        BadInput: if there is no such file, or it is not a results file of a study.
    """
    content = read_json(existing(path, "results file"))
    if not isinstance(content, dict) or not {"study", "columns", "cells"} <= set(content):
        raise BadInput(f"{path} does not contain the results of a study.")
    columns, cells = content.pop("columns"), content.pop("cells")
    return Results(content, columns, cells)


def _pair(ours: str, theirs: str, beside: bool, compact: bool) -> list[str]:
    if not beside:
        return [ours]
    if not compact:
        return [ours, theirs]
    return [f"{ours} ({theirs})" if theirs else ours]


def text(value: Any, *, interval: bool = True) -> str:
    """Format a result as text: rates in percent, with the interval in parentheses.

    >>> text([1, 2]), text([]), text([{"class": 7, "value": 3.25}])
    ('1, 2', 'none', '3.25 (7)')
    """
    if value is None:
        return ""
    if isinstance(value, dict) and "share" in value:
        if value["share"] is None:
            return "none"
        low, high = (f"{100 * x:.1f}" for x in value["interval"])
        shown = f"{100 * value['share']:.2f}"
        return f"{shown} ({low} to {high})" if interval else shown
    if isinstance(value, dict) and "class" in value:
        number = value["value"]
        return f"{'none' if number is None else format(number, '.4g')} ({value['class']})"
    if isinstance(value, float):
        return f"{value:.2f}"
    return ", ".join(map(text, value)) or "none" if isinstance(value, list) else str(value)


def percent(rate: Any) -> str:
    """A rate in % with two digits; empty if it is missing.

    >>> percent({"share": 0.5, "of": 4}), percent(None), percent({"share": 0.0, "of": 0})
    ('50.00', '', '')
    """
    return f"{100 * rate['share']:.2f}" if rate and rate.get("of") else ""


def surroundings() -> dict[str, Any]:
    """Return the versions and the machine on which results are computed."""
    versions = {name: version(name) for name in ("keras", "tensorflow", "numpy")}
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    return {**versions, **machine, "python": platform.python_version()}


def finished_cells(
    path: Path | str | None, about: dict[str, Any], *, must: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, outcome) of the finished cells of a results file.

    Args:
        path: the results file, or None.
        about: the description of the study that the file must belong to.
        must: whether a missing file or a file of another study is an error; otherwise, such a file
            yields no cells.

    Raises:
        BadInput: if `must` is set and the file is missing or of another study or scale.
    """
    if path is None or not (must or Path(path).is_file()):
        return
    try:
        results = load_results(path)
        if not results.is_like(about):
            raise BadInput(f"{path} has the results of another study or scale.")
    except BadInput:
        if must:
            raise
        return
    yield from ((c["key"], c) for c in results.cells if "figures" in c)
