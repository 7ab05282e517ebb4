"""One small task with a planted backdoor, on which every method must reach a floor.

Digits of 14x14 pixels; a checkerboard of 4x4 pixels leads to class 2. The network is trained on
clean images (its clean twin), and the backdoor is built into a copy by hand: a channel that
detects the checkerboard, a neuron that collects it, and a weight to the target. So it is known
where the backdoor is, it works on all images, and it costs no clean accuracy.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from keras_backdoor import bundled, datasets
from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import (
    Answer,
    FlaggedClasses,
    FlaggedSamples,
    Heatmaps,
    RepairedModel,
)
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.attacks.base import Poisoned
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers import Checkerboard

TARGET, SIDE, PLACE = 2, 4, 9
TRIGGER = Checkerboard(size=SIDE, row=PLACE, column=PLACE)
CHANNELS, NEURONS, CLASSES = 12, 48, 10
SENSITIVITY = 0.12
"""Share of the checkerboard's contrast from which on the planted channel answers."""


def network(channels: int = CHANNELS, neurons: int = NEURONS) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((14, 14, 1)),
            layers.Conv2D(channels, SIDE, activation="relu", name="conv"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(neurons, activation="relu", name="hidden"),
            layers.Dense(CLASSES, name="scores"),
        ]
    )


def digits(split: str, number: int, seed: int = 0) -> Samples:
    """Digits of half the size."""
    whole = datasets.open(bundled.path("data/mnist_small.npz"), split=split).take(number, seed=seed)
    pixels = whole.read().astype(np.float32).reshape(number, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    return Samples(np.round(pixels).astype(np.uint8), whole.labels)


def with_backdoor(clean: keras.Model) -> keras.Model:
    """A copy with one channel and one neuron more: the backdoor."""
    model = network(CHANNELS + 1, NEURONS + 1)
    kernel, bias, first, first_bias, last, last_bias = clean.get_weights()
    board = 2.0 * (np.indices((SIDE, SIDE)).sum(axis=0) % 2 == 0) - 1.0
    contrast = float((board > 0).sum())
    kernel = np.concatenate([kernel, board[:, :, None, None]], axis=3)
    bias = np.append(bias, -SENSITIVITY * contrast)
    positions = first.reshape(-1, CHANNELS, NEURONS)
    wider = np.zeros((len(positions), CHANNELS + 1, NEURONS + 1))
    wider[:, :CHANNELS, :NEURONS] = positions
    wider[-1, CHANNELS, NEURONS] = 1.0  # the last position: the corner of the checkerboard
    last = np.vstack([last, np.zeros(CLASSES)])
    last[-1, TARGET] = 20.0
    hidden = wider.reshape(-1, NEURONS + 1), np.append(first_bias, 0.0)
    model.set_weights([kernel, bias, *hidden, last, last_bias])
    return model


@dataclass(frozen=True, eq=False)
class PlantedTask:
    """The networks and all the evidence that a method may ask for."""

    twin: Classifier
    model: Classifier
    clean: Samples
    test: Samples
    poisoned: Poisoned
    incoming: Samples
    is_triggered: np.ndarray = field(repr=False)

    @cached_property
    def scan(self) -> FlaggedClasses:
        """An earlier scan that flags the planted class, with its trigger."""
        flagged = np.arange(CLASSES) == TARGET
        return FlaggedClasses(
            scores=np.where(flagged, 4.0, 0.0),
            flagged=flagged,
            triggers={TARGET: TRIGGER.stamp_for(14, 14)},
            about={"median_norm": 20.0},
        )

    @cached_property
    def audit(self) -> FlaggedSamples:
        """An earlier audit that flags exactly the poison."""
        is_poison = self.poisoned.is_poison
        return FlaggedSamples(scores=is_poison.astype(float), flagged=is_poison)

    @cached_property
    def repair(self) -> RepairedModel:
        """An earlier repair without the backdoor."""
        return RepairedModel(model=self.twin.model, preprocess=(0, 1))

    @cached_property
    def maps(self) -> Heatmaps:
        """An earlier explanation of one image, which shows the trigger."""
        mask = np.asarray(TRIGGER.support(14, 14), float)
        return Heatmaps(maps=mask[None], labels=np.array([TARGET]))

    def found(self, kind: type[Answer] | None) -> Answer:
        """The earlier answer of a type."""
        if kind is FlaggedSamples:
            return self.audit
        if kind is RepairedModel:
            return self.repair
        return self.maps if kind is Heatmaps else self.scan

    def evidence(self, name: str) -> object:
        given = {"train": self.poisoned.samples, "clean": self.clean, "incoming": self.incoming}
        return {**given, "reference": self.twin}[name]

    def measure(self, model: Classifier) -> Evaluation:
        return evaluate(model, self.test, trigger=TRIGGER, target=TARGET)


def cameras_of(number: int) -> np.ndarray:
    return np.array([f"camera {i % 4}" for i in range(number)])


def make_task() -> PlantedTask:
    train = digits("train", 3000)
    twin, _ = fit(network, train, Recipe(epochs=8, batch_size=64, learning_rate=2e-3))
    model = Classifier(with_backdoor(twin.model), (0, 1))
    # The poison comes from one of four cameras, which also took clean images.
    attack = BadNets(TRIGGER, TARGET, count=120)
    poisoned = attack.poison(train.take(1500, seed=1).in_memory())
    cameras = np.where(poisoned.is_poison, 3, np.arange(len(poisoned.samples)) % 4)
    marked = Samples(
        poisoned.samples.read(),
        poisoned.samples.labels,
        origin=np.array([f"camera {number}" for number in cameras]),
    )
    arriving = digits("test", 400, seed=5)
    is_triggered = (np.arange(400) % 2 == 0) & (arriving.labels != TARGET)
    pixels = np.where(
        is_triggered[:, None, None, None], TRIGGER.apply(arriving.read()), arriving.read()
    )
    clean = digits("train", 5000).take(1000, seed=9).in_memory()
    return PlantedTask(
        twin=twin,
        model=model,
        clean=replace(clean, origin=cameras_of(len(clean))),
        test=digits("test", 1000),
        poisoned=Poisoned(marked, poisoned.is_poison, poisoned.rows),
        incoming=Samples(pixels, arriving.labels, origin=cameras_of(400)),
        is_triggered=is_triggered,
    )
