"""Load the models, triggers, attacks and methods that are named on the command line."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Attack:
    """An attack to measure.

    Attributes:
        trigger: the trigger.
        target: the target class, or "next", see `evaluate`.
        source: the source class, or None for all classes.
        name: the name of the attack in tables.
    """

    trigger: Any
    target: int | str
    source: int | None = None
    name: str = ""


def open_trigger(text: str, target: int | str | None = None) -> Any:
    """Return a trigger from its specification, or the trigger of a class from a saved scan.

    Args:
        text: a trigger specification or the folder of a saved scan.
        target: the class whose trigger of a saved scan is used.
    """
    from keras_backdoor.triggers._parse import parse

    scan = _saved_scan(text)
    if scan is None:
        return parse(text)
    if target is None:
        raise BadInput(f"{text} has a trigger for each class: choose one with --target CLASS.")
    return _trigger_of(scan, text, target)


def _saved_scan(text: str) -> Any:
    """The saved scan in a folder, or None if the text names no saved answer."""
    folder = Path(text)
    if not (folder / "answer.json").is_file():
        return None
    from keras_backdoor.answers import FlaggedClasses, load_answer

    answer = load_answer(folder)
    if not isinstance(answer, FlaggedClasses) or not answer.triggers:
        raise BadInput(f"The answer in {folder} has no triggers.")
    return answer


def _trigger_of(scan: Any, text: str, target: int | str) -> Any:
    if target not in scan.triggers:
        known = ", ".join(map(str, sorted(scan.triggers)))
        raise BadInput(f"The scan in {text} has no trigger for class {target}; it has: {known}.")
    return scan.triggers[target]


def open_attacks(
    trigger: str | None,
    target: int | str | None,
    classes: int,
    *,
    source: int | None = None,
    needs: object = True,
) -> list[Attack]:
    """Return the attacks to measure; check the options before long work.

    A saved scan has a trigger for each class. Without a target, its flagged classes and its further
    suspects are measured.

    Args:
        trigger: a trigger specification or the folder of a saved scan; None measures no attack.
        target: the target class, or "next".
        classes: the number of classes of the model.
        source: the source class.
        needs: the test data that the attack needs; a false value is an error.

    Raises:
        BadInput: if an option is missing or the target class does not exist.
    """
    if trigger is None:
        if target is not None or source is not None:
            raise BadInput("--target and --source describe an attack: pass --trigger too.")
        return []
    if not needs:
        raise BadInput("--trigger is measured on test data: pass --test too.")
    scan = _saved_scan(trigger)
    if scan is not None and target is None:
        chosen = [c for c in scan.ranked() if scan.standing(c)]
        if not chosen:
            raise BadInput(f"The scan in {trigger} flags no class: choose one with --target CLASS.")
        return [
            Attack(scan.triggers[c], c, source if source is not None else scan.source.get(c),
                   f"trigger of class {c} ({scan.standing(c)})")
            for c in chosen
        ]  # fmt: skip
    stamp = open_trigger(trigger, target)
    if target is None or (isinstance(target, int) and not 0 <= target < classes):
        raise BadInput(
            f"With --trigger, pass a target class in 0..{classes - 1} as --target. "
            f"Received: target={target}"
        )
    return [Attack(stamp, target, source)]


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


def choose_method(
    command: str,
    method: str | None,
    settings: list[str] | None,
    preset: str | None = None,
    recipe: str | None = None,
) -> Any:
    """Build the chosen or default method of a command from its settings.

    Args:
        command: the command.
        method: the name of the method; None selects the default one.
        settings: `key=value` strings.
        preset: the name of a preset of the method, or None.
        recipe: the name of the recipe with which the method trains, or None.
    """
    methods = methods_of(command)
    if not methods:
        raise BadInput(f"No method for '{command}' is installed; 'methods' lists what there is.")
    if method is None:
        defaults = [w for w, cls in methods.items() if command in cls.default_for]
        method = (defaults + list(methods))[0]
    if method not in methods:
        raise BadInput(f"'{command}' has no method '{method}'; it has: {', '.join(methods)}.")
    cls = methods[method]
    values: dict[str, Any] = {} if preset is None else vars(cls.preset(preset))
    if recipe is not None:
        if "recipe" not in typed_settings.fields(cls):
            raise BadInput(f"The method '{method}' trains no network anew: omit --recipe.")
        values["recipe"] = recipe
    return typed_settings.build(cls, {**values, **typed_settings.parse_pairs(settings or [])})


def write_report(answer: Any, folder: Path, force: bool) -> None:
    """Write the report of an answer and print its path."""
    from keras_backdoor import reports

    page = reports.write(reports.page_of(answer), folder, force=force)
    console.out.print(f"page: {page}")
