"""The computations of the demo: inspect, evaluate, repair and evaluate again a BadNet model."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor import bundled, datasets
from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._tuning import NO_TUNING
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
METHOD = GoodNet(repair=FinePruning(layer="conv_1", max_drop=0.02, tuning=NO_TUNING))
"""Settings that suit the demonstration; they are not a benchmark of the method."""
SHOWN = 10


@dataclass(frozen=True, eq=False)
class Demonstration:
    """The results of the demo.

    Attributes:
        inspection: the inspection of the model file.
        card: the model card.
        before, after: the evaluations of the BadNet and of the repaired model.
        answer: the repaired model.
        attack_by_silenced: (channels,) attack success with 0, 1, 2, … silenced channels.
        activation_stamped: (channels,) mean activation on images with the trigger.
        pictures: images in [0, 1] and predicted classes for the figure of the attack.
        seconds: the run time in seconds.
    """

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
    """Run all computations of the demo."""
    start = time.perf_counter()
    path = bundled.path(MODEL)
    classifier = load_model(path)
    card = read_card(path, classifier.sha256())
    trigger, target = parse(card["attack"]["trigger"]), card["attack"]["target"]
    clean = datasets.open(bundled.path(DATA), split="train")
    test = datasets.open(bundled.path(DATA), split="test")
    before = evaluate(classifier, test, trigger=trigger, target=target)
    answer = METHOD(classifier, clean=clean)
    guard = Classifier(answer.model, answer.preprocess, answer.reject_class)
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
    """Return one test image per class without and with the trigger, and the predictions."""
    labels = test.known_labels
    positions = np.array([np.flatnonzero(labels == c)[0] for c in np.unique(labels)[:SHOWN]])
    chosen = test.subset(positions)
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
