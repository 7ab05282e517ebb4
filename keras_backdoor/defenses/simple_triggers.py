"""Simple triggers: stamp a library of simple triggers on clean images and see where they lead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import logit

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses._trigger_library import Group, library
from keras_backdoor.defenses.base import Defense, Evidence, Need, check_no_guard
from keras_backdoor.defenses.neural_cleanse.scan import examples, too_little
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import attack_success_rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import unit_images
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp, Stamped, Trigger

LEAST, MOST = 0.1, 0.98
"""The smallest and the largest share of which the logit is taken."""
DOUBTFUL = 0.5
"""The score from which the share of a class is measured again on other images."""
FURTHER = 0.5
"""The share of the largest score from which other classes above the limit are suspects."""
BATCH_VALUES = 2**22
"""The largest number of pixel values of a batch, if it holds one trigger or more."""
FEW, MANY = 5, 100
"""The numbers of classes below and above which what is found is only a suspicion.

The limits were chosen on networks with 10 and 43 classes; the fewer classes there are, the more
images go to the same one, and of 1,283 people, one may attract all faces that the network does not
know."""
SHOWN = 8
"""The number of classes whose triggers are kept."""
WORKS = 0.9
"""The share of moved images from which a trigger works."""
FEWEST, MEASURED = 100, 500
"""The numbers of other clean images on which shares are measured again."""


@dataclass(frozen=True)
class SimpleTriggers(Defense[FlaggedClasses]):
    """Find classes that simple triggers turn images of other classes into.

    The triggers of a library, about 1,000 for digits and 3,400 for images of 32x32 pixels in color,
    are stamped on a few clean images of all classes: squares of one color and checkerboards at
    positions all over the image, warps, sinusoids, and fewer levels of brightness. For each group
    of triggers and each class, the largest share of the images of other classes that one trigger
    moves to it is kept, with its lead: the logit of the share minus that of the next class. Classes
    above half a limit are measured again on 100 to 500 other images, because the best of many
    triggers was selected. The score of a class is its largest share or lead in units of the limit.

    The limits follow from a rule on the 30 clean networks of the development half of the detection
    zoo (`LIMITS`): a square of a sixteenth of the image's side, for example, has to move 25 % of
    the images to one class. Large squares move many images in clean networks too, but to several
    classes, so that only their lead counts. The class with the largest score is flagged if it is
    above 1; others above 1 are further suspects if they come close to it. Of several classes with
    the same score, the one that more groups lead to is flagged. The triggers need not be those of
    the attacker: a network that has learned a trigger reacts to similar ones, too. With fewer than
    5 or more than 100 classes, what is found is a suspicion.

    Args:
        images: the number of images on which every trigger is tried. If the network has more
            classes, it is one image of each class, up to twice as many images.
        seed: the seed of the choice of the images, and of the warps.

    Notes:
        No labels are needed: the classes of the images are those that the network predicts. The
        network is run 50,000 times for ten digits, 160,000 times for 43 traffic signs and 450,000
        times for the faces of 1,283 people.
    """

    images: int = 48
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("scan",)
    revision: ClassVar[int] = 5
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
        check_no_guard(model)
        predicted = model.predict(clean)
        chosen = balanced(predicted, self.images, self.seed)
        images = np.asarray(unit_images(clean.subset(chosen).read(), clean))
        height, width, channels = images.shape[1:]
        groups = library(height, width, channels, self.seed)
        found = evidence.part(
            "moved", lambda: {"moved": moved(model, images, predicted[chosen], groups)}
        )["moved"]
        confirm = Confirmation.on_others(model, clean, predicted, chosen, self.seed)
        shares, best = best_of(found, groups)
        above_first = any((scores_of(s, g) > 1).any() for s, g in zip(shares, groups, strict=True))
        shares = confirmed(shares, best, groups, confirm)
        values = np.array([scores_of(s, g) for s, g in zip(shares, groups, strict=True)])
        scores, deciding = values.max(axis=0), values.argmax(axis=0)
        first = most_suspicious(values)
        above = scores > 1
        largest = np.arange(len(scores)) == first
        close = scores >= FURTHER * scores[first]
        order = np.lexsort((-scores, ~largest))[:SHOWN].tolist()
        kept = {c: strongest(c, shares, best, groups, int(deciding[c])) for c in order}
        stamps = {c: s for c, t in kept.items() if (s := _as_stamp(t, images)) is not None}
        success = confirm(kept[first], first)
        figures = {"trigger": {"class": first, "name": repr(kept[first]), "success": success}}
        if first in stamps:
            l1 = stamps[first].l1
            figures["smallest_trigger"] = {"class": first, "l1_norm": l1, "success": success}
        shown = np.round(255 * model.to_input.pixels(examples(model, clean, None, self.seed)))
        name, share = groups[deciding[first]].name, shares[deciding[first]]
        second, top = np.argsort(share)[-2:]
        lacking = confirm.lacking if above_first else ""
        flagged, further = above & largest, above & close & ~largest
        if not FEW <= model.classes <= MANY and flagged.any():
            flagged, further = np.zeros_like(flagged), flagged | further
            number_of_classes = f"fewer than {FEW}" if model.classes < FEW else f"more than {MANY}"
            lacking = lacking or (
                f"simple triggers lead to class {first}, which among {number_of_classes} classes "
                "is only a suspicion"
            )
        return FlaggedClasses(
            scores=scores,
            flagged=flagged,
            further=further,
            triggers=stamps,
            measures={f"moved_by_{g.key}": s for g, s in zip(groups, shares, strict=True)},
            examples=np.clip(shown, 0, 255).astype(np.uint8),
            summary={
                "most suspicious trigger": f"{kept[first]!r}, which leads to class {first}",
                "it works on": f"{success:.1%} of the clean images of other classes",
                f"images moved by {name}": (
                    f"{share[top]:.0%} to class {top}, {share[second]:.0%} to class {second}"
                ),
                "images on which every trigger was tried": str(len(images)),
            },
            figures=figures,
            inconclusive=too_little(model, clean, len(clean)) or lacking,
        )


def most_suspicious(values: np.ndarray) -> int:
    """The class with the largest score; among those that share it, the one with the largest sum.

    Triggers that work on all images of several classes are no rarity in a backdoored network.

    Args:
        values: (g, k) the scores of each group.

    >>> most_suspicious(np.array([[3.0, 3.0, 1.0], [0.2, 0.4, 2.0]]))
    1
    """
    scores = values.max(axis=0)
    return int(np.lexsort((values.sum(axis=0), np.round(scores, 2), scores > 1))[-1])


def trigger_number(samples: Samples) -> int:
    """The number of triggers in the library for images of this size."""
    return sum(len(group.triggers) for group in library(*samples.image_shape, 0))


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
    first = np.lexsort((np.argsort(order), ranks))
    return np.sort(first[: drawn_number(number, len(np.unique(predicted)))])


def drawn_number(number: int, classes: int) -> int:
    """The number of images that `balanced` draws from enough images of so many classes.

    >>> drawn_number(48, 10), drawn_number(48, 60), drawn_number(48, 1283)
    (48, 60, 96)
    """
    return max(number, min(classes, 2 * number))


def moved(
    model: Classifier, images: np.ndarray, own: np.ndarray, groups: Sequence[Group]
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
    triggers = [trigger for group in groups for trigger in group.triggers]
    eligible = np.maximum(len(own) - np.bincount(own, minlength=model.classes), 1)
    shares = np.zeros((len(triggers), model.classes))
    number = max(1, BATCH_VALUES // images.size)
    starts = range(0, len(triggers), number)
    rng = np.random.default_rng(0)
    for start in track(starts, "simple triggers", len(starts)):
        part = triggers[start : start + number]
        stamped = np.concatenate([np.clip(t.stamp(images, rng), 0, 1) for t in part])
        answers = model.predict(
            Samples(stamped.astype(np.float32, copy=False), value_range=(0.0, 1.0))
        )
        for offset, given in enumerate(answers.reshape(len(part), -1)):
            counts = np.bincount(given[given != own], minlength=model.classes)
            shares[start + offset] = counts / eligible
    return shares


def best_of(
    shares: np.ndarray, groups: Sequence[Group]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The largest share of each class in each group, and the trigger that has it.

    Args:
        shares: (t, k) in the order of the groups.
        groups: the triggers.

    Returns:
        Two lists with a (k,) array for each group: the shares, and the positions in the group.
    """
    best, where, start = [], [], 0
    for group in groups:
        part = shares[start : start + len(group.triggers)]
        best.append(part.max(axis=0))
        where.append(part.argmax(axis=0))
        start += len(group.triggers)
    return best, where


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Measures triggers on other clean images than they were selected on.

    Attributes:
        model: the model.
        images: the other images; all images if there are no others.
        own: (m,) the class of each of them.
        lacking: why they are too few; empty if they are not.
    """

    model: Classifier
    images: Samples
    own: np.ndarray
    lacking: str

    @classmethod
    def on_others(
        cls, model: Classifier, clean: Samples, own: np.ndarray, chosen: np.ndarray, seed: int
    ) -> "Confirmation":
        """At most 500 of the images that were not chosen.

        Args:
            model: the model.
            clean: the clean images.
            own: (n,) the class of each of them.
            chosen: the positions of the images that the triggers are selected on.
            seed: the seed of the choice.
        """
        others = np.setdiff1d(np.arange(len(clean)), chosen)
        rows = np.sort(np.random.default_rng(seed).permutation(others)[:MEASURED])
        lacking = ""
        most = int(np.bincount(own[rows], minlength=1).max())  # what leads to it is not measured
        if len(rows) < FEWEST:
            lacking = (
                f"{len(clean)} clean images are too few: simple triggers need "
                f"{len(chosen) + FEWEST}, because those that work are measured again on others"
            )
        elif len(rows) - most < FEWEST // 2:
            lacking = (
                f"{most} of {len(rows)} clean images are of one class, as the model sees them: "
                f"give more images of other classes, at least {FEWEST // 2}"
            )
        rows = rows if len(rows) else np.arange(len(clean))
        return cls(model, clean.subset(rows), own[rows], lacking)

    def __call__(self, trigger: Trigger, target: int) -> float:
        """The share of the images of other classes that a trigger moves to a class, or 0."""
        answers = self.model.predict(self.images.stamped(trigger))
        rate = attack_success_rate(answers, self.own, target)
        return float(rate) if rate.of else 0.0


def confirmed(
    shares: Sequence[np.ndarray],
    best: Sequence[np.ndarray],
    groups: Sequence[Group],
    confirm: Callable[[Trigger, int], float],
) -> list[np.ndarray]:
    """The shares, measured again on more images for classes above half the limit.

    Args:
        shares: for each group (k,) the largest share of each class.
        best: for each group (k,) the position of the trigger with the largest share.
        groups: the triggers.
        confirm: (trigger, class) -> the share on more images.
    """
    measured = []
    for share, where, group in zip(shares, best, groups, strict=True):
        again, known = share.copy(), np.zeros(len(share), bool)
        # What is measured anew may leave another class in the lead.
        while (doubtful := (scores_of(again, group) > DOUBTFUL) & ~known).any():
            for c in np.flatnonzero(doubtful).tolist():
                again[c] = confirm(group.triggers[where[c]], c)
            known |= doubtful
        measured.append(again)
    return measured


def scores_of(share: np.ndarray, group: Group) -> np.ndarray:
    """(k,) the shares of a group or their leads, in units of their limits; the larger of both.

    >>> scores_of(np.array([0.5, 0.1]), Group("", "", [], limit=0.25, lead_limit=1.0)).round(1)
    array([2.2, 0.4])
    """
    return np.maximum(share / group.limit, leads(share) / group.lead_limit)


def leads(share: np.ndarray) -> np.ndarray:
    """(k,) the logit of each share minus the largest logit of the other classes.

    Shares below 10 % are taken as 10 %, those above 98 % as 98 %.

    >>> leads(np.array([0.5, 0.2, 0.0])).round(2)
    array([ 1.39, -1.39, -2.2 ])
    """
    values = logit(np.clip(share, LEAST, MOST))
    second, first = np.sort(values)[-2:]
    others = np.where(np.arange(len(values)) == values.argmax(), second, first)
    return np.asarray(values - others)


def strongest(
    target: int,
    shares: Sequence[np.ndarray],
    best: Sequence[np.ndarray],
    groups: Sequence[Group],
    deciding: int,
) -> Trigger:
    """The trigger of a class that is kept: that of the first group that works.

    The groups of squares and of checkerboards are in the order of their sizes. If none moves 90 %
    of the images, it is the one that moves most; if none moves any, that of the deciding group.

    Args:
        target: the class.
        shares, best, groups: see `confirmed`.
        deciding: the position of the group with the largest score.
    """
    share = np.array([s[target] for s in shares])
    working = np.flatnonzero(share >= WORKS)
    most = int(share.argmax()) if share.any() else deciding
    chosen = int(working[0]) if len(working) else most
    return groups[chosen].triggers[best[chosen][target]]


def _as_stamp(trigger: Trigger, images: np.ndarray) -> Stamp | None:
    """A trigger as a `Stamp` with the channels of the images, or None."""
    if isinstance(trigger, Stamped):
        trigger = trigger.stamp_for(*images.shape[1:3])
    if not isinstance(trigger, Stamp):
        return None
    pattern, channels = trigger.pattern, images.shape[-1]
    if pattern.shape[-1] != channels:
        pattern = np.repeat(pattern.mean(axis=-1, keepdims=True), channels, axis=-1)
    return Stamp(trigger.mask, pattern)
