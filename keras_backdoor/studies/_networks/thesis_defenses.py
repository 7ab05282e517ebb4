"""The experiments of chapter 4 of the thesis, for traffic signs and faces alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.defenses._tuning import NO_TUNING
from keras_backdoor.defenses.base import Defense
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.provenance import Provenance
from keras_backdoor.errors import BadInput
from keras_backdoor.evaluation import evaluate_audit
from keras_backdoor.metrics import Rate, attack_success_rate
from keras_backdoor.network import graph
from keras_backdoor.network.channel_activity import channel_activity
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.pruning import operations_of
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies._networks.poisoned_data import poisoned_data
from keras_backdoor.studies._networks.stored_pictures import clusters
from keras_backdoor.training import Recipe, fit

REPEATS = 15
"""How often the time of a batch is measured."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A backdoored network, its data, and how it is trained.

    Attributes:
        model: the network.
        train: the training data, with the poison.
        is_poison: (n,) bool.
        tuning: the clean images of the defender.
        test: the test images.
        attack: the attack.
        source: the class that is attacked, or None for all but the target.
        train_again: `train_again(model, samples)`, a network that is trained on samples with the
            architecture of `model`.
        sure: (n,) bool, the test images whose labels are certain, or None if all are. Where the
            labels are the answers of a network, they are those that it was sure of.
    """

    model: Classifier
    train: Samples
    is_poison: np.ndarray
    tuning: Samples
    test: Samples
    attack: BadNets
    source: int | None
    train_again: Callable[[Classifier, Samples], Classifier]
    sure: np.ndarray | None = None

    def success(self, model: Classifier) -> Rate:
        """The attack success on the test images of the source class."""
        stamped = self.victims().stamped(self.attack.stamp)
        return attack_success_rate(model.predict(stamped), stamped.known_labels, self.attack.target)

    def victims(self) -> Samples:
        """The test images of the source class."""
        if self.source is None:
            return self.test.subset(self.test.known_labels != self.attack.target)
        return self.test.of_class(self.source)

    def evaluated(self, model: Classifier, what: str) -> dict[str, Any]:
        """The accuracy and the attack success of a network, as results of a cell.

        Args:
            model: the network.
            what: the first word of the names of the results; without it, the names are
                `clean_accuracy` and `attack_success_rate`.
        """
        right = model.predict(self.test) == self.test.known_labels
        accuracy = f"{what}_accuracy" if what else "clean_accuracy"
        figures = {
            accuracy: Rate(int(right.sum()), len(right)),
            f"{what}_attack" if what else "attack_success_rate": self.success(model),
        }
        if self.sure is not None:
            figures[f"{accuracy}_where_sure"] = Rate(
                int(right[self.sure].sum()), int(self.sure.sum())
            )
        return figures


def subject_of(net: Net, workspace: Workspace, *, small: bool = False) -> Subject:
    """The experiment on a network that was trained from new weights on poisoned data.

    Args:
        net: a network with an attack on one source class.
        workspace: the folders of data and cache.
        small: whether few tuning images are used, without labels, as a test does.
    """
    attack = net.attack
    if not isinstance(attack, BadNets) or attack.source is None:
        raise BadInput("The experiments of the thesis need an attack on one class.")
    train, is_poison = poisoned_data(net, workspace)
    _, tuning = net.clean_data(workspace)
    if small:
        tuning = tuning.take(60, seed=0).unlabelled()
    return Subject(
        obtain(net, workspace).classifier,
        train,
        is_poison,
        tuning,
        net.open(workspace, "test"),
        attack,
        attack.source,
        anew(net.recipe),
    )


def anew(recipe: Recipe) -> Callable[[Classifier, Samples], Classifier]:
    """A function that trains the architecture of a network from new weights."""

    def train(model: Classifier, samples: Samples) -> Classifier:
        network = lambda: graph.reinitialized(model.model)  # noqa: E731
        return fit(network, samples, recipe, preprocess=model.to_input)[0]

    return train


def clustered(
    subject: Subject,
    method: Defense[FlaggedSamples],
    *,
    ours: Defense[FlaggedSamples] | None = None,
    before: FinePruning | None = None,
    then: FinePruning | None = None,
    shown: bool = False,
) -> dict[str, Any]:
    """Tables 4.2, 4.3 and 4.7 to 4.9: remove images, train again, and prune before or after it.

    Args:
        subject: the network.
        method: the audit, such as activation clustering.
        ours: another audit, whose flags are only compared.
        before: prune the network first.
        then: prune the network that was trained again.
        shown: whether images of the target class, kept and removed, are among the results.
    """
    model = subject.model
    if before is not None:
        model = before(model, clean=subject.tuning).classifier
    answer = method(model, train=subject.train)
    figures = removed(answer, subject)
    if shown:
        figures["clusters"] = clusters(answer, subject.train, subject.attack.target)
    if ours is not None:
        found = ours(model, train=subject.train)
        figures |= {f"ours_{key}": value for key, value in removed(found, subject).items()}
        figures["attack"] = subject.success(model)
    again = subject.train_again(model, subject.train.subset(~answer.flagged))
    figures |= subject.evaluated(again, "retrained")
    if then is not None:
        pruned = then(again, clean=subject.tuning)
        figures["pruned"] = int(pruned.history["pruned"])
        figures |= subject.evaluated(pruned.classifier, "pruned")
    return figures


def removed(answer: FlaggedSamples, subject: Subject) -> dict[str, Any]:
    """What an audit removes: the poison, the clean images, and all."""
    rates = evaluate_audit(answer.flagged, subject.is_poison, None)
    return {
        "removed_poison": rates.removed_poison,
        "removed_clean": rates.removed_clean,
        "removed": int(answer.flagged.sum()),
    }


def fine_pruned(subject: Subject, method: FinePruning, *, activity: bool = False) -> dict[str, Any]:
    """Tables 4.5 and 4.6 and figures 4.14 to 4.19: prune a layer, then fine-tune.

    Args:
        subject: the network.
        method: fine-pruning of a layer.
        activity: whether the mean activations of the channels are among the results.
    """
    model = subject.model
    tuned = method(model, clean=subject.tuning)
    number, total = int(tuned.history["pruned"]), len(tuned.history["order"])
    alone = FinePruning(layer=method.layer, count=number, tuning=NO_TUNING)
    pruned = alone(model, clean=subject.tuning)
    figures: dict[str, Any] = {
        "removed": number,
        "of": total,
        "numbers": dict(
            zip(map(str, method.thresholds), tuned.history["numbers"].tolist(), strict=True)
        ),
        "model_sha256": model.sha256(),
        "parameters": pruned.model.count_params() / model.model.count_params(),
        "operations": operations_of(pruned.model) / operations_of(model.model),
        "latency": _latency(pruned.classifier, subject.test) / _latency(model, subject.test),
    }
    if activity:
        seen = channel_activity(model, subject.victims(), subject.attack.stamp, method.layer)
        figures["activity"] = {
            name: [round(float(v), 4) for v in getattr(seen, name)]
            for name in ("clean", "triggered")
        }
    for when, classifier in (("before", model), ("pruned", pruned.classifier)):
        figures |= {
            f"{key.removeprefix(f'{when}_')}_{when}": rate
            for key, rate in subject.evaluated(classifier, when).items()
        }
    return figures | subject.evaluated(tuned.classifier, "")


def of_origins(subject: Subject, method: Provenance, *, trusted: bool) -> dict[str, Any]:
    """Section 4.2.3: clean images are from three cameras at random, all poison from a fourth.

    Args:
        subject: the network.
        method: the provenance defense.
        trusted: whether the tuning images are given as trusted ones.
    """
    cameras = np.random.default_rng(0).integers(0, 3, len(subject.train))
    cameras[subject.is_poison] = 3
    train = replace(subject.train, origin=np.array([f"camera {c}" for c in cameras]))
    answer = method(subject.model, train=train, clean=subject.tuning if trusted else None)
    return {
        "flagged": sum(group.flagged for group in answer.groups.values()),
        "cameras": [name for name, group in answer.groups.items() if group.flagged],
        "scores": {name: group.score for name, group in answer.groups.items()},
        "poisoned": int(subject.is_poison.sum()),
        "images": len(train),
        "attack": subject.success(subject.model),
    }


def _latency(model: Classifier, test: Samples) -> float:
    """The median time of the predictions for 256 images, in seconds."""
    batch = test.take(min(256, len(test)), seed=0).in_memory()
    model.predict(batch)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model.predict(batch)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
