"""NumPy archives: `x_train y_train x_test y_test` (as of Keras' MNIST), or plain `x y`."""

import zipfile
from pathlib import Path

from keras_backdoor._safe.files import write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.datasets.base import Request, choose_split
from keras_backdoor.errors import UnreadableFile
from keras_backdoor.samples import Samples

FORM = "an .npz with x_train, y_train, x_test, y_test, or x and y"
_OPTIONAL = ("origin", "track")


def matches(path: Path) -> bool:
    """Whether this is an archive of arrays with images among them."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    return any(name.lower().startswith("x") for name in Npz(path))


def read(path: Path, request: Request) -> Samples:
    """One split of the archive."""
    archive = Npz(path)
    lower = {name.lower(): name for name in archive}
    splits = {s: f"_{s}" for s in ("train", "test") if f"x_{s}" in lower}
    if not splits and "x" in lower:
        splits = {"all": ""}
    if not splits:
        raise UnreadableFile(f"{path} has neither x_train nor x, only: {', '.join(lower)}.")
    suffix = splits[choose_split(splits, request, path)]
    get = {
        name: archive[lower[f"{name}{suffix}"]] if f"{name}{suffix}" in lower else None
        for name in ("y", *_OPTIONAL)
    }
    return Samples(
        archive[lower[f"x{suffix}"]],
        get["y"],
        origin=get["origin"],
        track=get["track"],
        value_range=request.value_range,
    )


def write(path: Path, samples: Samples, split: str) -> None:
    """Write one split; needs memory for the images."""
    arrays = {"x": samples.read(), "y": samples.labels}
    arrays |= {name: getattr(samples, name) for name in _OPTIONAL}
    present = {f"{name}_{split}": values for name, values in arrays.items() if values is not None}
    write_npz(path, present)
