"""What is measured of a repaired network."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_backdoor.answers import RepairedModel
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.metrics import Rate, clean_accuracy
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers.base import Trigger

POISON, RETUNING_EPOCHS = 10, 5
"""Number of poisoned images among the clean ones, and of epochs on them."""
UNSEEN = 10_000
"""Number of training images outside the clean ones that networks of third parties are tested on."""
TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Probabilities of B' for the class of B from which on a tolerant guard accepts it."""


def retuned(
    model: Classifier,
    clean: Samples,
    test: Samples,
    attack: tuple[Trigger, int],
    source: int | None,
) -> list[Rate]:
    """Return the attack success while a network is trained on clean images and a few poisoned ones.

    Min et al., Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense,
    2024 (arXiv 2410.09838): a repaired network may learn its backdoor again from a few images.

    Args:
        model: the network, which is copied.
        clean: the clean images.
        test: the test images.
        attack: (trigger, target class).
        source: the source class, or None for all classes.

    Returns:
        The success before the training and after each epoch.
    """
    trigger, target = attack
    labels = clean.known_labels
    candidates = np.flatnonzero(labels != target if source is None else labels == source)
    chosen = np.random.default_rng(0).permutation(candidates)[:POISON]
    poison = clean.subset(np.sort(chosen)).stamped(trigger).relabelled(target)
    rates: list[Rate] = []

    def measure(trained: Classifier) -> bool:
        measured = evaluate(trained, test, trigger=trigger, target=target, source=source)
        assert measured.attack_success_rate is not None
        rates.append(measured.attack_success_rate)
        return False

    work = Classifier(graph.copy(model.model), model.to_input)
    measure(work)
    recipe = Recipe(epochs=RETUNING_EPOCHS)
    fit(work.model, clean.concat(poison), recipe, preprocess=model.to_input, until=measure)
    return rates


def repair_figures(
    answer: RepairedModel, measured: Sequence[Evaluation], source: int | None
) -> dict[str, Any]:
    """Return what is stored of a repair.

    Args:
        answer: the answer of the repair.
        measured: the evaluations of the examined network, of the repaired one and of G.
        source: the source class of the planted backdoor, or None for all classes.
    """
    before, after, guard = measured
    changed = answer.figures.get("changed_by_random_triggers", {})
    figures: dict[str, Any] = {
        "accuracy_before": before.clean_accuracy,
        "accuracy_after": after.clean_accuracy,
        "rejected_clean": guard.rejected_clean,
        "accuracy_guard": guard.clean_accuracy,
        **{f"changed_{when}": share for when, share in changed.items()},
        "left": answer.summary.get("decision", "").endswith("left as it is"),
        "inconclusive": answer.inconclusive,
        "seconds_of_repair": answer.about["seconds"],
        "model_sha256": answer.about["model_sha256"],
    }
    if before.attack_success_rate is not None:
        for when, evaluation in (("before", before), ("after", after), ("guard", guard)):
            figures[f"attack_{when}"] = evaluation.attack_success_rate
            if source is not None:
                figures[f"source_{when}"] = evaluation.per_class[source]
        figures["guarded"] = guarded(guard)
        if source is not None:
            figures["guarded_source"] = guarded(guard, source)
    return figures


def tolerant_guards(
    model: Classifier, repaired: Classifier, test: Samples, attack: tuple[Trigger, int] | None
) -> dict[str, dict[str, Rate]]:
    """What guards reject that accept the class of B if B' gives it a small probability.

    Args:
        model: the examined network B.
        repaired: the repaired network B'.
        test: the test images.
        attack: (planted trigger, target class), or None.

    Returns:
        By smallest accepted probability: `clean`, the clean images that are rejected, and
        `guarded`, the triggered images that are rejected or classified correctly.
    """
    labels, kinds = test.known_labels, {"clean": test}
    if attack is not None:
        kinds["guarded"] = test.stamped(attack[0])
    figures: dict[str, dict[str, Rate]] = {str(t): {} for t in TOLERANCES}
    for kind, samples in kinds.items():
        predicted, scores = model.predict(samples), repaired.scores(samples)
        given = scores[np.arange(len(predicted)), predicted]
        for smallest in TOLERANCES:
            rejected = given < smallest
            counted = rejected if kind == "clean" else rejected | (predicted == labels)
            figures[str(smallest)][kind] = Rate(int(counted.sum()), len(counted))
    return figures


def unseen(model: Classifier, repaired: Classifier, rest: Samples) -> dict[str, Rate]:
    """The accuracy on training images that are not among the clean ones, before and after.

    The test images say little about a network of a third party that may have been trained on them.

    Args:
        model: the examined network.
        repaired: the repaired network.
        rest: the training images that the repair did not get.
    """
    samples = rest.take(min(UNSEEN, len(rest)), seed=0)
    labels = samples.known_labels
    before, after = (clean_accuracy(m.predict(samples), labels) for m in (model, repaired))
    return {"unseen_before": before, "unseen_after": after}


def guarded(guard: Evaluation, source: int | None = None) -> Rate:
    """The share of the triggered images that a guard rejects or classifies correctly.

    Args:
        guard: the evaluation of the guard, whose last class means rejected.
        source: the class of the images that are counted, or None for all.
    """
    counts = np.asarray(guard.confusion_stamped)
    chosen = np.arange(len(counts)) if source is None else np.array([source])
    well = counts[chosen, chosen].sum() + counts[chosen, -1].sum()
    return Rate(int(well), int(counts[chosen].sum()))
