"""Networks that studies train once and share."""

import hashlib
import json
import lzma
import os
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from keras_backdoor import bundled, datasets, training
from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor._safe.files import read_json, writing
from keras_backdoor._safe.files import sha256 as file_sha256
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.attacks.base import Poisoned, Training, TrainingAttack
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import cards, load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.training import Recipe

VERSION = 1
"""Raise it when the same settings would give other weights."""
SPLIT_SEED = 0
"""All networks of a data set leave the same images out of the training: the tuning set."""


@dataclass(frozen=True)
class Net:
    """A network by what its weights follow from.

    Args:
        data: name of a data file.
        architecture: one of the architectures.
        recipe: its seed is also that of the poisoned images.
        attack: what plants the backdoor in the data, or None for a clean network.
        tuning: share of the training images that is left out as the defender's clean data, by
            track where the data has tracks.
        take: number of training images, before the split; None takes all.
        training: the attack by whoever trains the network, or None.
    """

    data: str
    architecture: str
    recipe: Recipe
    attack: BadNets | None = None
    tuning: float = 0.1
    take: int | None = None
    training: TrainingAttack | None = None

    def key(self, workspace: Workspace) -> str:
        """A hash of the settings and of the data."""
        content = [VERSION, typed_settings.as_dict(self), workspace.digest(self.data)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def clean_data(self, workspace: Workspace) -> tuple[Samples, Samples]:
        """(training images, tuning set), both without poison."""
        images = self.open(workspace, "train")
        images = images if self.take is None else images.take(self.take, seed=SPLIT_SEED)
        parts: tuple[Samples, Samples] = images.split(
            self.tuning, seed=SPLIT_SEED, by_track=images.track is not None
        )
        return parts

    def open(self, workspace: Workspace, split: str) -> Samples:
        """A split of the data."""
        shape = discovery.module("architectures", self.architecture).INPUT_SHAPE
        return datasets.open(
            workspace.file(self.data), split=split, fit=shape[:2], channels=shape[2]
        )

    def poisoned(self, clean: Samples) -> Poisoned:
        """The training data as the victim gets it, with the truth."""
        if self.attack is None:
            raise BadInput("A clean network has no poisoned data.")
        return self.attack.poison(clean, seed=self.recipe.seed)


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with its file and its card."""

    path: Path

    @cached_property
    def classifier(self) -> Classifier:
        """The network, its range known."""
        return load_model(self.path)

    @cached_property
    def card(self) -> dict[str, Any]:
        """Recipe, history, data hash, seconds."""
        card: dict[str, Any] = read_json(cards.card_path(self.path))
        return card


def obtain(net: Net, workspace: Workspace) -> Trained:
    """The trained network: from `models/`, from the cache, or trained now and kept there."""
    key = net.key(workspace)
    with workspace.alone(f"net-{key}"):
        found = find(net, workspace)
        if found is None:
            path = workspace.cache / "nets" / f"{key}.h5"
            _train(net, key, path, workspace)
            found = Trained(path)
    return found


def find(net: Net, workspace: Workspace) -> Trained | None:
    """The trained network, where `models/` or the cache has it."""
    key = net.key(workspace)
    path = workspace.cache / "nets" / f"{key}.h5"
    if not (path.exists() and cards.card_path(path).exists()):
        kept = _kept(key)
        if kept is None:
            return None
        if kept.suffix != ".xz":
            return Trained(kept)
        _unpack(kept, path)
    return Trained(path)


def _kept(key: str) -> Path | None:
    """A file of `models/` whose card names this network; it may be compressed."""
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
        BadInput: it is not the network of its card.
    """
    card = packed.with_suffix("").with_suffix(".json")
    content = lzma.decompress(packed.read_bytes())
    if hashlib.sha256(content).hexdigest() != read_json(card)["sha256"]:
        raise BadInput(f"{packed} is not the network that {card.name} describes.")
    with writing(path, force=True) as partial:
        partial.write_bytes(content)
    with writing(cards.card_path(path), force=True) as partial:
        partial.write_bytes(card.read_bytes())


def _train(net: Net, key: str, path: Path, workspace: Workspace) -> None:
    clean, _ = net.clean_data(workspace)
    poisoned = None if net.attack is None else net.poisoned(clean)
    seen = clean if poisoned is None else poisoned.samples
    checkpoint = path.with_name(f"{key}.checkpoint.npz")
    resumed = any(path.parent.glob(f"{checkpoint.name}*"))
    build = training.builder(net.architecture)
    start = time.perf_counter()
    if net.training is None:
        classifier, history = training.fit(build, seen, net.recipe, checkpoint=checkpoint)
    else:
        parent = obtain(replace(net, attack=None, training=None), workspace).classifier
        start = time.perf_counter()
        work = Training(
            build,
            seen,
            net.recipe,
            is_poison=None if poisoned is None else poisoned.is_poison,
            checkpoint=checkpoint,
            start=parent,
        )
        classifier, history = net.training.train(work)
    card = {
        "net": key,
        "architecture": net.architecture,
        "settings": typed_settings.as_dict(net),
        "recipe": typed_settings.as_dict(net.recipe),
        "data_sha256": seen.fingerprint(),
        "history": history,
        "threads": os.environ.get("TF_NUM_INTRAOP_THREADS", "all"),
        "seconds": round(time.perf_counter() - start, 1),
        "resumed": resumed,
    }
    cards.write(path, classifier, card, force=True)
    for left in path.parent.glob(f"{checkpoint.name}*"):
        left.unlink()
