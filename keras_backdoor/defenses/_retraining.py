"""Train the architecture of the examined network again, on a part of its training data."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._internals import identity, typed_settings
from keras_backdoor._safe.files import sha256
from keras_backdoor.defenses.base import Evidence
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import cards
from keras_backdoor.loading.model_files import read_card
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit


def recipe_of(model: Classifier) -> Recipe | None:
    """The recipe in the card of a model file, or None if there is no card of it with one."""
    path = Path(str(model.source)) if model.source else None
    if path is None or not path.is_file() or not cards.card_path(path).is_file():
        return None
    try:
        card = read_card(path, sha256(path))
        named: dict[str, Any] = {k: v for k, v in card["recipe"].items() if k != "name"}
        return Recipe(**named)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def chosen_recipe(model: Classifier, recipe: Recipe | None) -> tuple[Recipe, str]:
    """The recipe of a retraining, and a text that says where it is from.

    Args:
        model: the examined network.
        recipe: the recipe that was asked for, or None.
    """
    if recipe is not None:
        return recipe, _in_words(recipe)
    known = recipe_of(model)
    if known is not None:
        return known, f"{_in_words(known)}, from the card of the model"
    return Recipe(), f"{_in_words(Recipe())}, because the model has no card"


def _in_words(recipe: Recipe) -> str:
    values = typed_settings.as_dict(recipe)
    shown = ", ".join(f"{k}={v}" for k, v in values.items() if k not in ("seed", "activity_l1"))
    return f"{shown}, seed={recipe.seed}"


def retrained(
    evidence: Evidence,
    name: str,
    samples: Samples,
    recipe: Recipe,
    start: Classifier | None = None,
) -> Classifier:
    """Train a network with the architecture of the examined one, from new weights.

    Frozen layers keep the weights that they have.

    Args:
        evidence: the evidence of the run. A finished training is saved as a part of it, and an
            unfinished one resumes.
        name: the name of this part of the work.
        samples: the training data.
        recipe: the recipe.
        start: a network of the same architecture whose weights the training starts from.

    Raises:
        BadInput: the architecture of `start` or its preprocessing differs.
    """
    model = evidence.model
    if start is not None:
        _check_start(model, start)
    elif not model.model.trainable_weights:
        raise BadInput(
            "All layers of the model are frozen, so that it cannot be trained again: give the "
            "network that was fine-tuned as reference (--reference on the command line)."
        )
    name = f"{name}-{identity.sha256_of((recipe, samples.fingerprint()))[:12]}"

    def train() -> dict[str, np.ndarray]:
        trained, _ = fit(
            lambda: graph.reinitialized(model.model) if start is None else graph.copy(start.model),
            samples,
            recipe,
            preprocess=model.to_input,
            checkpoint=evidence.checkpoint(name),
        )
        return {f"w{i}": w for i, w in enumerate(trained.model.get_weights())}

    weights = evidence.part(name, train)
    network = graph.reinitialized(model.model)
    network.set_weights([weights[f"w{i}"] for i in range(len(weights))])
    graph.settle(network)
    return Classifier(network, model.to_input)


def _check_start(model: Classifier, start: Classifier) -> None:
    if graph.architecture_digest(model.model) != graph.architecture_digest(start.model):
        raise BadInput(
            "The reference, from which the training starts, must have the architecture of the "
            "model: leave out --reference to train from new weights."
        )
    if model.to_input != start.to_input:
        raise BadInput(
            f"The reference must have the preprocessing of the model, {model.to_input}. Received: "
            f"{start.to_input}"
        )
