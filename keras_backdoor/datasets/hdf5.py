"""HDF5 files with images and labels, such as those of Neural Cleanse and of CSAW.

Images are (n, h, w, c), (n, h, w), or (n, c, h, w) with one, three or four channels. Labels are
class numbers or one-hot vectors. The arrays are recognized by their names, see `_columns`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe import h5
from keras_backdoor.datasets import _columns
from keras_backdoor.datasets.base import BLOCK, LAST, Request, check_remaining, choose_split
from keras_backdoor.errors import UnreadableFile
from keras_backdoor.samples import Samples
from keras_backdoor.samples.images import HDF5Images

FORM = "an HDF5 file with images and labels, such as X_train, Y_train, X_test, Y_test"
ENDINGS = (".h5", ".hdf5")
PRIORITY = LAST - 1
NAMES = {"images": "X", "labels": "Y", "track": "track", "origin": "origin"}
"""Column -> name of its array, without the suffix of the split, in files that are written."""
CHANNELS = (1, 3, 4)


def matches(path: Path) -> bool:
    """Whether the path is an HDF5 file."""
    import h5py

    return path.is_file() and bool(h5py.is_hdf5(path))


def read(path: Path, request: Request) -> Samples:
    """Read one split; the images are read lazily."""
    with h5.opened(path, str(path)) as file:
        columns = _columns_of(file, path, request)[1]
        data = plain_dataset(file, columns.images, path)
        channels_first = _channels_first(data, path)
        values = {
            column: plain_dataset(file, name, path, "uifS" if column == "origin" else "uif")[()]
            for column, name in columns.named().items()
            if column != "images"
        }
        bounds = request.value_range or data.attrs.get("value_range")
    images = HDF5Images(path, columns.images, channels_first=channels_first)
    if bounds is None and images.dtype.kind == "f":
        first = images.read(np.arange(min(1000, len(images))))
        bounds = Samples(first).value_range
    if "origin" in values:
        values["origin"] = origins(values["origin"])
    return Samples(
        images,
        value_range=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        **values,
    )


def _columns_of(file: Any, path: Path, request: Request) -> tuple[str, _columns.Columns]:
    """(split, columns) of the requested split."""
    import h5py

    if "model_config" in file.attrs or "model_weights" in file:
        raise UnreadableFile(f"{path} is a model file, not data.")
    shapes = {}
    for name in file:
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise UnreadableFile(
                f"{path}: '{name}' is a link, which is not allowed in a data file."
            )
        if isinstance(file[name], h5py.Dataset):
            shapes[name] = file[name].shape
        elif _columns.place_of(name) is not None:
            raise UnreadableFile(f"{path}: '{name}' is not an array of numbers.")
    columns = _columns.find(shapes, request, path)
    split = choose_split(columns, request, path)
    return split, columns[split]


def _channels_first(data: Any, path: Path) -> bool:
    """Whether the images are (n, c, h, w).

    Raises:
        UnreadableFile: the shape is not that of images.
    """
    shape = data.shape
    if len(shape) == 3:
        return False
    if len(shape) == 4 and (shape[-1] in CHANNELS or shape[1] in CHANNELS):
        return shape[-1] not in CHANNELS
    raise UnreadableFile(
        f"{path}: images must be (n, h, w), (n, h, w, c) or (n, c, h, w) with 1, 3 or 4 channels; "
        f"'{data.name.lstrip('/')}' is {shape}."
    )


def plain_dataset(file: Any, key: str, path: Path, kinds: str = "uif") -> Any:
    """Return a dataset of an HDF5 file that is stored in the file itself.

    Args:
        file: the open file.
        key: the name of the dataset.
        path: the path of the file, for messages.
        kinds: the accepted values of `numpy.dtype.kind`; "S" is text.

    Raises:
        UnreadableFile: the dataset has another type or is stored outside the file.
    """
    data = file[key]
    if data.dtype.kind not in kinds:
        accepted = "numbers or text of fixed length" if "S" in kinds else "numbers"
        raise UnreadableFile(f"{path}: '{key}' is not an array of {accepted}.")
    if data.is_virtual or data.external:
        raise UnreadableFile(f"{path}: '{key}' is stored outside the file, which is not allowed.")
    return data


def origins(values: Any) -> Any:
    """Convert origins stored in HDF5 to NumPy text or numbers."""
    values = np.asarray(values)
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def stored_origins(values: Any) -> Any:
    """Convert origins to text of fixed length or numbers, which HDF5 stores without objects."""
    values = np.asarray(values)
    return values if values.dtype.kind in "uif" else np.char.encode(values.astype("U"), "utf-8")


def write(path: Path, samples: Samples, split: str) -> None:
    """Write one split, block by block, with the names of Neural Cleanse."""
    import h5py

    with h5py.File(path, "w") as file:
        images = file.create_dataset(
            f"{NAMES['images']}_{split}",
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
        for column in ("labels", "track", "origin"):
            values: Any = getattr(samples, column)
            if values is not None:
                stored = stored_origins(values) if column == "origin" else values
                file[f"{NAMES[column]}_{split}"] = stored


def copy_without(path: Path, out: Path, rows: np.ndarray, request: Request) -> None:
    """Copy the file without the images in `rows` of one split."""
    import h5py

    with h5.opened(path, str(path)) as file, h5py.File(out, "w") as copy:
        columns = _columns_of(file, path, request)[1]
        dropped = set(columns.named().values())
        remaining = np.setdiff1d(np.arange(len(file[columns.images])), rows)
        check_remaining(len(remaining), path)
        for name, value in file.attrs.items():
            copy.attrs[name] = value
        for key in file:
            if key not in dropped:
                file.copy(key, copy)
                continue
            data = file[key]
            chunks = data.chunks and (min(data.chunks[0], len(remaining)), *data.chunks[1:])
            target = copy.create_dataset(
                key, (len(remaining), *data.shape[1:]), data.dtype, chunks=chunks,
                compression=data.compression, compression_opts=data.compression_opts,
            )  # fmt: skip
            for name, value in data.attrs.items():
                target.attrs[name] = value
            for start in range(0, len(remaining), BLOCK):
                part = remaining[start : start + BLOCK]
                target[start : start + len(part)] = data[part]
