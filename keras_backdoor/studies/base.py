"""Study: a grid of cells, each computed once, written at once and collected into one table."""

import hashlib
import importlib.util
import json
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
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
    """One row's worth of work.

    Args:
        name: the row's label; no two cells of a study share it.
        given: everything that the figures follow from, seeds included: plain values or frozen
            dataclasses of them.
        published: column -> the figure in the publication.
        group: what pages put together: the cells of one network, for example.
    """

    name: str
    given: Mapping[str, Any]
    published: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What is given, as JSON knows it; a dataclass is told by its name, a method by its
        revision too."""
        return {k: _as_json(v) for k, v in self.given.items()}


@dataclass(frozen=True)
class Study(ABC):
    """A published table, made again.

    A subclass in a file of its own says which cells there are and how one is computed. The cells
    run in processes of their own, each with one thread, so that no figure depends on how many run
    at a time.

    Args:
        scale: full is what is reported; smoke goes through the same steps in seconds and its
            figures mean nothing.

    Attributes:
        title, paper: what is made again, and where it is published.
        version: raise it when `compute` changes: the cells are then computed anew.
        files: the data files that every cell's figures follow from.
        columns: key of a figure -> the column's title.
        kept_figures: keys of the figures that the card of a kept network must have.
        kept_in: the folder that its networks are kept in.
        unfinished: why its figures are not in `results/` yet; empty where they are.
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
        """The grid."""

    @abstractmethod
    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """The figures of one cell, from what is given alone: its name is only a label.

        A `Rate` is written with its count and interval.
        """

    def derive(self, figures: dict[str, dict[str, Any]]) -> None:  # noqa: B027
        """Add figures that compare cells: name -> figures, changed in place."""

    def read(self) -> tuple[str, ...]:
        """All data files that the cells read: `files`, and those that single cells have."""
        return self.files

    def networks(self) -> dict[str, Cell]:
        """File name -> cell of the networks that are worth keeping in `models/`."""
        return {}

    def title_of(self, cell: Cell) -> str:
        """What the card of a kept network calls it."""
        return cell.name

    @cached_property
    def word(self) -> str:
        """Its word on the command line."""
        return discovery.word(discovery.key_of(type(self)))

    @cached_property
    def location(self) -> str:
        """What `load_study` finds it by: its word, or the path of its file."""
        return self.word

    def key(self, cell: Cell, workspace: Workspace) -> str:
        """What a cell's figures follow from, as one short hash.

        Whatever is given and has a key of its own (a network) counts with it, and so does the
        text of a study from a file of one's own.
        """
        data = [workspace.digest(name) for name in self.files]
        made = [v.key(workspace) for v in cell.given.values() if hasattr(v, "key")]
        own = vars(self).get("source", "")
        content = [self.word, own, self.version, self.scale, cell.settings, made, data]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_study(name: str, scale: Scale = "full") -> Study:
    """A study by its word, or from a Python file of one's own that holds a Study.

    Raises:
        BadInput: no such study, or a file without one.
    """
    if not name.endswith(".py"):
        study: Study = discovery.load("studies", name)(scale=scale)
        return study
    path = existing(name, "file with a study").resolve()
    if path.stem in discovery.keys("studies"):
        raise BadInput(f"{path} has the name of a study of this package: give it another name.")
    module = _module(path)
    own = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, Study)]
    own = [x for x in own if x.__module__ == module.__name__]
    if len(own) != 1:
        raise BadInput(f"{path} must hold exactly one Study. Found: {len(own)}")
    found: Study = own[0](scale=scale)
    vars(found).update(source=sha256(path), word=discovery.word(path.stem), location=name)
    return found


def _module(path: Path) -> ModuleType:
    """The module of a Python file that the user wrote."""
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
        return {"name": type(value).__name__, **made, **typed_settings.as_dict(value)}
    return list(value) if isinstance(value, tuple) else value
