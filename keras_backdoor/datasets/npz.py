"""NumPy archives with images and labels, such as `x_train`, `y_train`, `x_test`, `y_test`."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.files import write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.datasets import _columns
from keras_backdoor.datasets.base import LAST, Request, check_remaining, choose_split
from keras_backdoor.samples import Samples

FORM = "an .npz file with images and labels, such as x_train, y_train, x_test, y_test, or x and y"
ENDINGS = (".npz",)
PRIORITY = LAST - 1
NAMES = {"images": "x", "labels": "y", "origin": "origin", "track": "track"}
"""Column -> name of its array, without the suffix of the split, in files that are written."""


def matches(path: Path) -> bool:
    """Whether the path is a zip archive of arrays."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: Path, request: Request) -> Samples:
    """Read one split of the archive."""
    archive = Npz(path)
    columns = _columns_of(archive, path, request)
    values: dict[str, Any] = {c: archive[name] for c, name in columns.named().items()}
    return Samples(value_range=request.value_range, **values)


def _columns_of(archive: Npz, path: Path, request: Request) -> _columns.Columns:
    columns = _columns.find(archive.shapes(), request, path)
    return columns[choose_split(columns, request, path)]


def write(path: Path, samples: Samples, split: str) -> None:
    """Write one split; all images are read into memory."""
    arrays = {"images": samples.read(), "labels": samples.labels}
    arrays |= {"origin": samples.origin, "track": samples.track}
    present = {
        f"{NAMES[column]}_{split}": values
        for column, values in arrays.items()
        if values is not None
    }
    write_npz(path, present)


def copy_without(path: Path, out: Path, rows: np.ndarray, request: Request) -> None:
    """Copy the archive without the images in `rows` of one split."""
    archive = Npz(path)
    columns = _columns_of(archive, path, request)
    own = set(columns.named().values())
    check_remaining(len(archive[columns.images]) - len(np.unique(rows)), path)
    write_npz(out, {n: np.delete(archive[n], rows, 0) if n in own else archive[n] for n in archive})
