"""The HDF5 layout of Neural Cleanse: `X_train`, `Y_train`, `X_test` and `Y_test`.

Labels are class numbers or one-hot vectors.
"""

from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor.datasets.base import (
    BLOCK,
    Request,
    choose_split,
    copy_hdf5,
    hdf5,
    is_hdf5,
    origins,
    plain_dataset,
    stored_origins,
)
from keras_backdoor.errors import UnreadableFile
from keras_backdoor.samples import Samples
from keras_backdoor.samples.images import HDF5Images

FORM = "an HDF5 file with X_train, Y_train, X_test, Y_test"
ENDINGS = (".h5", ".hdf5")
COLUMNS = {"labels": "Y", "track": "track", "origin": "origin"}
"""Field of `Samples` -> name of its dataset, without the suffix of the split."""


def matches(path: Path) -> bool:
    """Whether the path is an HDF5 file with the dataset `X_train` or `X_test`."""
    if not is_hdf5(path):
        return False
    with hdf5(path) as file:
        return "X_train" in file or "X_test" in file


def read(path: Path, request: Request) -> Samples:
    """Read one split; the images are read lazily."""
    with hdf5(path) as file:
        split = _split(file, path, request)
        images = plain_dataset(file, f"X_{split}", path)
        if images.ndim != 4:
            raise UnreadableFile(f"{path}: X_{split} must be (n, h, w, c), not {images.shape}.")
        columns = {
            name: plain_dataset(file, f"{key}_{split}", path, _kinds(name))[()]
            for name, key in COLUMNS.items()
            if f"{key}_{split}" in file
        }
        bounds = request.value_range or images.attrs.get("value_range")
    if bounds is None and images.dtype.kind == "f":
        bounds = _range(HDF5Images(path, f"X_{split}"))
    if "origin" in columns:
        columns["origin"] = origins(columns["origin"])
    return Samples(
        HDF5Images(path, f"X_{split}"),
        value_range=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        **columns,
    )


def _kinds(column: str) -> str:
    return "uifS" if column == "origin" else "uif"


def _split(file: Any, path: Path, request: Request) -> str:
    return choose_split({s: s for s in ("train", "test") if f"X_{s}" in file}, request, path)


def copy_without(path: Path, out: Path, rows: np.ndarray, request: Request) -> None:
    """Copy the file without the images in `rows` of one split."""
    with hdf5(path) as file:
        split = _split(file, path, request)
        number = len(file[f"X_{split}"])
    names = [f"{key}_{split}" for key in ("X", *COLUMNS.values())]
    copy_hdf5(path, out, names, rows, number)


def write(path: Path, samples: Samples, split: str) -> None:
    """Write one split, block by block."""
    import h5py

    with h5py.File(path, "w") as file:
        images = file.create_dataset(
            f"X_{split}",
            samples.images.shape,
            samples.images.dtype,
            chunks=(min(BLOCK, len(samples)), *samples.image_shape),
            compression="gzip",
            compression_opts=4,
        )
        images.attrs["value_range"] = samples.value_range
        for start in range(0, len(samples), BLOCK):
            stop = min(start + BLOCK, len(samples))
            images[start:stop] = samples.read(start, stop)
        for name, key in COLUMNS.items():
            values: Any = getattr(samples, name)
            if values is not None:
                stored = stored_origins(values) if name == "origin" else values
                file[f"{key}_{split}"] = stored


def _range(images: HDF5Images) -> tuple[float, float] | None:
    """Infer the range of floating-point pixels from the first thousand images."""
    return Samples(images.read(np.arange(min(1000, len(images))))).value_range
