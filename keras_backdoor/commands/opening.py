"""Load the models, triggers, attacks and methods that are named on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.commands import console
from keras_backdoor.errors import BadInput

if TYPE_CHECKING:
    from keras_backdoor.network.classifier import Classifier


def open_model(
    path: str, architecture: str | None, classes: int | None, preprocess: str | None
) -> "Classifier":
    """Load a classifier from a model file or from a saved answer that contains a model."""
    from keras_backdoor.loading import load_model

    file = Path(path)
    if (file / "answer.json").is_file() and (file / "model.keras").is_file():
        file = file / "model.keras"
    return load_model(file, architecture=architecture, classes=classes, preprocess=preprocess)


def open_trigger(text: str) -> Any:
    """Return a trigger from its specification or from a saved scan.

    `FOLDER#CLASS` selects the trigger of one class; `FOLDER` alone selects the most suspicious one.
    """
    from keras_backdoor.triggers._parse import parse

    folder = Path(text.partition("#")[0])
    if not (folder / "answer.json").is_file():
        return parse(text)
    from keras_backdoor.answers import FlaggedClasses, load_answer

    answer = load_answer(folder)
    if not isinstance(answer, FlaggedClasses) or not answer.triggers:
        raise BadInput(f"The answer in {folder} has no triggers.")
    _, separator, chosen = text.partition("#")
    if separator and not chosen.isdigit():
        raise BadInput(f"Expected a class number after '#'. Received: {chosen}")
    number = int(chosen) if separator else answer.ranked()[0]
    if number not in answer.triggers:
        raise BadInput(f"The answer in {folder} has no trigger for class {number}.")
    return answer.triggers[number]


def open_attack(
    trigger: str | None,
    target: int | None,
    classes: int,
    *,
    source: int | None = None,
    needs: object = True,
) -> Any:
    """Return the trigger of an attack to measure, or None; check the options before long work.

    Args:
        trigger: a trigger specification or the folder of a saved scan.
        target: the target class.
        classes: the number of classes of the model.
        source: the source class.
        needs: the test data that the attack needs; a false value is an error.

    Raises:
        BadInput: if an option is missing or the target class does not exist.
    """
    if trigger is None:
        if target is not None or source is not None:
            raise BadInput("--target and --source describe an attack: pass --trigger too.")
        return None
    if not needs:
        raise BadInput("--trigger is measured on test data: pass --test too.")
    stamp = open_trigger(trigger)
    if target is None or not 0 <= target < classes:
        raise BadInput(
            f"With --trigger, pass a target class in 0..{classes - 1} as --target. "
            f"Received: target={target}"
        )
    return stamp


def open_attacker(kind: type, name: str, settings: list[str] | None, named: dict[str, Any]) -> Any:
    """Build an attack from its settings.

    Args:
        kind: `DataAttack` or `TrainingAttack`.
        name: the name of the attack on the command line.
        settings: `key=value` strings.
        named: values of the settings that have a separate option; None if the option is not given.
    """
    cls = discovery.load("attacks", name)
    if not issubclass(cls, kind):
        words = [discovery.word(k) for k in discovery.keys("attacks")]
        fitting = [w for w in words if issubclass(discovery.load("attacks", w), kind)]
        raise BadInput(f"'{name}' is another kind of attack; fitting: {', '.join(fitting)}.")
    given = {key: value for key, value in named.items() if value is not None}
    return typed_settings.build(cls, {**given, **typed_settings.parse_pairs(settings or [])})


def methods_of(command: str) -> dict[str, Any]:
    """Map the names of the methods that implement a command to their classes."""
    methods = {}
    for folder in ("defenses", "explanations"):
        for key in discovery.keys(folder):
            cls = discovery.load(folder, key)
            if command in cls.commands:
                methods[discovery.word(key)] = cls
    return methods


def choose_method(command: str, method: str | None, settings: list[str] | None) -> Any:
    """Build the chosen or default method of a command from its settings."""
    methods = methods_of(command)
    if not methods:
        raise BadInput(f"No method for '{command}' is installed; 'methods' lists what there is.")
    if method is None:
        defaults = [w for w, cls in methods.items() if command in cls.default_for]
        method = (defaults or list(methods))[0]
    if method not in methods:
        raise BadInput(f"'{command}' has no method '{method}'; it has: {', '.join(methods)}.")
    return typed_settings.build(methods[method], typed_settings.parse_pairs(settings or []))


def write_report(answer: Any, folder: Path, force: bool) -> None:
    """Write the report of an answer and print its path."""
    from keras_backdoor import reports

    page = reports.write(reports.page_of(answer), folder, force=force)
    console.out.print(f"page: {page}")
