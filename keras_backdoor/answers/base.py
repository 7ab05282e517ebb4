"""What a method returns: frozen answers that print as a table and save to a folder.

A higher score is more suspicious; True means flagged; NaN means not examined.
"""

import hashlib
from dataclasses import dataclass, field, fields
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """The base of all answers.

    Attributes:
        summary: name -> value, the lines that the method adds to the printed table.
        inconclusive: why the method cannot decide; empty where it can.
        about: settings, versions, SHA-256 of model and data, and seconds, from which the answer
            can be computed again.
    """

    summary: dict[str, str] = field(default_factory=dict)
    inconclusive: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    _arrays: ClassVar[tuple[str, ...]] = ()

    @property
    def verdict(self) -> str:
        """found, nothing, inconclusive, repaired or explained."""
        return "nothing"

    def rows(self) -> list[tuple[str, str]]:
        """The answer as (name, value) rows."""
        rows = [("verdict", self.verdict), *self._own_rows(), *self.summary.items()]
        return [*rows, ("inconclusive", self.inconclusive)] if self.inconclusive else rows

    def _own_rows(self) -> list[tuple[str, str]]:
        """The rows of this kind of answer, between the verdict and the summary."""
        return []

    def __str__(self) -> str:
        rows = [("answer", type(self).__name__), *self.rows()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def completed(self, model: Classifier, judged: Samples | None) -> Self:
        """The answer with what it shows of the images that were judged; see each kind of answer.

        Args:
            model: the examined model.
            judged: the images that the answer is about, or None.
        """
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are saved."""
        return {n: np.asarray(v) for n in self._arrays if (v := getattr(self, n)) is not None}

    def facts(self) -> dict[str, Any]:
        """What is saved as JSON beside the arrays."""
        return {
            "verdict": self.verdict,
            "summary": self.summary,
            "inconclusive": self.inconclusive,
        }

    def fingerprint(self) -> str:
        """SHA-256 of the content of the answer."""
        digest = hashlib.sha256(f"{type(self).__name__}{plain(self.facts())}".encode())
        for name, values in sorted(self.arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def save(self, folder: Path | str, *, force: bool = False) -> Path:
        """Write `answer.json` and `arrays.npz` (and `model.keras`) into a new folder."""
        folder = Path(folder)
        with writing(folder, force=force) as partial:
            partial.mkdir()
            self._save_parts(partial)
            write_npz(partial / "arrays.npz", self.arrays())
            content = {"schema": SCHEMA, "kind": type(self).__name__, "about": self.about}
            write_json(partial / "answer.json", {**content, **self.facts()})
        return folder

    def _save_parts(self, folder: Path) -> None:
        """Write what is neither JSON nor an array."""

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        return cls(**cls._common(facts, arrays))

    @classmethod
    def _common(cls, facts: dict, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """The fields of every answer, and those that are saved as arrays of their own name."""
        known = {f.name for f in fields(cls)}
        return {
            **{name: values for name, values in arrays.items() if name in known},
            "summary": {str(k): str(v) for k, v in facts.get("summary", {}).items()},
            "inconclusive": str(facts.get("inconclusive", "")),
            "about": facts.get("about", {}),
        }


def load_answer(folder: Path | str) -> Answer:
    """Read a saved answer.

    Raises:
        BadInput: there is no answer.
        UnreadableFile: it is damaged, or of an unknown kind or schema.
    """
    folder = existing(folder, "answer")
    if not (folder / "answer.json").is_file():
        raise BadInput(f"{folder} is not a saved answer: it has no answer.json.")
    try:
        if any(p.is_symlink() for p in folder.iterdir()):
            raise UnreadableFile("an answer has no links.")
        facts = read_json(folder / "answer.json")
        if not isinstance(facts.get("about", {}), dict):
            raise UnreadableFile("its 'about' is not an object.")
        kinds = {c.__name__: c for c in map(_kind, discovery.keys("answers"))}
        if facts["schema"] != SCHEMA or facts["kind"] not in kinds:
            raise BadInput(f"{folder} has an answer of an unknown kind or schema.")
        arrays = dict(Npz(folder / "arrays.npz", max_bytes=MAX_ANSWER_BYTES))
        return kinds[facts["kind"]]._load(folder, facts, arrays)
    except UnreadableFile as error:
        raise UnreadableFile(f"{folder} is damaged: {error}") from error
    except BadInput:
        raise
    except Exception as error:  # whatever reading a damaged answer raises
        raise UnreadableFile(f"{folder} is damaged: {type(error).__name__} {error}.") from error


def _kind(key: str) -> type[Answer]:
    kind: type[Answer] = discovery.load("answers", key)
    return kind


def check_scores(scores: np.ndarray, flagged: np.ndarray) -> None:
    """Raise where scores and flags are not two (n,) arrays, the flags bool."""
    if scores.dtype.kind not in "iuf" or not scores.size:
        raise BadInput(f"scores must be numbers. Received: {scores.dtype}, {scores.shape}")
    if scores.ndim != 1 or scores.shape != flagged.shape or flagged.dtype != bool:
        raise BadInput(
            f"scores and flagged must be (n,) and flagged bool. Received: {scores.shape}, "
            f"{flagged.shape} {flagged.dtype}"
        )
