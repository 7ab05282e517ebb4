"""Recognize the arrays of a data file by their names: images, labels, origins and tracks."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from keras_backdoor.datasets.base import Request
from keras_backdoor.errors import BadInput, UnreadableFile

SPLITS = {
    "train": "train", "training": "train", "trn": "train", "test": "test", "testing": "test",
    "tst": "test", "eval": "test", "evaluation": "test", "val": "validation",
    "valid": "validation", "validation": "validation", "dev": "validation",
}  # fmt: skip
"""Usual names of splits, in lower case -> the name that is printed and accepted."""
WORDS = {
    "x": "images", "images": "images", "image": "images", "imgs": "images", "img": "images",
    "data": "images", "pictures": "images", "pixels": "images", "y": "labels",
    "labels": "labels", "label": "labels", "targets": "labels", "target": "labels",
    "classes": "labels", "class": "labels", "origin": "origin", "track": "track",
}  # fmt: skip
"""Words in the names of arrays -> column."""
KEYS = ("images", "labels", "origin", "track")
FORMS = (
    "x_train and y_train, X_test and Y_test, train_images and train_labels, data and label, images "
    "and labels, train_set_x and train_set_y, or arr_0 and arr_1"
)
Shape = tuple[int, ...]


class Columns(NamedTuple):
    """The arrays of one split of a file.

    Attributes:
        images: name of the array with the images.
        labels: name of the array with the labels, or None.
        origin: name of the array with the origins, or None.
        track: name of the array with the recordings, or None.
    """

    images: str
    labels: str | None = None
    origin: str | None = None
    track: str | None = None

    def named(self) -> dict[str, str]:
        """Column -> name of its array, for those that exist."""
        return {key: name for key, name in self._asdict().items() if name is not None}


def find(shapes: Mapping[str, Shape], request: Request, path: Path) -> dict[str, Columns]:
    """Find the arrays of each split.

    Args:
        shapes: name of an array -> its shape.
        request: the options of the user; `keys` names arrays.
        path: the path of the file, for messages.

    Returns:
        Split -> columns. A file without splits has the split "all".

    Raises:
        UnreadableFile: no array has images, or labels may exist under an unknown name.
        BadInput: an array that the user names does not exist.
    """
    for column, name in request.keys.items():
        if column not in KEYS or name not in shapes:
            raise BadInput(
                f"--key is written COLUMN=NAME with one of the columns {', '.join(KEYS)} and one "
                f"of the arrays of {path}: {listed(shapes)}. Received: {column}={name}"
            )
    found: dict[str, dict[str, str]] = {}
    for name in shapes:
        place = place_of(name)
        if place is not None:
            found.setdefault(place[0], {}).setdefault(place[1], name)
    for column, name in request.keys.items():
        own = split_of(name)
        everywhere = own == "all" and column != "images" and found
        for place_name in list(found) if everywhere else [own]:
            found.setdefault(place_name, {})[column] = name
    if "images" in request.keys:
        own = split_of(request.keys["images"])
        found = {own: found[own]}
    columns = {split: Columns(**parts) for split, parts in found.items() if "images" in parts}
    if not columns:
        raise UnreadableFile(
            f"{path} has no images under a usual name ({FORMS}); it has {listed(shapes)}: pass "
            "--key images=NAME --key labels=NAME (keys={'images': …})."
        )
    for column, name in request.keys.items():
        if all(getattr(split, column) != name for split in columns.values()):
            raise BadInput(
                f"'{name}' is of the split '{split_of(name)}', and the images of {path} are of the "
                f"split '{next(iter(columns))}': choose arrays of one split."
            )
    for chosen in columns.values():
        _check_labels(chosen, columns, shapes, path)
    return columns


def split_of(name: str) -> str:
    """The split that the name of an array contains, or "all".

    >>> split_of("fine_train"), split_of("species")
    ('train', 'all')
    """
    splits = [SPLITS[word] for word in _words(name) if word in SPLITS]
    return splits[0] if len(splits) == 1 else "all"


def _words(name: str) -> list[str]:
    """The words in the name of an array, in lower case."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    words = [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]
    return [part for word in words for part in _parts(word)]


def place_of(name: str) -> tuple[str, str] | None:
    """(split, column) of an array by its name, or None.

    >>> place_of("X_train"), place_of("val_labels"), place_of("train_set_y"), place_of("arr_0")
    (('train', 'images'), ('validation', 'labels'), ('train', 'labels'), ('all', 'images'))
    >>> place_of("list_classes"), place_of("trainX")
    (None, ('train', 'images'))
    """
    if name in ("arr_0", "arr_1"):
        return "all", "images" if name == "arr_0" else "labels"
    words = _words(name)
    rest = [word for word in words if word not in SPLITS and word != "set"]
    if sum(word in SPLITS for word in words) > 1 or len(rest) != 1 or rest[0] not in WORDS:
        return None
    return split_of(name), WORDS[rest[0]]


def _parts(word: str) -> list[str]:
    """Split words such as `xtrain` and `testy`."""
    match = re.fullmatch(r"([xy])?(train|test|val)([xy])?", word)
    if match is None or not (match[1] or match[3]):
        return [word]
    return [part for part in match.groups() if part]


def _check_labels(
    split: Columns, columns: Mapping[str, Columns], shapes: Mapping[str, Shape], path: Path
) -> None:
    """Raise if an array of another name may contain the labels."""
    if split.labels is not None:
        return
    used = {name for c in columns.values() for name in c.named().values()}
    number = shapes[split.images][0] if shapes[split.images] else 0
    candidates = [
        name
        for name, shape in shapes.items()
        if name not in used and len(shape) in (1, 2) and shape[0] == number
    ]
    if candidates:
        raise UnreadableFile(
            f"{path} has no labels under a usual name for '{split.images}', but {listed(shapes)}: "
            f"pass --key images={split.images} --key labels={candidates[0]}."
        )


def listed(shapes: Mapping[str, Shape]) -> str:
    """The names and the shapes of arrays as text."""
    shown = [f"{name} {tuple(shape)}" for name, shape in list(shapes.items())[:12]]
    more = f" and {len(shapes) - 12} more" if len(shapes) > 12 else ""
    return (", ".join(shown) or "no arrays") + more
