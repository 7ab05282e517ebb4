"""Staged scan: the looks at a network that the evidence allows, the cheapest first, one verdict."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.defenses._repeated_search import RepeatedSearch
from keras_backdoor.defenses.base import Defense, Evidence, Need, check_no_guard
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.simple_triggers import SimpleTriggers
from keras_backdoor.defenses.weight_signature import WeightSignature
from keras_backdoor.errors import BadInput
from keras_backdoor.progress import tell
from keras_backdoor.triggers.base import Stamp

WEIGHTS, TRIGGERS, SEARCH = "weights of the last layer", "simple triggers", "search for triggers"
NAMES = {"weights": WEIGHTS, "triggers": TRIGGERS, "search": SEARCH}
"""Setting of `StagedScan` -> name of the look, in the order of the looks."""


@dataclass(frozen=True)
class Look:
    """What one method says.

    Attributes:
        name: the name of the look.
        answer: its answer, or None if it could not look.
        reason: why there is no answer.
    """

    name: str
    answer: FlaggedClasses | None
    reason: str = ""

    @property
    def flagged(self) -> np.ndarray:
        """(k,) bool, the classes that the scan flags because of this look."""
        assert self.answer is not None
        if self.answer.verdict != "found":
            return np.zeros_like(self.answer.flagged)
        return self.answer.flagged

    @property
    def suspects(self) -> np.ndarray:
        """(k,) bool, the classes that this look suspects."""
        assert self.answer is not None
        return np.asarray((self.answer.flagged | self.answer.suspects) & ~self.flagged)

    def __str__(self) -> str:
        if self.answer is None:
            return self.reason
        answer = self.answer
        best = int(np.nanargmax(answer.scores)) if not np.isnan(answer.scores).all() else None
        largest = (
            "" if best is None else f"; largest score {answer.scores[best]:.2f} (class {best})"
        )
        if self.flagged.any():
            said = f"class {listed(self.flagged)} flagged"
        elif self.suspects.any():
            said = f"class {listed(self.suspects)} suspicious"
        else:
            said = "no decision" if answer.verdict == "inconclusive" else "nothing"
            if best is None:
                said += f": {answer.inconclusive}"
        return f"{said}{largest}; {answer.about.get('seconds', 0):.1f} s"


@dataclass(frozen=True)
class StagedScan(Defense[FlaggedClasses]):
    """Look at a network in three ways, the cheapest first, and give one verdict.

    1. The weights of the last layer (`WeightSignature`), without data. With 20 classes or more, an
       outlier is flagged; with fewer, it is only a suspect.
    2. A library of simple triggers on clean images (`SimpleTriggers`). What it flags is flagged.
    3. The search for the smallest trigger of each class (`NeuralCleanse`), only if no class with a
       known trigger is flagged yet. If the smallest trigger is within a factor of 1.5 of the limit,
       the uncertain classes are searched again, in up to three runs in all; a class is flagged by
       the majority.

    The score of a class is the largest of the looks. A scan that flags nothing is inconclusive if a
    class is suspicious, without clean images, or if they are too few for the search.

    Args:
        weights: the settings of the first look; None leaves it out, for example for a repaired
            network, whose weights may keep the mark of a backdoor that no longer works.
        triggers: the settings of the second look; None leaves it out.
        search: the settings of the third look; None leaves it out, and a scan that flags nothing is
            inconclusive.
    """

    weights: WeightSignature | None = field(default_factory=WeightSignature)
    triggers: SimpleTriggers | None = field(default_factory=SimpleTriggers)
    search: NeuralCleanse | None = field(default_factory=NeuralCleanse)

    needs: ClassVar[tuple[Need, ...]] = (Need("clean", optional=True),)
    commands: ClassVar[tuple[str, ...]] = ("scan",)
    default_for: ClassVar[tuple[str, ...]] = ("scan",)
    paper: ClassVar[str] = "none: made for this project; the looks name theirs"
    revision: ClassVar[int] = 2
    quick: ClassVar[dict[str, Any]] = {"search": NeuralCleanse(**NeuralCleanse.quick)}
    caveats: ClassVar[tuple[str, ...]] = (
        "Backdoors that work on images of one class only are often missed; so are those that a few "
        "poisoned images planted. If the training data is at hand, audit it.",
    )

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Method.run`."""
        check_no_guard(evidence.model)
        return combined(map(_told, self._looks(evidence)), evidence.model.classes)

    def _looks(self, evidence: Evidence) -> Iterator[Look]:
        """The looks, each made when it is asked for."""
        if self.weights is not None:
            yield Look(WEIGHTS, evidence.run(self.weights))
        if evidence.get("clean") is None:
            if self.weights is None:
                raise BadInput("StagedScan without weights needs clean images (--clean).")
            return
        if self.triggers is None:
            yield Look(TRIGGERS, None, reason="left out")
        else:
            yield Look(TRIGGERS, evidence.run(self.triggers))
        if self.search is None:
            yield Look(SEARCH, None, reason="left out")
        else:
            yield Look(SEARCH, _searched(self.search, evidence))


def _searched(search: NeuralCleanse, evidence: Evidence) -> FlaggedClasses:
    """The answer of the search, whose further runs are made only where they can change it."""
    answer = evidence.run(RepeatedSearch.like(search))
    runs = 1 if answer.runs is None else len(answer.runs)
    return replace(answer, summary={**answer.summary, "runs": str(runs)})


def _told(look: Look) -> Look:
    """The look, after its result has been told."""
    tell(f"{look.name}: {look}")
    return look


def _settles(look: Look) -> bool:
    """Whether a look flags a class with a known trigger, so that no further one is needed."""
    return look.answer is not None and any(
        c in look.answer.triggers for c in np.flatnonzero(look.flagged)
    )


def combined(made_in_order: Iterable[Look], classes: int) -> FlaggedClasses:
    """One answer from those of the looks.

    Args:
        made_in_order: the looks. Those after the one that settles the scan are not asked for.
        classes: the number of classes.
    """
    looks: list[Look] = []
    for look in made_in_order:
        looks.append(look)
        if _settles(look):
            break
    made = [(look, look.answer) for look in looks if look.answer is not None]
    scores = np.full(classes, np.nan)
    flagged, suspects = (np.zeros(len(scores), bool) for _ in range(2))
    parts: dict[str, Any] = {"measures": {}, "figures": {}, "source": {}}
    about: dict[str, Any] = {}
    examples = None
    for look, answer in made:
        flagged, suspects = flagged | look.flagged, suspects | look.suspects
        scores = np.fmax(scores, answer.scores)
        for name, values in parts.items():
            values |= getattr(answer, name)
        examples = answer.examples if answer.examples is not None else examples
        about |= {k: answer.about[k] for k in ("median_norm", "limits") if k in answer.about}
    suspects &= ~flagged
    triggers = dict[int, Stamp]()
    for look, answer in made:
        # The trigger that a look has of a class that only another look accuses is an ordinary one.
        accused = (flagged | suspects) & ~(look.flagged | look.suspects)
        triggers |= {c: t for c, t in answer.triggers.items() if not accused[c]}
    parts["figures"]["looks"] = {look.name: _facts(look) for look in looks}
    return FlaggedClasses(
        scores=scores,
        flagged=flagged,
        further=suspects,
        triggers=dict(sorted(triggers.items())),
        examples=examples,
        summary={look.name: str(look) for look in looks},
        inconclusive="" if flagged.any() else _missing(looks, suspects, triggers),
        about=about,
        **parts,
    )


def _facts(look: Look) -> dict[str, Any]:
    """What a look says, for programs."""
    answer = look.answer
    if answer is None:
        return {"verdict": "not looked at", "reason": look.reason}
    return {
        "verdict": answer.verdict,
        "flagged": np.flatnonzero(look.flagged).tolist(),
        "suspects": np.flatnonzero(look.suspects).tolist(),
        "scores": [None if np.isnan(s) else float(s) for s in answer.scores],
        "seconds": answer.about.get("seconds"),
        "summary": answer.summary,
    }


def _missing(looks: list[Look], suspects: np.ndarray, triggers: Collection[int]) -> str:
    """Why a scan that flags nothing is no decision; empty if it is one.

    Args:
        looks: the looks that were made.
        suspects: (k,) bool.
        triggers: the classes with a trigger, with which a repair could be measured.
    """
    last = looks[-1]
    if last.name == WEIGHTS:
        return "without clean images only the weights were looked at: pass --clean DATA"
    if last.answer is None:
        return (
            "the search for triggers was left out, which a verdict needs if nothing else is found"
        )
    for look in looks:
        if look.name != WEIGHTS and look.answer and look.answer.verdict == "inconclusive":
            return look.answer.inconclusive
    if suspects.any():
        measurable = set(np.flatnonzero(suspects)) <= set(triggers)
        more = ", or repair the model in any case" if measurable else ""
        return f"class {listed(suspects)} is suspicious: audit the training data{more}"
    return ""
