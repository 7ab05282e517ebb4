"""Which classes a backdoor serves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers.base import Answer, check_scores
from keras_backdoor.triggers.base import Stamp


@dataclass(frozen=True, eq=False, kw_only=True)
class FlaggedClasses(Answer):
    """Which classes a backdoor serves, and with what trigger.

    Attributes:
        scores: (k,) suspicion of each class; NaN = not examined.
        flagged: (k,) bool.
        further: (k,) bool, classes that may be further targets, or None.
        triggers: class -> recovered Stamp.
        source: class -> the source class whose images its trigger serves, where it serves one.
        runs: (r, k) scores of single runs, or None.
        measures: name -> (k,) what the scores are made of, for example `l1_norm`; (r, k) of single
            runs, (k, k) of pairs of source and target.
        examples: (m, h, w, c) uint8 clean images that the triggers can be shown on, or None.
    """

    scores: np.ndarray
    flagged: np.ndarray
    further: np.ndarray | None = None
    triggers: dict[int, Stamp] = field(default_factory=dict)
    source: dict[int, int] = field(default_factory=dict)
    runs: np.ndarray | None = None
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    examples: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = ("scores", "flagged", "further", "runs", "examples")

    def __post_init__(self) -> None:
        check_scores(self.scores, self.flagged)
        if self.further is not None:
            check_scores(self.scores, self.further)

    @property
    def verdict(self) -> str:
        """found where any class is flagged; inconclusive where the method cannot decide."""
        if self.inconclusive or np.isnan(self.scores).all():
            return "inconclusive"
        return "found" if self.flagged.any() else "nothing"

    def _own_rows(self) -> list[tuple[str, str]]:
        known = not np.isnan(self.scores).all()
        best = int(np.nanargmax(self.scores)) if known else None
        first = "none examined" if best is None else f"class {best}, score {self.scores[best]:.3g}"
        return [
            ("flagged classes", listed(self.flagged)),
            ("further suspects", listed(self.suspects)),
            ("most suspicious", first),
        ]

    def ranked(self) -> list[int]:
        """The classes with a trigger, the most suspicious first."""
        scores = np.nan_to_num(self.scores, nan=-np.inf)
        return sorted(self.triggers, key=lambda c: -float(scores[c]))

    def standing(self, number: int) -> str:
        """flagged, suspect, or nothing."""
        if self.flagged[number]:
            return "flagged"
        return "suspect" if self.suspects[number] else ""

    @property
    def suspects(self) -> np.ndarray:
        """(k,) bool, classes that are not flagged and may be further targets."""
        return np.zeros_like(self.flagged) if self.further is None else self.further

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            **super().facts(),
            "flagged": np.flatnonzero(self.flagged),
            "further": np.flatnonzero(self.suspects),
            "source": self.source,
            **{name: list(values) for name, values in self.measures.items()},
            "l1": {c: t.l1 for c, t in self.triggers.items()},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        out = super().arrays()
        out |= {f"measure_{name}": np.asarray(values) for name, values in self.measures.items()}
        for number, trigger in self.triggers.items():
            out |= {f"mask_{number}": trigger.mask, f"pattern_{number}": trigger.pattern}
        return out

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        numbers = sorted(int(n.removeprefix("mask_")) for n in arrays if n.startswith("mask_"))
        measures = {
            n.removeprefix("measure_"): a for n, a in arrays.items() if n.startswith("measure_")
        }
        common = cls._common(facts, arrays)
        common["flagged"] = common["flagged"].astype(bool)
        return cls(
            **common,
            measures=measures,
            triggers={n: Stamp(arrays[f"mask_{n}"], arrays[f"pattern_{n}"]) for n in numbers},
            source={int(k): int(v) for k, v in facts.get("source", {}).items()},
        )


def listed(chosen: np.ndarray) -> str:
    """Numbers of the chosen classes, as text.

    >>> listed(np.array([False, True, True])), listed(np.array([False]))
    ('1, 2', 'none')
    """
    return ", ".join(map(str, np.flatnonzero(chosen))) or "none"
