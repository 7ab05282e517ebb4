"""Which samples are suspicious."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from keras_backdoor.answers.base import Answer, check_scores
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

SHOWN = 12
"""Thumbnails of each kind and group."""
GROUPS_SHOWN = 8
"""Suspicious groups that have thumbnails."""


@dataclass(frozen=True)
class Group:
    """A class, an origin or another group of samples that is judged as one.

    Args:
        score: how suspicious it is.
        flagged: whether it is suspicious.
        figures: name -> further figures of the group.
    """

    score: float
    flagged: bool
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Pictures of a suspicious group.

    Args:
        flagged: (m, h, w, c) uint8, the most suspicious samples that are flagged.
        kept: (m, h, w, c) uint8, samples of the same group that are not.
    """

    flagged: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class FlaggedSamples(Answer):
    """Which samples are suspicious.

    A method gives the first five; row numbers and thumbnails are added when it has run.

    Attributes:
        scores: (n,) suspicion of each sample; NaN means not examined.
        flagged: (n,) bool.
        groups: name of a group -> what is known of it.
        group_of: (n,) name of the group of each sample, or None.
        embedding: (n, d) coordinates of each sample for a plot, d >= 2, or None.
        row_numbers: (n,) rows of the data file that the samples are, from 0.
        thumbnails: name of a suspicious group -> its pictures.
    """

    scores: np.ndarray
    flagged: np.ndarray
    groups: dict[str, Group] = field(default_factory=dict)
    group_of: np.ndarray | None = None
    embedding: np.ndarray | None = None
    row_numbers: np.ndarray | None = None
    thumbnails: dict[str, Thumbnails] = field(default_factory=dict)
    _arrays: ClassVar[tuple[str, ...]] = (
        "scores", "flagged", "group_of", "embedding", "row_numbers",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_scores(self.scores, self.flagged)
        for name in ("group_of", "embedding", "row_numbers"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.scores):
                raise BadInput(
                    f"{name} must have one value for each sample. Received: {len(values)} for "
                    f"{len(self.scores)}"
                )

    @property
    def verdict(self) -> str:
        """found where any sample is flagged; inconclusive where the method cannot decide."""
        if self.inconclusive or np.isnan(self.scores).all():
            return "inconclusive"
        return "found" if self.flagged.any() else "nothing"

    @property
    def flagged_rows(self) -> np.ndarray:
        """(m,) row numbers of the flagged samples in the data file."""
        rows = np.arange(len(self.flagged)) if self.row_numbers is None else self.row_numbers
        return rows[self.flagged]

    def _own_rows(self) -> list[tuple[str, str]]:
        number, total = int(self.flagged.sum()), len(self.flagged)
        suspicious = [name for name, group in self.groups.items() if group.flagged]
        return [
            ("flagged", f"{number} of {total} samples ({number / total:.2%})"),
            ("suspicious groups", ", ".join(suspicious) or "none"),
        ]

    def completed(self, model: Classifier, judged: Samples | None) -> Self:
        """Add the row numbers of the judged samples, and thumbnails of the suspicious groups."""
        if judged is None:
            return self
        if len(judged) != len(self.scores):
            raise TypeError(f"{len(self.scores)} scores were given for {len(judged)} samples")
        return replace(self, row_numbers=judged.row_numbers, thumbnails=_thumbnails(self, judged))

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            **super().facts(),
            "flagged": self.flagged_rows,
            "groups": {name: vars(group) for name, group in self.groups.items()},
            "thumbnails": list(self.thumbnails),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        out = super().arrays()
        for number, pictures in enumerate(self.thumbnails.values()):
            out |= {f"thumbnails_{number}_flagged": pictures.flagged}
            out |= {f"thumbnails_{number}_kept": pictures.kept}
        return out

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        groups = {
            str(name): Group(float(g["score"] or 0.0), bool(g["flagged"]), dict(g["figures"]))
            for name, g in facts.get("groups", {}).items()
        }
        thumbnails = {
            str(name): Thumbnails(arrays[f"thumbnails_{i}_flagged"], arrays[f"thumbnails_{i}_kept"])
            for i, name in enumerate(facts.get("thumbnails", []))
        }
        common = cls._common(facts, arrays)
        common["flagged"] = common["flagged"].astype(bool)
        return cls(**{**common, "groups": groups, "thumbnails": thumbnails})


def _thumbnails(answer: FlaggedSamples, judged: Samples) -> dict[str, Thumbnails]:
    """Pictures of the suspicious groups; of all samples where there are no groups."""
    if not answer.flagged.any():
        return {}
    if answer.group_of is None:
        groups = {"all": np.ones(len(judged), bool)}
    else:
        names = [name for name, group in answer.groups.items() if group.flagged]
        names = names or [str(n) for n in np.unique(answer.group_of[answer.flagged])]
        groups = {name: answer.group_of == name for name in names[:GROUPS_SHOWN]}
    order = np.argsort(-np.nan_to_num(answer.scores, nan=-np.inf), kind="stable")
    out = {}
    for name, members in groups.items():
        flagged = [row for row in order if members[row] and answer.flagged[row]][:SHOWN]
        kept = [row for row in order[::-1] if members[row] and not answer.flagged[row]]
        # Evenly from the least suspicious to the most, so that the border is seen too.
        kept = kept[:: max(1, len(kept) // SHOWN)][:SHOWN]
        out[name] = Thumbnails(_pictures(judged, flagged), _pictures(judged, kept))
    return out


def _pictures(samples: Samples, rows: list[int]) -> np.ndarray:
    if not rows:
        return np.empty((0, *samples.image_shape), np.uint8)
    return samples.subset(np.array(rows)).as_bytes()
