"""The HDF5 layout of the CSAW competition: `data` (N, C, H, W), `label` (N,)."""

from pathlib import Path

import numpy as np

from keras_backdoor.datasets.base import (
    Request,
    copy_hdf5,
    hdf5,
    is_hdf5,
    origins,
    plain_dataset,
    stored_origins,
)
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.samples import Samples
from keras_backdoor.samples.images import HDF5Images

ENDINGS = ()
"""Empty, because `.h5` files are written in the layout of Neural Cleanse."""
FORM = "an HDF5 file with data (N, C, H, W) and label (N,)"


def matches(path: Path) -> bool:
    """Whether the path is an HDF5 file with the dataset `data`."""
    if not is_hdf5(path):
        return False
    with hdf5(path) as file:
        return "data" in file


def read(path: Path, request: Request) -> Samples:
    """Read the file, which has no splits; the images are read lazily as (N, H, W, C)."""
    if request.split not in (None, "all"):
        raise BadInput(f"{path} has no splits: leave out --split (split=None).")
    with hdf5(path) as file:
        data = plain_dataset(file, "data", path)
        if data.ndim != 4 or data.shape[1] not in (1, 3, 4):
            raise UnreadableFile(f"{path}: data must be (N, C, H, W), not {data.shape}.")
        labels = plain_dataset(file, "label", path)[()] if "label" in file else None
        origin = (
            origins(plain_dataset(file, "origin", path, "uifS")[()]) if "origin" in file else None
        )
        first = data[: min(1000, len(data))]
    images = HDF5Images(path, "data", channels_first=True)
    bounds = request.value_range
    if first.dtype.kind == "f" and bounds is None:
        bounds = Samples(np.moveaxis(first, 1, -1)).value_range
    return Samples(images, labels, origin=origin, value_range=bounds)


def write(path: Path, samples: Samples, split: str) -> None:
    """Write the samples, block by block."""
    import h5py

    n, height, width, channels = samples.images.shape
    with h5py.File(path, "w") as file:
        block = min(256, n)
        data = file.create_dataset(
            "data",
            (n, channels, height, width),
            samples.images.dtype,
            chunks=(block, channels, height, width),
            compression="gzip",
        )
        for start in range(0, n, block):
            pixels = samples.read(start, min(start + block, n))
            data[start : start + len(pixels)] = np.moveaxis(pixels, -1, 1)
        if samples.labels is not None:
            file["label"] = samples.labels
        if samples.origin is not None:
            file["origin"] = stored_origins(samples.origin)


def copy_without(path: Path, out: Path, rows: np.ndarray, request: Request) -> None:
    """Copy the file without the images in `rows`."""
    with hdf5(path) as file:
        number = len(file["data"])
    copy_hdf5(path, out, ("data", "label", "origin"), rows, number)
