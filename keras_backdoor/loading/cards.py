"""Model files and their cards: recipe, seed, metrics and SHA-256."""

import json
from pathlib import Path
from typing import Any

from keras_backdoor import __version__
from keras_backdoor._internals.backend import quiet_logs
from keras_backdoor._safe.files import check_output, existing, sha256, write_json, writing
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier


def card_path(model: Path | str) -> Path:
    """Path of the card of a model: `NAME.json` for `NAME.h5`."""
    return Path(model).with_suffix(".json")


def check(path: Path, *, force: bool = False) -> None:
    """Raise before training if the model cannot be saved to this path.

    Raises:
        BadInput: if the suffix is not supported, or a file exists and `force` is not set.
    """
    if path.suffix not in (".h5", ".keras"):
        raise BadInput(f"The path of a model must end in .h5 or .keras. Received: {path}")
    check_output(path, force=force)
    check_output(card_path(path), force=force)


def read_about(path: Path | None) -> dict[str, Any]:
    """Read additional entries of a card from a JSON file.

    Raises:
        BadInput: if the file does not exist or does not contain a JSON object.
    """
    if path is None:
        return {}
    try:
        entries = json.loads(existing(path, "JSON file with card entries").read_text())
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}.") from error
    if not isinstance(entries, dict):
        raise BadInput(f"{path} must contain a JSON object.")
    return entries


def write(path: Path, classifier: Classifier, card: dict[str, Any], *, force: bool = False) -> None:
    """Save a model without its optimizer, together with its card."""
    check(path, force=force)
    with writing(path, force=force) as partial, quiet_logs():
        classifier.model.save(partial, include_optimizer=False)
    content = {
        "sha256": sha256(path),
        "preprocess": classifier.preprocess and classifier.preprocess.as_json(),
        "reject_class": classifier.reject_class,
        "classes": classifier.classes,
        "made_with": f"keras_backdoor {__version__}",
        **card,
    }
    write_json(card_path(path), content)
