"""NumPy archives: `x_train`, `y_train`, `x_test`, `y_test` (as in Keras), or `x` and `y`."""

import zipfile
from pathlib import Path

import numpy as np

from keras_backdoor._safe.files import write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.datasets.base import Request, check_remaining, choose_split
from keras_backdoor.errors import UnreadableFile
from keras_backdoor.samples import Samples

FORM = "an .npz with x_train, y_train, x_test, y_test, or x and y"
ENDINGS = (".npz",)
COLUMNS = ("x", "y", "origin", "track")


def matches(path: Path) -> bool:
    """Whether the path is an archive with an array whose name starts with `x`."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    return any(name.lower().startswith("x") for name in Npz(path))


def read(path: Path, request: Request) -> Samples:
    """Read one split of the archive."""
    archive = Npz(path)
    keys = _keys(archive, path, request)
    x, y, origin, track = (archive[keys[name]] if name in keys else None for name in COLUMNS)
    return Samples(x, y, origin=origin, track=track, value_range=request.value_range)


def _keys(archive: Npz, path: Path, request: Request) -> dict[str, str]:
    """Column -> name of its array in the archive, for the requested split."""
    names = {name.lower(): name for name in archive}
    splits = {s: f"_{s}" for s in ("train", "test") if f"x_{s}" in names}
    if not splits and "x" in names:
        splits = {"all": ""}
    if not splits:
        raise UnreadableFile(f"{path} has neither x_train nor x, only: {', '.join(names)}.")
    suffix = splits[choose_split(splits, request, path)]
    return {c: names[f"{c}{suffix}"] for c in COLUMNS if f"{c}{suffix}" in names}


def write(path: Path, samples: Samples, split: str) -> None:
    """Write one split; all images are read into memory."""
    arrays = {"x": samples.read(), "y": samples.labels}
    arrays |= {"origin": samples.origin, "track": samples.track}
    present = {f"{name}_{split}": values for name, values in arrays.items() if values is not None}
    write_npz(path, present)


def copy_without(path: Path, out: Path, rows: np.ndarray, request: Request) -> None:
    """Copy the archive without the images in `rows` of one split."""
    archive = Npz(path)
    keys = _keys(archive, path, request)
    own = set(keys.values())
    check_remaining(len(archive[next(iter(keys.values()))]) - len(np.unique(rows)), path)
    write_npz(out, {n: np.delete(archive[n], rows, 0) if n in own else archive[n] for n in archive})
