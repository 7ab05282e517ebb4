"""Flagged classes: which classes are the target of a backdoor."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers.base import Answer, check_scores
from keras_backdoor.triggers.base import Stamp


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FlaggedClasses(Answer):
    """Which classes are the target of a backdoor, and the recovered triggers.

    Attributes:
        scores: (k,) how suspicious each class is, in units of the limit of the rule that decides:
            a class above 1 is an outlier. NaN means not examined.
        flagged: (k,) bool, whether each class is the target of a backdoor.
        further: (k,) bool, the classes that may be further targets, or None.
        triggers: target class -> recovered Stamp.
        source: target class -> the source class, if the trigger works on images of one class only.
        runs: (r, k) the scores of each run, or None.
        measures: name -> array, the measurements that the scores are computed from, such as
            `l1_norm`. The shape is (k,) for values of a class, (r, k) for values of each run, and
            (k, k) for values of pairs of source and target class.
        maps: name of a network -> pictures (k, h, w, c) in 0..1 of what leads it to each class, or
            (k, k, h, w, c) by source and target.
        examples: (m, h, w, c) uint8 clean images to show the triggers on, or None.
    """

    scores: np.ndarray
    flagged: np.ndarray
    further: np.ndarray | None = None
    triggers: dict[int, Stamp] = field(default_factory=dict)
    source: dict[int, int] = field(default_factory=dict)
    runs: np.ndarray | None = None
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    examples: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = ("scores", "flagged", "further", "runs", "examples")

    def __post_init__(self) -> None:
        check_scores(self.scores, self.flagged)
        if self.further is not None:
            check_scores(self.scores, self.further)

    @property
    def verdict(self) -> str:
        """Inconclusive if the method cannot decide, found if a class is flagged, else nothing."""
        if self.inconclusive or np.isnan(self.scores).all():
            return "inconclusive"
        return "found" if self.flagged.any() else "nothing"

    def _own_rows(self) -> list[tuple[str, str]]:
        examined = not np.isnan(self.scores).all()
        among = np.where(self.flagged, self.scores, np.nan) if self.flagged.any() else self.scores
        best = int(np.nanargmax(among)) if examined else None
        first = "none examined"
        if best is not None:
            first = f"class {best}, score {self.scores[best]:.3g} (an outlier is above 1)"
        return [
            ("flagged classes", listed(self.flagged)),
            ("further suspects", listed(self.suspects)),
            ("most suspicious", first),
        ]

    def ranked(self) -> list[int]:
        """The classes with a recovered trigger, the most suspicious first."""
        scores = np.nan_to_num(self.scores, nan=-np.inf)
        return sorted(self.triggers, key=lambda c: -float(scores[c]))

    def standing(self, number: int) -> str:
        """The status of a class: "flagged", "suspect" or an empty string."""
        if self.flagged[number]:
            return "flagged"
        return "suspect" if self.suspects[number] else ""

    @property
    def suspects(self) -> np.ndarray:
        """(k,) bool, the classes that may be further targets."""
        return np.zeros_like(self.flagged) if self.further is None else self.further

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            **super().facts(),
            "flagged": np.flatnonzero(self.flagged),
            "further": np.flatnonzero(self.suspects),
            "source": self.source,
            **{name: list(values) for name, values in self.measures.items()},
            "l1": {c: t.l1 for c, t in sorted(self.triggers.items())},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        out = super().arrays()
        out |= {f"measure_{name}": np.asarray(values) for name, values in self.measures.items()}
        out |= {f"map_{name}": np.asarray(values) for name, values in self.maps.items()}
        for number, trigger in self.triggers.items():
            out |= {f"mask_{number}": trigger.mask, f"pattern_{number}": trigger.pattern}
        return out

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        numbers = sorted(int(n.removeprefix("mask_")) for n in arrays if n.startswith("mask_"))
        measures = {
            n.removeprefix("measure_"): a for n, a in arrays.items() if n.startswith("measure_")
        }
        maps = {n.removeprefix("map_"): a for n, a in arrays.items() if n.startswith("map_")}
        common = cls._common(facts, arrays)
        common["flagged"] = common["flagged"].astype(bool)
        return cls(
            **common,
            measures=measures,
            maps=maps,
            triggers={n: Stamp(arrays[f"mask_{n}"], arrays[f"pattern_{n}"]) for n in numbers},
            source={int(k): int(v) for k, v in facts.get("source", {}).items()},
        )


def listed(chosen: np.ndarray) -> str:
    """The numbers of the selected classes as text.

    Args:
        chosen: (k,) bool, whether each class is selected.

    >>> listed(np.array([False, True, True])), listed(np.array([False]))
    ('1, 2', 'none')
    """
    return ", ".join(map(str, np.flatnonzero(chosen))) or "none"
