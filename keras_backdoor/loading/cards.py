"""A model file and the card beside it: recipe, seed, figures, SHA-256."""

import json
from pathlib import Path
from typing import Any

from keras_backdoor import __version__
from keras_backdoor._internals.backend import quiet_logs
from keras_backdoor._safe.files import check_output, existing, sha256, write_json, writing
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier


def card_path(model: Path | str) -> Path:
    """`NAME.json` beside `NAME.h5`."""
    return Path(model).with_suffix(".json")


def check(path: Path, *, force: bool = False) -> None:
    """Raise before training where the model could not be written."""
    if path.suffix not in (".h5", ".keras"):
        raise BadInput(f"A model is written as .h5 or .keras. Received: {path}")
    check_output(path, force=force)
    check_output(card_path(path), force=force)


def read_about(path: Path | None) -> dict[str, Any]:
    """Facts for a card from a JSON file."""
    if path is None:
        return {}
    try:
        facts = json.loads(existing(path, "file of facts").read_text())
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}.") from error
    if not isinstance(facts, dict):
        raise BadInput(f"{path} must hold a JSON object.")
    return facts


def write(path: Path, classifier: Classifier, card: dict[str, Any], *, force: bool = False) -> None:
    """Write a model without its optimizer, and its card."""
    check(path, force=force)
    with writing(path, force=force) as partial, quiet_logs():
        classifier.model.save(partial, include_optimizer=False)
    content = {
        "sha256": sha256(path),
        "input_range": list(classifier.input_range or ()),
        "reject_class": classifier.reject_class,
        "classes": classifier.classes,
        "made_with": f"keras_backdoor {__version__}",
        **card,
    }
    write_json(card_path(path), content)
