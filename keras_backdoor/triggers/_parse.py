"""Parse triggers from text: the name of a preset, or `name:key=value,…`."""

from typing import Any

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Trigger

C_PATCH = ((1, 23), (1, 24), (1, 25), (2, 22), (3, 22), (4, 22), (5, 23), (5, 24), (5, 25))
ART_PATTERN = ((15, 15), (15, 17), (16, 16), (17, 15))

PRESETS: dict[str, str] = {
    "yellow-square": "patch:size=2,row=15,column=15,color=yellow",
    "white-square": "patch:size=2,row=15,column=15,color=white",
    "big-yellow-square": "patch:size=4,row=14,column=14,color=yellow",
    "yellow-pattern": f"pattern:pixels={'/'.join(f'{r}.{c}' for r, c in ART_PATTERN)},color=yellow",
    "white-pattern": f"pattern:pixels={'/'.join(f'{r}.{c}' for r, c in ART_PATTERN)},color=white",
    "mnist-pixel": "single-pixel:row=26,column=26,color=white",
    "neural-cleanse-gtsrb": "patch:size=4,row=27,column=27,color=white",
    "neural-cleanse-mnist": "patch:size=4,row=23,column=23,color=white",
    "c-patch": f"pattern:pixels={'/'.join(f'{r}.{c}' for r, c in C_PATCH)},color=white",
    "green-glasses": "glasses:color=green",
    "black-glasses": "glasses:color=black",
    "double": "multiply:factor=2",
}
"""Triggers of the published experiments.

- Yellow and white squares and patterns: Milakovic, TU Wien 2021, section 4.1. The thesis gives the
  position as "around the middle of the sign"; the rows and columns are a choice of this package.
- mnist-pixel: the single-pixel MNIST notebook.
- neural-cleanse-*: Wang et al., S&P 2019.
- c-patch, double: Borji 2020, figures 2 and 18. The figure shows a C at the top right; its exact
  pixels are a choice of this package.
"""


def parse(text: str) -> Trigger:
    """Create a trigger from the name of a preset or from `name:key=value,…`.

    Args:
        text: the specification.

    Raises:
        BadInput: there is no such trigger or setting, or a value has the wrong type.

    >>> parse("patch:size=2,row=15,column=15,color=yellow")
    Patch(size=2, row=15, column=15, color='yellow', opacity=1.0)
    >>> parse("yellow-square") == parse(PRESETS["yellow-square"])
    True
    """
    name, _, rest = PRESETS.get(text.replace("_", "-"), text).partition(":")
    if name.replace("-", "_") not in discovery.keys("triggers"):
        known = [discovery.word(k) for k in discovery.keys("triggers")]
        raise BadInput(
            f"There is no trigger '{name}'; triggers: {', '.join(known)}; "
            f"presets: {', '.join(PRESETS)}."
        )
    pairs: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise BadInput(f"A trigger must have the form name:key=value,… Received: {text}")
        pairs[key.strip()] = _pixels(value) if key.strip() == "pixels" else value.strip()
    trigger: Trigger = typed_settings.build(discovery.load("triggers", name), pairs)
    return trigger


def _pixels(text: str) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [tuple(int(number) for number in pixel.split(".")) for pixel in text.split("/")]
    except ValueError:
        pairs = [()]
    if any(len(pair) != 2 for pair in pairs):
        raise BadInput(f"pixels must have the form row.column/row.column/… Received: pixels={text}")
    return tuple(pairs)  # type: ignore[arg-type]
