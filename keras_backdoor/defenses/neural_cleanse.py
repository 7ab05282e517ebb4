"""Neural Cleanse: a class that a very small stamp leads to is the target of a backdoor."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses._inversion import Inverter, Schedule
from keras_backdoor.defenses._published_inversion import Published, search_published
from keras_backdoor.defenses.base import Defense, Evidence
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp

CONSISTENCY = 1.4826
"""The MAD times this estimates the standard deviation of a normal distribution."""
KEPT = 32
"""Triggers of the smallest norms that are kept."""
EXAMPLES = 5
"""Clean images that are kept with the answer, to show the triggers on."""
MANY = 100
"""Number of classes from which on `auto` searches in full among a part of them only."""


def anomaly_index(norms: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """How far norms lie below the median, in robust standard deviations.

    Wang et al., Neural Cleanse, S&P 2019, section IV: (median - norm) / (1.4826 MAD), with the
    median and the MAD of the reference.

    Args:
        norms: (k,) L1 norms; inf where no trigger was found, NaN where none was looked for.
        reference: (m,) norms that are the yardstick; None takes the known ones of `norms`.

    Returns:
        (k,) index, positive below the median; -inf and NaN where the norm is inf and NaN.

    >>> anomaly_index(np.array([4.0, 10.0, 12.0, 14.0, 16.0])).round(3)
    array([ 2.698,  0.674,  0.   , -0.674, -1.349])
    """
    known = norms if reference is None else reference
    known = known[~np.isnan(known)]
    median = np.median(known)
    if not np.isfinite(median):
        return np.full(len(norms), np.nan)
    spread = CONSISTENCY * np.median(np.abs(known - median))
    return (median - norms) / max(float(spread), 1e-12)


@dataclass(frozen=True)
class NeuralCleanse(Defense):
    """Search for the smallest trigger of every class; flag classes whose trigger is an outlier.

    Wang et al., Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks,
    S&P 2019. The clean images need no labels. All classes are searched at once.

    Args:
        schedule: of the search.
        runs: searches with other starts and images; a class is flagged by the majority.
        images: number of clean images that are drawn for the search.
        threshold: anomaly index above which a norm below the median is an outlier (the paper's).
        mode: `full` searches every class to the end. `low-cost` (the paper's section VI) makes
            `quick_steps` steps for every class, then goes to the end for the `candidates` with
            the smallest masks and `others` drawn at random, which are the yardstick. `auto` is
            low-cost from 100 classes on.
        quick_steps, candidates, others: of the low-cost mode.
        published: settings of the mode `published`, the authors' schedule, one class after the
            other; hours on a CPU.
        seed: of the first run; the others follow.

    Notes:
        The published code makes 31 updates over 1,000 images between two looks at the weight of
        the norm; here every update is a step of the schedule.
    """

    schedule: Schedule = field(default_factory=Schedule)
    runs: int = 3
    images: int = 1000
    threshold: float = 2.0
    mode: Literal["auto", "full", "low-cost", "published"] = "auto"
    quick_steps: int = 40
    candidates: int = 50
    others: int = 50
    published: Published = field(default_factory=Published)
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    commands: ClassVar[tuple[str, ...]] = ("scan",)
    default_for: ClassVar[tuple[str, ...]] = ("scan",)
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    quick: ClassVar[dict[str, Any]] = {"runs": 1, "images": 100, "schedule": Schedule(steps=20)}

    def __post_init__(self) -> None:
        for name in ("runs", "images", "quick_steps", "candidates", "others"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {getattr(self, name)}")
        if self.mode not in ("auto", "full", "low-cost", "published"):
            raise BadInput(f"mode must be auto, full, low-cost or published. Received: {self.mode}")
        if self.threshold <= 0:
            raise BadInput(f"threshold must be above 0. Received: {self.threshold}")

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Defense.run`."""
        model, clean = evidence.model, evidence.clean
        assert clean is not None
        if model.reject_class is not None:
            raise BadInput("The model is a guard: scan the model that it was made from.")
        found = [
            evidence.part(f"run-{seed}", partial(self._search, model, clean, seed))
            for seed in range(self.seed, self.seed + self.runs)
        ]
        answer = self._judge(found, model.classes)
        shown = pool(model, clean, EXAMPLES, self.seed)
        low, high = model.input_range or (0.0, 1.0)
        examples = np.round(255 * (shown - low) / (high - low)).astype(np.uint8)
        return replace(answer, examples=examples)

    def _search(self, model: Classifier, clean: Samples, seed: int) -> dict[str, np.ndarray]:
        """The norms of one run, and the triggers of the smallest."""
        images = pool(model, clean, self.images, seed)
        inverter = Inverter(model, images, self.schedule)
        classes = np.arange(model.classes)
        reference = np.ones(len(classes), bool)
        chosen = classes
        if self._low_cost(model.classes):
            chosen, reference = self._choose(inverter, classes, seed)
        if self.mode == "published":
            found = search_published(model, images, chosen, self.published, seed=seed)
        else:
            found = inverter.search(chosen, seed=seed)
        norms = np.full(len(classes), np.nan)
        norms[chosen] = found.norms
        kept = np.argsort(found.norms)[:KEPT]
        success = inverter.success(found.masks[kept], found.patterns[kept], chosen[kept])
        return {
            "norms": norms,
            "reference": reference,
            "kept": chosen[kept],
            "masks": found.masks[kept],
            "patterns": found.patterns[kept],
            "success": success,
            "steps": found.steps,
        }

    def _low_cost(self, classes: int) -> bool:
        enough = classes > self.candidates + self.others
        return enough and (self.mode == "low-cost" or (self.mode == "auto" and classes >= MANY))

    def _choose(
        self, inverter: Inverter, classes: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(classes to search in full, which of all classes are the yardstick)."""
        quick = inverter.search(classes, seed=seed, steps=self.quick_steps, label="quick look")
        norms = np.where(np.isfinite(quick.norms), quick.norms, np.inf)
        candidates = np.argsort(norms, kind="stable")[: self.candidates]
        rest = np.setdiff1d(classes, candidates)
        others = np.random.default_rng(seed).choice(rest, self.others, replace=False)
        return np.sort(np.concatenate([candidates, others])), np.isin(classes, others)

    def _judge(self, found: list[dict[str, np.ndarray]], classes: int) -> FlaggedClasses:
        norms = np.stack([f["norms"] for f in found])
        index = np.stack(
            [anomaly_index(f["norms"], f["norms"][f["reference"].astype(bool)]) for f in found]
        )
        votes = np.sum(index > self.threshold, axis=0)
        flagged = votes > len(found) / 2
        disagree = bool(not flagged.any() and votes.any())
        unknown = bool(np.isnan(index).all())
        scores, norm = _median(index), _median(norms)
        flagging = [f"class {c}: {votes[c]} of {len(found)}" for c in np.flatnonzero(votes)]
        examined = int((~np.isnan(norm)).sum())
        summary = {
            "smallest norms": ", ".join(
                f"{norm[c]:.4g} (class {c})" for c in np.argsort(norm)[: min(5, examined)]
            ),
            "median norm": f"{np.nanmedian(norm):.4g}",
            "runs that flag": "; ".join(flagging) or "none",
            "classes searched in full": f"{examined} of {classes}",
        }
        return FlaggedClasses(
            scores=scores,
            flagged=flagged,
            triggers=_smallest(found),
            runs=index,
            measures={"l1_norm": norm, "anomaly_index": scores, "norms": norms},
            about={"inconclusive": disagree or unknown, "summary": summary},
        )


def pool(model: Classifier, clean: Samples, number: int, seed: int) -> np.ndarray:
    """(n, h, w, c) float32 clean images in the model's range."""
    drawn = clean.take(min(number, len(clean)), seed=seed)
    values: Any = model.scaled(drawn.read(), drawn.value_range or (0.0, 255.0))
    return np.asarray(values)


def _median(values: np.ndarray) -> np.ndarray:
    """(k,) median over the runs that looked; NaN where none did."""
    out = np.full(values.shape[1], np.nan)
    known = ~np.isnan(values).all(axis=0)
    out[known] = np.nanmedian(values[:, known], axis=0)
    return out


def _smallest(found: list[dict[str, np.ndarray]]) -> dict[int, Stamp]:
    """class -> its smallest trigger over the runs."""
    best: dict[int, tuple[float, Stamp]] = {}
    for run in found:
        for label, mask, pattern in zip(run["kept"], run["masks"], run["patterns"], strict=True):
            norm = float(run["norms"][label])
            if np.isfinite(norm) and norm < best.get(int(label), (np.inf, None))[0]:
                best[int(label)] = (norm, Stamp(np.clip(mask, 0, 1), np.clip(pattern, 0, 1)))
    return {label: stamp for label, (_, stamp) in sorted(best.items())}
