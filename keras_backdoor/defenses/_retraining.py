"""Train the architecture of the examined network again, on a part of its training data."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._internals import identity, typed_settings
from keras_backdoor.defenses.base import Evidence
from keras_backdoor.loading import cards
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit


def recipe_of(model: Classifier) -> Recipe | None:
    """The recipe in the card of a model file, or None if there is no card with one."""
    path = Path(str(model.source)) if model.source else None
    if path is None or not cards.card_path(path).is_file():
        return None
    try:
        card = json.loads(cards.card_path(path).read_text())
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


def retrained(evidence: Evidence, name: str, samples: Samples, recipe: Recipe) -> Classifier:
    """Train a network with the architecture of the examined one, from new weights.

    Args:
        evidence: the evidence of the run. A finished training is saved as a part of it, and an
            unfinished one resumes.
        name: the name of this part of the work.
        samples: the training data.
        recipe: the recipe.
    """
    model = evidence.model
    name = f"{name}-{identity.sha256_of((recipe, samples.fingerprint()))[:12]}"

    def train() -> dict[str, np.ndarray]:
        trained, _ = fit(
            lambda: graph.reinitialized(model.model),
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
