"""Which samples are suspicious."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers.base import Answer, check_pair


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
        check_pair(self.scores, self.flagged)

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
