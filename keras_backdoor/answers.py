"""What a method says: frozen answers that print as a table and save to a folder.

Higher score = more suspicious; True = flagged; NaN = not examined.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor._files import existing, sha256, write_json, write_npz, writing
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.triggers.base import Stamp

SCHEMA = 1
MAX_ANSWER_BYTES = 2 * 2**30
Kinds = dict[str, type["Answer"]]
_KINDS: Kinds = {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """The base of all answers.

    Attributes:
        about: settings, versions, SHA-256 of model and data, seconds: what makes it repeatable.
    """

    about: dict[str, Any] = field(default_factory=dict)
    _arrays: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        _KINDS[cls.__name__] = cls

    @property
    def verdict(self) -> str:
        """found, nothing, inconclusive, or repaired."""
        return "nothing"

    def rows(self) -> list[tuple[str, str]]:
        """The answer as (name, value) lines."""
        return [("verdict", self.verdict)]

    def __str__(self) -> str:
        rows = [("answer", type(self).__name__), *self.rows()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are saved."""
        return {n: np.asarray(v) for n in self._arrays if (v := getattr(self, n)) is not None}

    def facts(self) -> dict[str, Any]:
        """What is saved as JSON beside the arrays."""
        return {"verdict": self.verdict}

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
        """Hook for what is neither JSON nor an array."""

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        known = {f.name for f in fields(cls)}
        values = {n: a for n, a in arrays.items() if n in known}
        return cls(about=facts.get("about", {}), **values)


@dataclass(frozen=True, eq=False, kw_only=True)
class FlaggedSamples(Answer):
    """Which samples are suspicious.

    Attributes:
        scores: (n,) suspicion of each sample.
        flagged: (n,) bool.
        groups: class or origin -> (suspicion, flagged).
        embedding: (n, d) coordinates for pictures, or None.
    """

    scores: np.ndarray
    flagged: np.ndarray
    groups: dict[str, tuple[float, bool]] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = ("scores", "flagged", "embedding")

    def __post_init__(self) -> None:
        _check_pair(self.scores, self.flagged)

    @property
    def verdict(self) -> str:
        """found where any sample is flagged; inconclusive where none was examined."""
        if np.isnan(self.scores).all():
            return "inconclusive"
        return "found" if self.flagged.any() else "nothing"

    def rows(self) -> list[tuple[str, str]]:
        """See `Answer.rows`."""
        number, total = int(self.flagged.sum()), len(self.flagged)
        groups = [name for name, (_, flagged) in self.groups.items() if flagged]
        return [
            ("verdict", self.verdict),
            ("flagged", f"{number} of {total} samples ({number / total:.2%})"),
            ("groups", ", ".join(groups) or "none"),
        ]

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            "verdict": self.verdict,
            "flagged": np.flatnonzero(self.flagged),
            "groups": {k: [float(s), bool(f)] for k, (s, f) in self.groups.items()},
        }

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        groups = {k: (float(s), bool(f)) for k, (s, f) in facts.get("groups", {}).items()}
        return cls(
            scores=arrays["scores"],
            flagged=arrays["flagged"].astype(bool),
            groups=groups,
            embedding=arrays.get("embedding"),
            about=facts.get("about", {}),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FlaggedClasses(Answer):
    """Which classes a backdoor serves, and with what trigger.

    Attributes:
        scores: (k,) suspicion of each class; NaN = not examined.
        flagged: (k,) bool.
        triggers: class -> recovered Stamp.
        source: flagged class -> source class, where the backdoor serves one only.
        runs: (r, k) scores of single runs, or None.
    """

    scores: np.ndarray
    flagged: np.ndarray
    triggers: dict[int, Stamp] = field(default_factory=dict)
    source: dict[int, int] = field(default_factory=dict)
    runs: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = ("scores", "flagged", "runs")

    def __post_init__(self) -> None:
        _check_pair(self.scores, self.flagged)

    @property
    def verdict(self) -> str:
        """found where any class is flagged; inconclusive where the method says so."""
        if self.about.get("inconclusive") or np.isnan(self.scores).all():
            return "inconclusive"
        return "found" if self.flagged.any() else "nothing"

    def rows(self) -> list[tuple[str, str]]:
        """See `Answer.rows`."""
        classes = [str(c) for c in np.flatnonzero(self.flagged)]
        best = int(np.nanargmax(self.scores)) if not np.isnan(self.scores).all() else -1
        return [
            ("verdict", self.verdict),
            ("flagged classes", ", ".join(classes) or "none"),
            ("most suspicious", f"class {best}, score {self.scores[best]:.3g}"),
        ]

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            "verdict": self.verdict,
            "flagged": np.flatnonzero(self.flagged),
            "source": self.source,
            "l1": {c: t.l1 for c, t in self.triggers.items()},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        out = super().arrays()
        for number, trigger in self.triggers.items():
            out |= {f"mask_{number}": trigger.mask, f"pattern_{number}": trigger.pattern}
        return out

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        numbers = sorted(int(n.removeprefix("mask_")) for n in arrays if n.startswith("mask_"))
        return cls(
            scores=arrays["scores"],
            flagged=arrays["flagged"].astype(bool),
            triggers={n: Stamp(arrays[f"mask_{n}"], arrays[f"pattern_{n}"]) for n in numbers},
            source={int(k): int(v) for k, v in facts.get("source", {}).items()},
            runs=arrays.get("runs"),
            about=facts.get("about", {}),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class RepairedModel(Answer):
    """A model to deploy in place of the examined one.

    Attributes:
        model: a `keras.Model` in the units of the original.
        input_range: of the model's pixels.
        reject_class: the class that means "rejected" in a guard, or None.
        history: what the repair did, as arrays.
    """

    model: Any
    input_range: tuple[float, float]
    reject_class: int | None = None
    history: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Always repaired; how well is what `evaluate` measures."""
        return "repaired"

    def rows(self) -> list[tuple[str, str]]:
        """See `Answer.rows`."""
        rows = [("verdict", self.verdict)]
        rows += [(k, str(v)) for k, v in self.about.get("summary", {}).items()]
        if self.reject_class is not None:
            rows.append(("reject class", str(self.reject_class)))
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        return {f"history_{name}": np.asarray(v) for name, v in self.history.items()}

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            "verdict": self.verdict,
            "input_range": list(self.input_range),
            "reject_class": self.reject_class,
        }

    def _save_parts(self, folder: Path) -> None:
        self.model.save(folder / "model.keras")
        write_json(
            folder / "model.json",
            {
                "sha256": sha256(folder / "model.keras"),
                "input_range": list(self.input_range),
                "reject_class": self.reject_class,
                "made_by": self.about.get("settings", {}),
            },
        )

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        from keras_backdoor.loading import load_model

        low, high = facts["input_range"]
        history = {n.removeprefix("history_"): a for n, a in arrays.items()}
        return cls(
            model=load_model(folder / "model.keras").model,
            input_range=(float(low), float(high)),
            reject_class=facts["reject_class"],
            history=history,
            about=facts.get("about", {}),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Heatmaps(Answer):
    """Where in the images the decision comes from.

    Attributes:
        maps: (n, h, w) or (n, h, w, c) importance of every pixel.
        labels: (n,) the class that each map speaks of.
        spread: (n, h, w) standard deviation of the importance, or None.
    """

    maps: np.ndarray
    labels: np.ndarray
    spread: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = ("maps", "labels", "spread")

    def rows(self) -> list[tuple[str, str]]:
        """See `Answer.rows`."""
        return [("maps", f"{len(self.maps)} of {self.maps.shape[1]}x{self.maps.shape[2]} pixels")]


def load_answer(folder: Path | str) -> Answer:
    """A saved answer.

    Raises:
        BadInput: no answer there.
        UnreadableFile: damaged, or of an unknown kind or schema.
    """
    folder = existing(folder, "answer")
    if not (folder / "answer.json").is_file():
        raise BadInput(f"{folder} is not a saved answer: it has no answer.json.")
    try:
        facts = json.loads((folder / "answer.json").read_text())
        if facts["schema"] != SCHEMA or facts["kind"] not in _KINDS:
            raise UnreadableFile(f"{folder} has an answer of an unknown kind or schema.")
        if (folder / "arrays.npz").stat().st_size > MAX_ANSWER_BYTES:
            raise UnreadableFile(f"{folder}/arrays.npz is larger than 2 GiB.")
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return _KINDS[facts["kind"]]._load(folder, facts, arrays)
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UnreadableFile(f"{folder} is damaged: {type(error).__name__} {error}.") from error


def _check_pair(scores: np.ndarray, flagged: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != flagged.shape or flagged.dtype != bool:
        raise BadInput(
            f"scores and flagged must be (n,) and flagged bool. Received: {scores.shape}, "
            f"{flagged.shape} {flagged.dtype}"
        )
