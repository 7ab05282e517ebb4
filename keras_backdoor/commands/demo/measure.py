"""The first look: inspect a real BadNet, measure it, repair it from clean data, measure again."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor import bundled, datasets
from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.goodnet import GoodNet
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.loading import load_model
from keras_backdoor.loading.inspection import Inspection, inspect_model
from keras_backdoor.loading.model_files import read_card
from keras_backdoor.network.activations import mean_activation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.pruning import accuracy_by_silenced
from keras_backdoor.samples import Samples
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger

MODEL, DATA = "models/mnist_badnet.h5", "data/mnist_small.npz"
METHOD = GoodNet(repair=FinePruning(layer="conv_1", max_drop=0.02))
"""Chosen to show the tools at work, not to judge the method; see the model's card."""
SHOWN = 10


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What the demo found; its page is drawn from this."""

    inspection: Inspection
    card: dict[str, Any]
    before: Evaluation
    after: Evaluation
    answer: RepairedModel
    attack_by_silenced: np.ndarray
    activation_stamped: np.ndarray
    pictures: dict[str, np.ndarray]
    seconds: float


def measure() -> Demonstration:
    """Everything the demo computes."""
    start = time.perf_counter()
    path = bundled.path(MODEL)
    classifier = load_model(path)
    card = read_card(path, classifier.sha256())
    trigger, target = parse(card["attack"]["trigger"]), card["attack"]["target"]
    clean = datasets.open(bundled.path(DATA), split="train")
    test = datasets.open(bundled.path(DATA), split="test")
    before = evaluate(classifier, test, trigger=trigger, target=target)
    answer = METHOD(classifier, clean=clean)
    guard = Classifier(answer.model, answer.input_range, answer.reject_class)
    after = evaluate(guard, test, trigger=trigger, target=target)
    others = test.subset(test.known_labels != target).stamped(trigger)
    layer = str(answer.history["layer"])
    attack = accuracy_by_silenced(
        classifier, others.relabelled(target), layer, layer, answer.history["order"]
    )
    stamped_activation = mean_activation(classifier, others, layer)
    return Demonstration(
        inspection=inspect_model(path),
        card=card,
        before=before,
        after=after,
        answer=answer,
        attack_by_silenced=attack,
        activation_stamped=stamped_activation,
        pictures=_pictures(classifier, guard, test, trigger),
        seconds=time.perf_counter() - start,
    )


def _pictures(
    classifier: Classifier, guard: Classifier, test: Samples, trigger: Trigger
) -> dict[str, np.ndarray]:
    """One test image a class, without and with the trigger, and what both models say of it."""
    labels = test.known_labels
    rows = np.array([np.flatnonzero(labels == c)[0] for c in np.unique(labels)[:SHOWN]])
    chosen = test.subset(rows)
    stamped = chosen.stamped(trigger)
    return {
        "labels": chosen.known_labels,
        "clean": chosen.read() / 255.0,
        "stamped": stamped.read() / 255.0,
        "before_clean": classifier.predict(chosen),
        "before_stamped": classifier.predict(stamped),
        "after_clean": guard.predict(chosen),
        "after_stamped": guard.predict(stamped),
    }
