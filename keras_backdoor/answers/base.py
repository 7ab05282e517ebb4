"""Answers: the results that methods return.

An answer is a frozen dataclass that prints as a table and can be saved to a folder. A higher score
is more suspicious, a flag of True marks a suspicious item, and a score of NaN means that the item
was not examined.
"""

import hashlib
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from keras_backdoor._internals import discovery
from keras_backdoor._safe.files import existing, plain, read_json, write_json, write_npz, writing
from keras_backdoor._safe.npz import Npz
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

SCHEMA = 2
MAX_ANSWER_BYTES = 2 * 2**30


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Answer:
    """The base class of all answers.

    Attributes:
        summary: name -> value, the rows that the method adds to the printed table.
        inconclusive: why the method cannot decide; empty if it can.
        figures: name -> number or nested dictionary of numbers, what the method measured, for
            programs that read the answer.
        about: what is needed to reproduce the answer: the settings, the package versions and the
            SHA-256 of the model and of the data. It also contains the run time in seconds.
    """

    summary: dict[str, str] = field(default_factory=dict)
    inconclusive: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    _arrays: ClassVar[tuple[str, ...]] = ()

    @property
    def verdict(self) -> str:
        """One of found, nothing, inconclusive, repaired and explained."""
        return "nothing"

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the printed table, as (name, value) pairs."""
        rows = [("verdict", self.verdict), *self._own_rows(), *self.summary.items()]
        return [*rows, ("inconclusive", self.inconclusive)] if self.inconclusive else rows

    def _own_rows(self) -> list[tuple[str, str]]:
        """The rows of a subclass, which are printed between the verdict and the summary."""
        return []

    def __str__(self) -> str:
        rows = [("answer", type(self).__name__), *self.rows()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The report of the answer, for a notebook."""
        return str(import_module("keras_backdoor.reports").page_of(self)._repr_html_())

    def completed(self, model: Classifier, samples: Samples | None) -> Self:
        """A copy of the answer with details of the examined samples, such as pictures of them.

        Args:
            model: the examined model.
            samples: the samples that the answer is about, or None.
        """
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that `save` writes, by name."""
        return {n: np.asarray(v) for n in self._arrays if (v := getattr(self, n)) is not None}

    def facts(self) -> dict[str, Any]:
        """The content that `save` writes as JSON beside the arrays."""
        return {
            "verdict": self.verdict,
            "summary": self.summary,
            "inconclusive": self.inconclusive,
            "figures": self.figures,
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the content of the answer, as a hexadecimal string."""
        digest = hashlib.sha256(f"{type(self).__name__}{plain(self.facts())}".encode())
        for name, values in sorted(self.arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def save(self, folder: Path | str, *, force: bool = False) -> Path:
        """Write the answer to a new folder.

        The folder contains `answer.json` and `arrays.npz`, and `model.keras` if the answer has a
        model.

        Args:
            folder: the folder to create.
            force: whether to replace a folder that exists.

        Returns:
            The path of the folder.
        """
        folder = Path(folder)
        with writing(folder, force=force) as partial:
            partial.mkdir()
            self._save_parts(partial)
            write_npz(partial / "arrays.npz", self.arrays())
            content = {"schema": SCHEMA, "kind": type(self).__name__, "about": self.about}
            write_json(partial / "answer.json", {**content, **self.facts()})
        return folder

    def _save_parts(self, folder: Path) -> None:
        """Write the files of a subclass beside the JSON and the arrays."""

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        return cls(**cls._common(facts, arrays))

    @classmethod
    def _common(cls, facts: dict, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """The fields of the base class, and the arrays that are saved under the name of a field."""
        names = {f.name for f in fields(cls)}
        return {
            **{name: values for name, values in arrays.items() if name in names},
            "summary": {str(k): str(v) for k, v in facts.get("summary", {}).items()},
            "inconclusive": str(facts.get("inconclusive", "")),
            "figures": facts.get("figures", {}),
            "about": facts.get("about", {}),
        }


def load_answer(folder: Path | str) -> Answer:
    """Load a saved answer.

    Args:
        folder: the folder that `Answer.save` wrote.

    Returns:
        The answer, of the class that was saved.

    Raises:
        BadInput: the folder contains no answer, or one of an unknown kind or schema.
        UnreadableFile: a file of the answer is damaged.
    """
    folder = existing(folder, "answer")
    if not (folder / "answer.json").is_file():
        raise BadInput(f"{folder} is not a saved answer: it has no answer.json.")
    try:
        if any(p.is_symlink() for p in folder.iterdir()):
            raise UnreadableFile("a saved answer must not contain symbolic links.")
        facts = read_json(folder / "answer.json")
        if not isinstance(facts.get("about", {}), dict):
            raise UnreadableFile("the 'about' of its answer.json is not a JSON object.")
        kinds = {c.__name__: c for c in map(_kind, discovery.keys("answers"))}
        if facts["schema"] != SCHEMA or facts["kind"] not in kinds:
            raise BadInput(f"{folder} contains an answer of an unknown kind or schema.")
        arrays = dict(Npz(folder / "arrays.npz", max_bytes=MAX_ANSWER_BYTES))
        return kinds[facts["kind"]]._load(folder, facts, arrays)
    except UnreadableFile as error:
        raise UnreadableFile(f"{folder} is damaged: {error}") from error
    except BadInput:
        raise
    except Exception as error:  # a damaged file can raise any error
        raise UnreadableFile(f"{folder} is damaged: {type(error).__name__} {error}.") from error


def _kind(key: str) -> type[Answer]:
    kind: type[Answer] = discovery.load("answers", key)
    return kind


def check_scores(scores: np.ndarray, flagged: np.ndarray) -> None:
    """Raise `BadInput` unless scores and flags are two (n,) arrays and the flags are bool."""
    if scores.dtype.kind not in "iuf" or not scores.size:
        raise BadInput(
            f"scores must be a non-empty array of numbers. Received: {scores.dtype}, {scores.shape}"
        )
    if scores.ndim != 1 or scores.shape != flagged.shape or flagged.dtype != bool:
        raise BadInput(
            f"scores and flagged must have shape (n,), and flagged bool. Received: {scores.shape}, "
            f"{flagged.shape} {flagged.dtype}"
        )
