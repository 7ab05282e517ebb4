"""Descriptions of methods, triggers, architectures and data layouts, from their docstrings."""

import dataclasses
import inspect
import typing
from typing import Any

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.errors import BadInput

Block = tuple[str, list[tuple[str, str]]]
FOLDERS = {
    "defenses": "methods",
    "explanations": "methods that explain",
    "attacks": "attacks",
    "triggers": "triggers",
    "architectures": "architectures",
    "datasets": "layouts of data",
}


def describe(name: str | None = None) -> list[Block]:
    """Return tables of all entries, or the description of one entry with its settings.

    Args:
        name: the name of an entry; None describes all.

    Raises:
        BadInput: if there is no entry with this name.
    """
    from keras_backdoor.training import PRESETS as RECIPES
    from keras_backdoor.triggers._parse import PRESETS

    if name is not None:
        if name in PRESETS:
            return [(name, [("what", "a trigger preset"), ("trigger", PRESETS[name])])]
        if name in RECIPES:
            values = typed_settings.as_dict(RECIPES[name]).items()
            return [(name, [("what", "a recipe of training"), *((k, str(v)) for k, v in values)])]
        return [_one(name)]
    blocks = [(title, _rows(folder)) for folder, title in FOLDERS.items()]
    recipes = [(k, repr(v)) for k, v in RECIPES.items()]
    return [
        b
        for b in [*blocks, ("trigger presets", list(PRESETS.items())), ("recipes", recipes)]
        if b[1]
    ]


def _rows(folder: str) -> list[tuple[str, str]]:
    rows = []
    for key in discovery.keys(folder):
        if folder == "datasets":
            text = discovery.module(folder, key).FORM
        else:
            entry = discovery.load(folder, key)
            text = _summary(entry)
            if commands := getattr(entry, "commands", ()):
                text = f"({', '.join(commands)}) {text}"
        rows.append((discovery.word(key), text))
    return rows


def _one(name: str) -> Block:
    for folder in FOLDERS:
        if name.replace("-", "_") not in discovery.keys(folder):
            continue
        if folder == "datasets":
            module = discovery.module(folder, name)
            return name, [("what", module.FORM), ("details", inspect.getdoc(module.read) or "")]
        entry = discovery.load(folder, name)
        break
    else:
        raise BadInput(f"There is no '{name}'; run 'methods' without a name to list all entries.")
    rows = [("what", _summary(entry))]
    if paper := getattr(entry, "paper", ""):
        rows.append(("paper", paper))
    if commands := getattr(entry, "commands", ()):
        rows.append(("commands", ", ".join(commands)))
    if needs := getattr(entry, "needs", ()):
        rows.append(("needs", ", ".join(map(str, needs))))
    for preset, values in getattr(entry, "presets", {}).items():
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        rows.append((f"preset {preset}", shown))
    if isinstance(entry, type) and dataclasses.is_dataclass(entry):
        rows += _settings_of(entry)
    return name, rows


def _kind(hint: Any) -> str:
    """A type as text; the values of a choice."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint))


def _settings_of(entry: type, prefix: str = "") -> list[tuple[str, str]]:
    """Return (name = default, text and type) of all settings, with those of nested dataclasses."""
    rows, hints = [], typed_settings.fields(entry)
    texts: dict[str, str] = {}
    for cls in reversed(entry.__mro__):
        texts |= _arguments(inspect.getdoc(cls) or "")
    for field in dataclasses.fields(entry):
        default = typed_settings._default(entry, field.name)
        kind = _kind(hints[field.name])
        nested = dataclasses.is_dataclass(default)
        shown = f"{prefix}{field.name}" if nested else f"{prefix}{field.name} = {default}"
        rows.append((shown, f"{texts.get(field.name, '')} ({kind})"))
        if nested:
            rows += _settings_of(type(default), f"{prefix}{field.name}.")
    return rows


def _summary(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").partition("\n")[0]


def _arguments(doc: str) -> dict[str, str]:
    """Parse the Args block of a docstring into a mapping from name to text."""
    texts: dict[str, str] = {}
    name, inside = "", False
    for line in doc.splitlines():
        if line.startswith("Args:"):
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            name, _, text = line.strip().partition(":")
            texts[name] = text.strip()
        elif inside and name:
            texts[name] += f" {line.strip()}"
    return texts
