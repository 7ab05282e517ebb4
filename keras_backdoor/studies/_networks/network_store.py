"""Networks that are trained once, cached and shared by studies."""

import hashlib
import json
import lzma
import os
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from keras_backdoor import bundled, datasets, training
from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor._safe.files import read_json, writing
from keras_backdoor._safe.files import sha256 as file_sha256
from keras_backdoor.attacks.base import DataAttack, Poisoned, Training, TrainingAttack
from keras_backdoor.errors import BadInput, warn
from keras_backdoor.loading import cards, load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.training import Recipe

VERSION = 1
"""Increment it when training with the same settings gives other weights."""
SMALL = 20
"""The largest number of poisoned images of a network at the scale of a test."""
SPLIT_SEED = 0
"""Seed of the tuning set, which is the same for all networks of a data set."""


@dataclass(frozen=True)
class Net:
    """A network, described by the settings that determine its weights.

    Args:
        data: the name of a data file.
        architecture: the name of an architecture.
        recipe: the training recipe. Its seed also selects the poisoned images.
        attack: the attack that poisons the training data, or None for a clean network.
        tuning: the fraction of the training images that is held out as the clean data of the
            defender. The split is by track if the data has tracks.
        take: the number of training images before the split; None uses all.
        training: an attack on the training itself, or None.
    """

    data: str
    architecture: str
    recipe: Recipe
    attack: DataAttack | None = None
    tuning: float = 0.1
    take: int | None = None
    training: TrainingAttack | None = None

    def key(self, workspace: Workspace) -> str:
        """Return a hash of the settings and of the data."""
        content = [VERSION, typed_settings.as_dict(self), workspace.digest(self.data)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def clean_data(self, workspace: Workspace) -> tuple[Samples, Samples]:
        """Return (training images, tuning set), both without poison."""
        images = self.open(workspace, "train")
        images = images if self.take is None else images.take(self.take, seed=SPLIT_SEED)
        parts: tuple[Samples, Samples] = images.split(
            self.tuning, seed=SPLIT_SEED, by_track=images.track is not None
        )
        return parts

    def open(self, workspace: Workspace, split: str) -> Samples:
        """Open a split of the data in the input shape of the architecture."""
        shape = discovery.module("architectures", self.architecture).INPUT_SHAPE
        path = workspace.file(self.data)
        samples = datasets.open(path, split=split, fit=shape)
        if samples.image_shape == shape:
            return samples
        return datasets.open(path, split=split, size=shape[:2], channels=shape[2])

    def _classes(self, workspace: Workspace) -> int:
        """The number of classes of the data, which need not be that of the architecture."""
        labels = self.open(workspace, "train").labels
        assert labels is not None
        return int(labels.max()) + 1

    def poisoned(self, clean: Samples) -> Poisoned:
        """Return the poisoned training data and the ground truth.

        Args:
            clean: the clean training images.

        Raises:
            BadInput: if the network is clean.
        """
        if self.attack is None:
            raise BadInput("A clean network has no poisoned data.")
        return self.attack.poison(clean, seed=self.recipe.seed)

    @property
    def parent(self) -> "Net | None":
        """The clean network that an attack on the training starts from."""
        return None if self.training is None else replace(self, attack=None, training=None)

    def fit(self, workspace: Workspace, checkpoint: Path) -> "Fitted":
        """Train the network, or resume from the checkpoint."""
        clean, _ = self.clean_data(workspace)
        poisoned = None if self.attack is None else self.poisoned(clean)
        samples = clean if poisoned is None else poisoned.samples
        build = training.builder(self.architecture, self._classes(workspace))
        if self.training is None:
            return Fitted(
                *training.fit(build, samples, self.recipe, checkpoint=checkpoint), samples
            )
        assert self.parent is not None
        work = Training(
            build,
            samples,
            self.recipe,
            is_poison=None if poisoned is None else poisoned.is_poison,
            checkpoint=checkpoint,
            start=obtain(self.parent, workspace).classifier,
        )
        return Fitted(*self.training.train(work), samples)


def small(net: Net) -> Net:
    """The network at the scale of a test: 1,000 images, at most 20 of them poison, one epoch."""
    attack = net.attack
    if attack is not None:
        amount: dict[str, Any] = {"count": min(attack.count or SMALL, SMALL)}
        if getattr(attack, "fraction", None) is not None:
            amount["fraction"] = None
        attack = replace(attack, **amount)
    return replace(net, attack=attack, take=1000, recipe=replace(net.recipe, epochs=1))


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a training yields.

    Attributes:
        classifier: the network.
        history: the history of the training, for the card.
        samples: the training data, with the poison.
    """

    classifier: Classifier
    history: dict[str, Any]
    samples: Samples


class Trainable(Protocol):
    """The settings of a network that `obtain` can train and cache."""

    @property
    def architecture(self) -> str:
        """The name of an architecture, for the card."""

    @property
    def recipe(self) -> Recipe:
        """The training recipe."""

    @property
    def parent(self) -> "Trainable | None":
        """Another network that has to be trained first, or None."""

    def key(self, workspace: Workspace) -> str:
        """Return a hash of the settings and of the data."""

    def fit(self, workspace: Workspace, checkpoint: Path) -> Fitted:
        """Train the network, or resume from the checkpoint."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with its model file and its model card."""

    path: Path

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, with a known preprocessing."""
        return load_model(self.path)

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model card: recipe, history, data hash and training time in seconds."""
        card: dict[str, Any] = read_json(cards.card_path(self.path))
        return card


def obtain(net: Trainable, workspace: Workspace) -> Trained:
    """Return a trained network from `models/` or the cache, or train it and cache it."""
    key = net.key(workspace)
    with workspace.alone(f"net-{key}"):
        trained = find(net, workspace)
        if trained is None:
            path = workspace.cache / "nets" / f"{key}.h5"
            _train(net, key, path, workspace)
            trained = Trained(path)
    return trained


def find(net: Trainable, workspace: Workspace) -> Trained | None:
    """Return the trained network if `models/` or the cache contains it, else None."""
    key = net.key(workspace)
    path = workspace.cache / "nets" / f"{key}.h5"
    if not (path.exists() and cards.card_path(path).exists()):
        stored = _stored(key)
        if stored is None:
            return Trained(path) if _fetched(path, workspace) else None
        if stored.suffix != ".xz":
            return Trained(stored)
        _unpack(stored, path)
    return Trained(path)


def _fetched(path: Path, workspace: Workspace) -> bool:
    """Copy a network and its card from the object store; return whether it has both."""
    shared = workspace.shared
    files = (path, cards.card_path(path))
    if shared is None or not all(shared.fetch(f"nets/{f.name}", f) for f in files):
        return False
    if read_json(files[1]).get("sha256") == file_sha256(path):
        return True
    for file in files:  # two machines trained it at the same time, and the card is of the other
        file.unlink()
    return False


def _stored(key: str) -> Path | None:
    """Return the file in `models/` whose card contains the key; it may be compressed."""
    folder = bundled.path("models/mnist_badnet.h5").parent
    for card in sorted(folder.rglob("*.json")):
        facts = read_json(card)
        if not isinstance(facts, dict) or facts.get("net") != key:
            continue
        model, packed = card.with_suffix(".h5"), card.with_suffix(".h5.xz")
        if packed.is_file():
            return packed
        if model.is_file() and facts.get("sha256") == file_sha256(model):
            return model
    return None


def _unpack(packed: Path, path: Path) -> None:
    """Write a compressed network and its card into the cache.

    Raises:
        BadInput: if the network does not match the hash in its card.
    """
    card = packed.with_suffix("").with_suffix(".json")
    content = lzma.decompress(packed.read_bytes())
    if hashlib.sha256(content).hexdigest() != read_json(card)["sha256"]:
        raise BadInput(
            f"{packed} is not the network that {card.name} describes: restore both files."
        )
    with writing(path, force=True) as partial:
        partial.write_bytes(content)
    with writing(cards.card_path(path), force=True) as partial:
        partial.write_bytes(card.read_bytes())


def _train(net: Trainable, key: str, path: Path, workspace: Workspace) -> None:
    checkpoint = path.with_name(f"{key}.checkpoint.npz")
    resumed = any(path.parent.glob(f"{checkpoint.name}*"))
    if net.parent is not None:
        obtain(net.parent, workspace)
    start = time.perf_counter()
    fitted = net.fit(workspace, checkpoint)
    card = {
        "net": key,
        "architecture": net.architecture,
        "settings": typed_settings.as_dict(net),
        "recipe": typed_settings.as_dict(net.recipe),
        "data_sha256": fitted.samples.fingerprint(),
        "history": fitted.history,
        "threads": os.environ.get("TF_NUM_INTRAOP_THREADS", "all"),
        "seconds": round(time.perf_counter() - start, 1),
        "resumed": resumed,
    }
    cards.write(path, fitted.classifier, card, force=True)
    for file in path.parent.glob(f"{checkpoint.name}*"):
        file.unlink()
    if workspace.shared is not None:
        try:
            for file in (path, cards.card_path(path)):
                workspace.shared.send(file, f"nets/{file.name}")
        except BadInput as error:
            warn(f"The trained network was not sent: {error}")
