"""What a study found: collected cells, as one JSON file and one table."""

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
        about: study, title, paper, scale, command, data (file -> SHA-256).
        columns: key -> title.
        cells: one dict a cell: name, group, key, settings, published, figures, seconds, made_with
            (versions and machine); `figures` is missing where the cell has not been computed,
            and `error` says where it failed.
    """

    about: dict[str, Any]
    columns: dict[str, str]
    cells: list[dict[str, Any]] = field(default_factory=list)

    def figures(self) -> dict[str, dict[str, Any]]:
        """name -> figures of the finished cells."""
        return {c["name"]: c["figures"] for c in self.cells if "figures" in c}

    def groups(self, figure: str) -> dict[str, list[dict[str, Any]]]:
        """Group -> figures of its finished cells that have this figure."""
        out: dict[str, list[dict[str, Any]]] = {}
        for cell in self.cells:
            if figure in cell.get("figures", {}):
                out.setdefault(cell["group"], []).append(cell["figures"])
        return out

    @property
    def missing(self) -> list[str]:
        """Names of the cells that have no figures."""
        return [c["name"] for c in self.cells if "figures" not in c]

    def is_like(self, about: dict[str, Any]) -> bool:
        """Whether they are of the same study and scale."""
        return all(self.about.get(k) == about[k] for k in ("study", "scale"))

    def table(self, *, compact: bool = False) -> list[tuple[str, ...]]:
        """Header and rows of the finished cells.

        Args:
            compact: no intervals, and the published figure in brackets behind ours; otherwise
                intervals, and the published figures in columns of their own.
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
        """The page of the study: its own sections where it has some, else its table."""
        from keras_backdoor.studies._engine.page import page_of

        return page_of(self)

    def save(self, path: Path | str) -> None:
        """Write the results; what is there is replaced (`check` it first)."""
        write_json(path, {**self.about, "columns": self.columns, "cells": self.cells})


def check(
    path: Path | str, results: Results, *, coming: Collection[str] = (), force: bool = False
) -> None:
    """Raise where a file of another study, or finished cells, would be lost.

    Args:
        path: the file that is to be written.
        results: what will stand in it.
        coming: keys of the cells that are about to be computed.
        force: lose them.
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
            f"{lost[0]}); pass --force to replace them, or another --out."
        )


def load_results(path: Path | str) -> Results:
    """Collected results from their file.

    Raises:
        BadInput: no such file, or not the results of a study.
    """
    content = read_json(existing(path, "results file"))
    if not isinstance(content, dict) or not {"study", "columns", "cells"} <= set(content):
        raise BadInput(f"{path} does not hold the results of a study.")
    columns, cells = content.pop("columns"), content.pop("cells")
    return Results(content, columns, cells)


def _pair(ours: str, theirs: str, beside: bool, compact: bool) -> list[str]:
    if not beside:
        return [ours]
    if not compact:
        return [ours, theirs]
    return [f"{ours} ({theirs})" if theirs else ours]


def text(value: Any, *, interval: bool = True) -> str:
    """A figure as text: shares in per cent, with their interval in brackets.

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


def surroundings() -> dict[str, Any]:
    """Versions and machine that figures are measured with."""
    versions = {name: version(name) for name in ("keras", "tensorflow", "numpy")}
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    return {**versions, **machine, "python": platform.python_version()}


def finished_cells(
    path: Path | str | None, about: dict[str, Any], *, must: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, outcome) of the finished cells of a results file.

    Args:
        path: the file, or None.
        about: the study that it must be of.
        must: raise where it is not; otherwise it has no cells.
    """
    if path is None or not (must or Path(path).is_file()):
        return
    try:
        found = load_results(path)
        if not found.is_like(about):
            raise BadInput(f"{path} has the results of another study or scale.")
    except BadInput:
        if must:
            raise
        return
    yield from ((c["key"], c) for c in found.cells if "figures" in c)
