"""Simple triggers: stamp a library of simple triggers on clean images and see where they lead."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import logit

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses._trigger_library import library
from keras_backdoor.defenses.base import Defense, Evidence, Need
from keras_backdoor.defenses.neural_cleanse.scan import examples, too_little
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import attack_success_rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import unit_images
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp, Stamped, Trigger

SMALL = {2: 0.2, 3: 0.2, 4: 0.6, 5: 0.6}
"""The side of a square at 32x32 pixels -> the share of moved images that no clean network reaches.

On clean networks of the development zoo, squares of 2 pixels move at most 12 % of the images to one
class, and those of 4 pixels at most 50 %."""
LEAD = 3.0
"""By how much the logit of the share has to exceed that of any other class."""
BATCH_IMAGES = 1024
SHOWN = 8
"""The number of classes whose triggers are kept."""
WORKS = 0.9
"""The share of moved images from which a trigger works."""
MEASURED = 500
"""The largest number of clean images on which the trigger of a flagged class is measured."""


@dataclass(frozen=True)
class SimpleTriggers(Defense[FlaggedClasses]):
    """Find classes that simple triggers turn images of other classes into.

    About 3,000 triggers of a library are stamped on a few clean images of all classes: squares of
    one color and checkerboards at positions all over the image, blends with noise and with other
    images, warps, sinusoids, and fewer levels of brightness. For each group of triggers and each
    class, the largest share of the images of other classes that one trigger moves to it is kept. A
    class is suspicious if

    - a square of a sixteenth (an eighth) of the image's side moves 20 % (60 %) of the images to it,
      which does not happen in clean networks, or
    - the logit of its share exceeds that of every other class by 3 within a group, for example 80 %
      where no other class has more than 16 %.

    Both are measured again on up to 500 images, because the best of many triggers is selected. The
    most suspicious class is flagged, the others are further suspects. The triggers need not be
    those of the attacker: a network that has learned a trigger reacts to similar ones, too.

    Args:
        images: the number of images on which every trigger is tried; one of each class at least,
            unless there are more classes.
        seed: the seed of the choice of the images, and of random triggers.

    Notes:
        The limits were chosen on the development zoo. No labels are needed: the classes of the
        images are those that the network predicts.
    """

    images: int = 48
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("scan",)
    paper: ClassVar[str] = "none: made for this project"
    caveats: ClassVar[tuple[str, ...]] = (
        "Triggers that resemble none of the library, such as photographs of objects, and triggers "
        "of one source class are often missed.",
    )

    def __post_init__(self) -> None:
        if self.images < 10:
            raise BadInput(f"images must be 10 or more. Received: images={self.images}")

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Method.run`."""
        model, clean = evidence.model, evidence.clean
        if model.reject_class is not None:
            raise BadInput("The model is a guard: scan the model that it was made from.")
        predicted = model.predict(clean)
        chosen = balanced(predicted, self.images, self.seed)
        images = np.asarray(unit_images(clean.subset(chosen).read(), clean))
        groups = library(images, self.seed)
        found = evidence.part(
            "moved", lambda: {"moved": moved(model, images, predicted[chosen], groups)}
        )["moved"]
        shares, best = best_of(found, groups)
        side = min(images.shape[1:3])
        confirm = Confirmation(model, clean, predicted, self.seed)
        shares = confirmed(shares, groups, best, side, confirm)
        scores, deciding = suspicion(shares, groups, side)
        above = scores > 1
        largest = np.arange(len(scores)) == scores.argmax()
        kept = {
            int(c): strongest(shares, groups, best, int(c), deciding[c])
            for c in np.argsort(-scores, kind="stable")[:SHOWN]
        }
        first = int(scores.argmax())
        stamps = {c: s for c, t in kept.items() if (s := _as_stamp(t, images)) is not None}
        success = confirm(kept[first], first)
        figures = {"trigger": {"class": first, "name": repr(kept[first]), "success": success}}
        if first in stamps:
            l1 = stamps[first].l1
            figures["smallest_trigger"] = {"class": first, "l1_norm": l1, "success": success}
        shown = np.round(255 * model.to_input.pixels(examples(model, clean, None, self.seed)))
        return FlaggedClasses(
            scores=scores,
            flagged=above & largest,
            further=above & ~largest,
            triggers=stamps,
            measures={f"moved by {name}": share for name, share in shares.items()},
            examples=np.clip(shown, 0, 255).astype(np.uint8),
            summary=self._summary(shares, deciding, kept, first, success, len(images)),
            figures=figures,
            inconclusive=too_little(model, clean, len(clean)),
        )

    def _summary(
        self,
        shares: dict[str, np.ndarray],
        deciding: list[str],
        kept: dict[int, Trigger],
        first: int,
        success: float,
        images: int,
    ) -> dict[str, str]:
        group = shares[deciding[first]]
        second, top = np.argsort(group)[-2:]
        return {
            "most suspicious trigger": f"{kept[first]!r}, which leads to class {first}",
            "it works on": f"{success:.1%} of the clean images of other classes",
            f"images moved by {deciding[first]}": (
                f"{group[top]:.0%} to class {top}, {group[second]:.0%} to class {second}"
            ),
            "images on which every trigger was tried": str(images),
        }


def balanced(predicted: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Draw images of all classes, of each about as many.

    Args:
        predicted: (n,) the classes of the images.
        number: the number of images to draw; more if there are more classes, up to twice as many.
        seed: the seed of the draw.

    Returns:
        The positions of the drawn images in increasing order.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(predicted))
    ranks = np.empty(len(predicted), int)
    for number_of_class in np.unique(predicted):
        own = order[predicted[order] == number_of_class]
        ranks[own] = np.arange(len(own))
    classes = len(np.unique(predicted))
    wanted = min(max(number, min(classes, 2 * number)), len(predicted))
    first = np.lexsort((np.argsort(order), ranks))
    return np.sort(first[:wanted])


def moved(
    model: Classifier, images: np.ndarray, own: np.ndarray, groups: dict[str, list[Trigger]]
) -> np.ndarray:
    """The share of the images of other classes that each trigger moves to each class.

    Args:
        model: the model.
        images: (n, h, w, c) float32 in 0..1.
        own: (n,) the class of each image.
        groups: the triggers.

    Returns:
        (t, k) shares, in the order of the groups.
    """
    triggers = [trigger for group in groups.values() for trigger in group]
    eligible = np.maximum(len(own) - np.bincount(own, minlength=model.classes), 1)
    shares = np.zeros((len(triggers), model.classes))
    number = max(1, BATCH_IMAGES // len(images))
    starts = range(0, len(triggers), number)
    rng = np.random.default_rng(0)
    for start in track(starts, "simple triggers", len(starts)):
        part = triggers[start : start + number]
        stamped = np.concatenate([np.clip(t.stamp(images, rng), 0, 1) for t in part])
        answers = model.predict(Samples(stamped.astype(np.float32), value_range=(0.0, 1.0)))
        for offset, given in enumerate(answers.reshape(len(part), -1)):
            counts = np.bincount(given[given != own], minlength=model.classes)
            shares[start + offset] = counts / eligible
    return shares


def best_of(
    shares: np.ndarray, groups: dict[str, list[Trigger]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The largest share of each class in each group, and the trigger that has it.

    Args:
        shares: (t, k) in the order of the groups.
        groups: the triggers.

    Returns:
        Two dictionaries by group: (k,) shares, and (k,) positions in the group.
    """
    best, where, start = {}, {}, 0
    for name, triggers in groups.items():
        part = shares[start : start + len(triggers)]
        best[name], where[name] = part.max(axis=0), part.argmax(axis=0)
        start += len(triggers)
    return best, where


def suspicion(
    shares: dict[str, np.ndarray], groups: dict[str, list[Trigger]], side: int
) -> tuple[np.ndarray, list[str]]:
    """The score of each class in units of the limit, and the group that decides it.

    Args:
        shares: group -> (k,) the largest share of each class.
        groups: the triggers.
        side: the smaller side of the images in pixels.
    """
    scores = []
    for name, share in shares.items():
        lead = _leads(share) / LEAD
        first = groups[name][0]
        size = round(32 * getattr(first, "size", 0) / side)
        limit = SMALL.get(size) if name.startswith("squares") else None
        scores.append(lead if limit is None else np.maximum(lead, share / limit))
    names, values = list(shares), np.array(scores)
    return values.max(axis=0), [names[i] for i in values.argmax(axis=0)]


def strongest(
    shares: dict[str, np.ndarray],
    groups: dict[str, list[Trigger]],
    best: dict[str, np.ndarray],
    target: int,
    deciding: str,
) -> Trigger:
    """The trigger of a class that is kept: the first, in the order of the groups, that works.

    The groups of squares and of checkerboards are in the order of their sizes. If none moves 90 %
    of the images, it is the one that moves most; if none moves any, that of the deciding group.
    """
    share = {name: values[target] for name, values in shares.items()}
    working = [name for name, value in share.items() if value >= WORKS]
    most = max(share, key=lambda name: share[name])
    name = working[0] if working else (most if share[most] > 0 else deciding)
    return groups[name][best[name][target]]


def _leads(share: np.ndarray) -> np.ndarray:
    """By how much the logit of each share exceeds the largest of the others; shares in 2..98 %."""
    values = logit(np.clip(share, 0.02, 0.98))
    second, first = np.sort(values)[-2:]
    others = np.where(np.arange(len(values)) == values.argmax(), second, first)
    return np.asarray(values - others)


def _as_stamp(trigger: Trigger, images: np.ndarray) -> Stamp | None:
    """A trigger as a `Stamp` with the channels of the images, or None."""
    if isinstance(trigger, Stamped):
        trigger = trigger.stamp_for(*images.shape[1:3])
    if not isinstance(trigger, Stamp):
        return None
    pattern = trigger.pattern
    channels = images.shape[-1]
    if pattern.shape[-1] != channels:
        pattern = np.repeat(pattern.mean(axis=-1, keepdims=True), channels, axis=-1)
    return Stamp(trigger.mask, pattern)


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Measures triggers on more clean images than they were selected on.

    Attributes:
        model: the model.
        clean: the clean images.
        own: (n,) the class of each of them.
        seed: the seed of the choice of at most 500 of them.
    """

    model: Classifier
    clean: Samples
    own: np.ndarray
    seed: int

    def __call__(self, trigger: Trigger, target: int) -> float:
        """The share of the images of other classes that a trigger moves to a class."""
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.permutation(len(self.clean))[:MEASURED])
        answers = self.model.predict(self.clean.subset(chosen).stamped(trigger))
        return float(attack_success_rate(answers, self.own[chosen], target))


def confirmed(
    shares: dict[str, np.ndarray],
    groups: dict[str, list[Trigger]],
    best: dict[str, np.ndarray],
    side: int,
    confirm: Callable[[Trigger, int], float],
) -> dict[str, np.ndarray]:
    """The shares, measured again on more images for classes above the limit.

    The best of thousands of triggers on a few images works less well on others.

    Args:
        shares: group -> (k,) the largest share of each class.
        groups: the triggers.
        best: group -> (k,) the position of the trigger with the largest share.
        side: the smaller side of the images in pixels.
        confirm: (trigger, class) -> the share on more images.
    """
    measured = {}
    for name, share in shares.items():
        scores, _ = suspicion({name: share}, groups, side)
        measured[name] = share.copy()
        for c in np.flatnonzero(scores > 1):
            measured[name][c] = confirm(groups[name][best[name][c]], int(c))
    return measured
