"""Opening what the commands are given: models, triggers, methods; and writing pages."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.commands import console
from keras_backdoor.commands.options import parse_range
from keras_backdoor.errors import BadInput

if TYPE_CHECKING:
    from keras_backdoor.network.classifier import Classifier


def open_model(
    path: str, architecture: str | None, classes: int | None, input_range: str | None
) -> "Classifier":
    """The classifier of a model file, or of a saved answer that has a model."""
    from keras_backdoor.loading import load_model

    file = Path(path)
    if (file / "answer.json").is_file() and (file / "model.keras").is_file():
        file = file / "model.keras"
    return load_model(
        file, architecture=architecture, classes=classes, input_range=parse_range(input_range)
    )


def open_trigger(text: str) -> Any:
    """A trigger from its specification, or the most suspicious one of a saved scan."""
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
        raise BadInput(f"Behind # stands the number of a class. Received: {chosen}")
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
    """The trigger of an attack that is to be measured, checked before long work starts."""
    if trigger is None:
        if target is not None or source is not None:
            raise BadInput("--target and --source speak of an attack: pass --trigger too.")
        return None
    if not needs:
        raise BadInput("--trigger is measured on test data: pass --test too.")
    stamp = open_trigger(trigger)
    if target is None or not 0 <= target < classes:
        raise BadInput(
            f"A trigger is measured with a target class in 0..{classes - 1}. "
            f"Received: target={target}"
        )
    return stamp


def open_attacker(kind: type, name: str, settings: list[str] | None, named: dict[str, Any]) -> Any:
    """An attack with its settings.

    Args:
        kind: `DataAttack` or `TrainingAttack`.
        name: its word.
        settings: `key=value` texts.
        named: settings that have an option of their own; None where it is not given.
    """
    cls = discovery.load("attacks", name)
    if not issubclass(cls, kind):
        words = [discovery.word(k) for k in discovery.keys("attacks")]
        fitting = [w for w in words if issubclass(discovery.load("attacks", w), kind)]
        raise BadInput(f"'{name}' is another kind of attack; fitting: {', '.join(fitting)}.")
    given = {key: value for key, value in named.items() if value is not None}
    return typed_settings.build(cls, {**given, **typed_settings.parse_pairs(settings or [])})


def methods_of(command: str) -> dict[str, Any]:
    """Word -> class of the methods that answer to a command."""
    found = {}
    for folder in ("defenses", "explanations"):
        for key in discovery.keys(folder):
            cls = discovery.load(folder, key)
            if command in cls.commands:
                found[discovery.word(key)] = cls
    return found


def choose_method(command: str, method: str | None, settings: list[str] | None) -> Any:
    """The method of a command with its settings."""
    found = methods_of(command)
    if not found:
        raise BadInput(f"No method for '{command}' is installed; 'methods' lists what there is.")
    if method is None:
        defaults = [w for w, cls in found.items() if command in cls.default_for]
        method = (defaults or list(found))[0]
    if method not in found:
        raise BadInput(f"'{command}' has no method '{method}'; it has: {', '.join(found)}.")
    return typed_settings.build(found[method], typed_settings.parse_pairs(settings or []))


def write_report(answer: Any, folder: Path, force: bool) -> None:
    """Write the page of an answer, and say where it is."""
    from keras_backdoor import reports

    page = reports.write(reports.page_of(answer), folder, force=force)
    console.out.print(f"page: {page}")
