"""NumPy archives: `x_train y_train x_test y_test` (as of Keras' MNIST), or plain `x y`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_backdoor._files import write_npz
from keras_backdoor.datasets.base import Request, choose_split
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.samples import Samples

FORM = "an .npz with x_train, y_train, x_test, y_test, or x and y"
MAX_BYTES = 8 * 2**30
"""Declared bytes of an archive above which it is not read."""

_OPTIONAL = ("origin", "track")


def matches(path: Path) -> bool:
    """Whether this is an archive of arrays with images among them."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy").lower() for name in archive.namelist()}
    return any(name.startswith("x") for name in names) and ".jpg" not in "".join(names)


def read(path: Path, request: Request) -> Samples:
    """One split of the archive."""
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
            raise UnreadableFile(f"{path} declares more than 8 GiB; write it as HDF5.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _read(archive, request, path)
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        if isinstance(error, BadInput):
            raise
        raise UnreadableFile(f"{path} cannot be read as arrays of numbers: {error}.") from error


def _read(archive: np.lib.npyio.NpzFile, request: Request, path: Path) -> Samples:
    lower = {name.lower(): name for name in archive.files}
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
    images = archive[lower[f"x{suffix}"]]
    if images.dtype.kind not in "uif":
        raise UnreadableFile(f"{path}: x{suffix} is not an array of numbers.")
    return Samples(images, get["y"], origin=get["origin"], track=get["track"])


def write(path: Path, samples: Samples, split: str) -> None:
    """Write one split; needs memory for the images."""
    arrays = {"x": samples.read(), "y": samples.labels}
    arrays |= {name: getattr(samples, name) for name in _OPTIONAL}
    present = {f"{name}_{split}": values for name, values in arrays.items() if values is not None}
    write_npz(path, present)
