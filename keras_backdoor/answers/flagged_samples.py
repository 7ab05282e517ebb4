"""Flagged samples: which samples are suspicious."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from keras_backdoor.answers.base import Answer, check_scores
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

SHOWN = 12
"""The largest number of flagged and of unflagged thumbnails of a group."""
SIGNIFICANT = 0.01
"""The largest p-value of a binomial test with which flagged samples count as found."""
GROUPS_SHOWN = 8
"""The largest number of suspicious groups that get thumbnails."""


@dataclass(frozen=True)
class Group:
    """A group of samples that is evaluated as a whole, such as a class or an origin.

    Args:
        score: how suspicious the group is.
        flagged: whether the group is suspicious.
        figures: name -> further measurements of the group.
    """

    score: float
    flagged: bool
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Images of a suspicious group.

    Args:
        flagged: (m, h, w, c) uint8, the most suspicious flagged samples.
        kept: (m, h, w, c) uint8, samples of the same group that are not flagged.
    """

    flagged: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FlaggedSamples(Answer):
    """Which samples are suspicious.

    A method sets the first five attributes; `completed` adds the others.

    Attributes:
        scores: (n,) how suspicious each sample is; NaN means not examined.
        flagged: (n,) bool, whether each sample is suspicious.
        groups: name of a group -> its score, its flag and its measurements.
        group_of: (n,) the name of the group of each sample, or None.
        embedding: (n, d) coordinates of each sample for a plot, d >= 2, or None.
        row_numbers: (n,) the row of each sample in the data file, starting at 0, or None.
        labels: (n,) the given label of each sample, or None.
        false_alarms: the share of clean samples that the method flags by its definition. The
            verdict is found only if significantly more are flagged.
        thumbnails: name of a suspicious group -> its images.
    """

    scores: np.ndarray
    flagged: np.ndarray
    groups: dict[str, Group] = field(default_factory=dict)
    group_of: np.ndarray | None = None
    embedding: np.ndarray | None = None
    row_numbers: np.ndarray | None = None
    labels: np.ndarray | None = None
    false_alarms: float = 0.0
    thumbnails: dict[str, Thumbnails] = field(default_factory=dict)
    _arrays: ClassVar[tuple[str, ...]] = (
        "scores", "flagged", "group_of", "embedding", "row_numbers", "labels",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_scores(self.scores, self.flagged)
        for name in ("group_of", "embedding", "row_numbers", "labels"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.scores):
                raise BadInput(
                    f"{name} must have one value for each sample. Received: {len(values)} for "
                    f"{len(self.scores)}"
                )

        if self.embedding is not None and (self.embedding.ndim != 2 or self.embedding.shape[1] < 2):
            raise BadInput(
                "embedding must have shape (n, d) with d of 2 or more. Received: "
                f"{self.embedding.shape}"
            )

    @property
    def verdict(self) -> str:
        """Inconclusive if the method cannot decide, found if samples are flagged, else nothing."""
        if self.inconclusive or np.isnan(self.scores).all():
            return "inconclusive"
        if not self.false_alarms:
            return "found" if self.flagged.any() else "nothing"
        from scipy.stats import binomtest

        number, total = int(self.flagged.sum()), len(self.flagged)
        more = binomtest(number, total, self.false_alarms, alternative="greater")
        return "found" if more.pvalue < SIGNIFICANT else "nothing"

    @property
    def flagged_rows(self) -> np.ndarray:
        """(m,) the row numbers of the flagged samples in the data file."""
        rows = np.arange(len(self.flagged)) if self.row_numbers is None else self.row_numbers
        return rows[self.flagged]

    def _own_rows(self) -> list[tuple[str, str]]:
        number, total = int(self.flagged.sum()), len(self.flagged)
        usual = f"; {self.false_alarms:.2%} of clean samples are" if self.false_alarms else ""
        rows = [("flagged", f"{number} of {total} samples ({number / total:.2%}{usual})")]
        if self.groups:
            suspicious = [name for name, group in self.groups.items() if group.flagged]
            rows.append(("suspicious groups", ", ".join(suspicious) or "none"))
        return rows

    def completed(self, model: Classifier, samples: Samples | None) -> Self:
        """A copy with the row numbers and labels of the samples, and thumbnails of the groups."""
        if samples is None:
            return self
        if len(samples) != len(self.scores):
            raise TypeError(f"{len(self.scores)} scores were given for {len(samples)} samples")
        return replace(
            self,
            row_numbers=samples.row_numbers,
            labels=samples.labels,
            thumbnails=_thumbnails(self, samples),
        )

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            **super().facts(),
            "flagged": self.flagged_rows,
            "false_alarms": self.false_alarms,
            "groups": {name: vars(group) for name, group in self.groups.items()},
            "thumbnails": list(self.thumbnails),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        out = super().arrays()
        for number, images in enumerate(self.thumbnails.values()):
            out |= {f"thumbnails_{number}_flagged": images.flagged}
            out |= {f"thumbnails_{number}_kept": images.kept}
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
        rate = float(facts.get("false_alarms", 0.0))
        own = {"groups": groups, "thumbnails": thumbnails, "false_alarms": rate}
        return cls(**{**common, **own})


def _thumbnails(answer: FlaggedSamples, samples: Samples) -> dict[str, Thumbnails]:
    """Thumbnails of the suspicious groups, or of all samples if the answer has no groups."""
    if not answer.flagged.any():
        return {}
    if answer.group_of is None:
        groups = {"all": np.ones(len(samples), bool)}
    else:
        names = [name for name, group in answer.groups.items() if group.flagged]
        names = names or [str(n) for n in np.unique(answer.group_of[answer.flagged])]
        groups = {name: answer.group_of == name for name in names[:GROUPS_SHOWN]}
    order = np.argsort(-np.nan_to_num(answer.scores, nan=-np.inf), kind="stable")
    out = {}
    for name, members in groups.items():
        flagged = [i for i in order if members[i] and answer.flagged[i]][:SHOWN]
        unflagged = [i for i in order[::-1] if members[i] and not answer.flagged[i]]
        # Evenly spaced by suspicion, to include samples near the decision boundary.
        unflagged = unflagged[:: max(1, len(unflagged) // SHOWN)][:SHOWN]
        out[name] = Thumbnails(_images(samples, flagged), _images(samples, unflagged))
    return out


def _images(samples: Samples, indices: list[int]) -> np.ndarray:
    if not indices:
        return np.empty((0, *samples.image_shape), np.uint8)
    return samples.subset(np.array(indices)).as_bytes()
