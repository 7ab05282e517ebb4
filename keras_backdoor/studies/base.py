"""Base class of studies. A study is a grid of cells whose results form one table."""

import hashlib
import importlib.util
import json
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor._safe.files import existing, sha256
from keras_backdoor.errors import BadInput, one_line
from keras_backdoor.studies._engine.workspace import Workspace

Scale = Literal["full", "smoke"]
SCALES: tuple[Scale, ...] = ("full", "smoke")


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of a study; its results fill one row of the table.

    Args:
        name: the label of the row, unique within the study.
        given: the inputs that determine the results, including seeds: plain values or frozen
            dataclasses of plain values.
        published: the published figures, by column.
        group: the name of a group of cells that reports summarize together, for example the cells
            of one network.
    """

    name: str
    given: Mapping[str, Any]
    published: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The inputs as JSON values.

        A dataclass is represented by its name and fields, and a method also by its revision,
        one in the settings of another only if its revision is not 1.
        """
        return {k: _as_json(v) for k, v in self.given.items()}


@dataclass(frozen=True)
class Study(ABC):
    """The reproduction of a published table.

    A subclass defines the cells and computes the results of one cell. Each cell runs in a separate
    process with one thread, so that the results do not depend on the number of parallel cells.

    Args:
        scale: `full` computes the reported results. `smoke` runs the same steps in seconds as a
            test; its results are meaningless.

    Attributes:
        title: the title of the table.
        paper: the publication that contains the table.
        version: the version of `compute`. Increment it when `compute` changes, so that all cells
            are computed again.
        files: the data files that all cells depend on.
        columns: the column titles, by key of a result.
        kept_figures: the keys of the results that the card of a saved network must contain.
        kept_in: the folder in which the trained networks are saved.
        unfinished: the reason why the results are not in `results/` yet, or an empty string.
    """

    scale: Scale = "full"

    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    version: ClassVar[int] = 1
    files: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, str]] = {}
    kept_figures: ClassVar[tuple[str, ...]] = ("clean_accuracy",)
    kept_in: ClassVar[str] = "models"
    unfinished: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise BadInput(f"scale must be full or smoke. Received: {self.scale}")

    @abstractmethod
    def cells(self) -> list[Cell]:
        """Return the cells of the study in the order of the table."""

    @abstractmethod
    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """Compute the results of one cell from `cell.given`.

        The results must not depend on the name of the cell. A `Rate` is stored with its count and
        confidence interval.

        Args:
            cell: the cell to compute.
            workspace: the folders of data and cache.

        Returns:
            The results by key.
        """

    def derive(self, figures: dict[str, dict[str, Any]]) -> None:  # noqa: B027
        """Add results that compare cells.

        Args:
            figures: the results of the finished cells, by name of the cell; modified in place.
        """

    def read(self) -> tuple[str, ...]:
        """Return all data files that cells read: `files` and the files of individual cells."""
        return self.files

    def networks(self) -> dict[str, Cell]:
        """Return the cells whose networks can be saved in `kept_in`, by file name."""
        return {}

    def title_of(self, cell: Cell) -> str:
        """Return the title for the card of the network of a cell."""
        return cell.name

    @cached_property
    def word(self) -> str:
        """The name of the study on the command line."""
        return discovery.word(discovery.key_of(type(self)))

    @cached_property
    def location(self) -> str:
        """The argument with which `load_study` loads the study: its name or its file path."""
        return self.word

    def key(self, cell: Cell, workspace: Workspace) -> str:
        """Return a hash of everything that determines the results of a cell.

        It covers the settings of the cell, the data files, the keys of inputs with a method `key`
        (such as networks), and the source code of a study that is loaded from a user's file.
        """
        data = [workspace.digest(name) for name in self.files]
        made = [v.key(workspace) for v in cell.given.values() if hasattr(v, "key")]
        source = vars(self).get("source", "")
        content = [self.word, source, self.version, self.scale, cell.settings, made, data]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_study(name: str, scale: Scale = "full") -> Study:
    """Load a study by its name, or from a Python file that defines a `Study`.

    Args:
        name: the name of a study, or the path of a `.py` file with exactly one study.
        scale: `full` or `smoke`.

    Returns:
        The study.

    Raises:
        BadInput: if there is no such study, or the file does not define exactly one.
    """
    if not name.endswith(".py"):
        study: Study = discovery.load("studies", name)(scale=scale)
        return study
    path = existing(name, "file with a study").resolve()
    if path.stem in discovery.keys("studies"):
        raise BadInput(f"{path} has the name of a study of this package: rename the file.")
    module = _module(path)
    classes = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, Study)]
    classes = [x for x in classes if x.__module__ == module.__name__]
    if len(classes) != 1:
        raise BadInput(f"{path} must define exactly one Study. Found: {len(classes)}")
    loaded: Study = classes[0](scale=scale)
    vars(loaded).update(source=sha256(path), word=discovery.word(path.stem), location=name)
    return loaded


def _module(path: Path) -> ModuleType:
    """Import a Python file of the user as a module."""
    name = f"keras_backdoor_study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = error.lineno if isinstance(error, SyntaxError) else last.lineno
        raise BadInput(f"{path}, line {line}: {type(error).__name__}: {one_line(error)}") from error
    return module


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        revision = getattr(value, "revision", None)
        made = {} if revision is None else {"revision": revision}
        settings = {"name": type(value).__name__, **made, **typed_settings.as_dict(value)}
        for f in fields(value):
            if (revision := getattr(getattr(value, f.name), "revision", 1)) != 1:
                settings[f.name]["revision"] = revision
        return settings
    return list(value) if isinstance(value, tuple) else value
