"""Open, save and copy data files of all layouts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from keras_backdoor._internals import discovery
from keras_backdoor._safe import h5
from keras_backdoor._safe.files import existing, writing
from keras_backdoor.errors import BadInput, UnreadableFile, one_line
from keras_backdoor.samples import MEMORY_LIMIT, Samples

BLOCK = 256
"""Number of images that are copied at a time."""


@dataclass(frozen=True)
class Request:
    """Options for reading a data file.

    Attributes:
        split: "train" or "test"; the file must contain it.
        prefer: the split to read if `split` is None and the file contains it.
        size: (height, width) to which image files are resized; an error for other layouts.
        fit: (height, width) to which image files are resized if `size` is None; ignored for other
            layouts.
        channels: 1 or 3, the channels of decoded image files; None uses those of the first image.
        value_range: (lowest, highest) value of floating-point pixels, if the file does not
            contain it.
    """

    split: str | None = None
    prefer: str | None = None
    size: tuple[int, int] | None = None
    fit: tuple[int, int] | None = None
    channels: int | None = None
    value_range: tuple[float, float] | None = None


def open(path: Path | str, **options: Any) -> Samples:
    """Open a file or folder as samples; the layout is recognized by the content.

    The layouts are the modules of `keras_backdoor.datasets`: npz, nc_hdf5, csaw_hdf5 and folder
    (or a zip archive of a folder). Data of at most 2 GiB after decoding is read into memory, and
    larger data stays on disk.

    Args:
        path: the path of the file or folder.
        **options: the fields of `Request`: split (default: the test data, or the only split),
            size and channels of image files, value_range of floating-point pixels, prefer and
            fit.

    Returns:
        The samples.

    Raises:
        BadInput: the path does not exist, its layout is unknown, or it has no such split.
    """
    path, request = existing(path, "data"), Request(**options)
    try:
        for layout in layouts():
            if layout.matches(path):
                return _read(layout, path, request)
    except BadInput:
        raise
    except Exception as error:  # zipfile and h5py raise many types
        raise UnreadableFile(f"{path} is damaged: {one_line(error)}.") from error
    raise UnreadableFile(
        f"{path} has an unknown layout; the supported layouts are {expectations()}."
    )


def _read(layout: ModuleType, path: Path, request: Request) -> Samples:
    if request.size is not None and not getattr(layout, "PICTURES", False):
        raise BadInput(f"{path} has images of a fixed size: leave out --size (size=None).")
    samples: Samples = layout.read(path, request)
    return samples.in_memory() if _bytes(samples) <= MEMORY_LIMIT else samples


def save(path: Path | str, samples: Samples, *, split: str = "train", force: bool = False) -> Path:
    """Write samples in the layout that the file ending selects; no ending selects a folder.

    Args:
        path: the file or folder to write.
        samples: the samples.
        split: the name of the split, "train" or "test".
        force: whether to replace an existing file or folder.

    Returns:
        The path.

    Raises:
        BadInput: the ending is unknown, or the path exists and `force` is not set.
    """
    path = Path(path)
    layout = _layout_of_ending(path)
    with writing(path, force=force) as partial:
        layout.write(partial, samples, split)
    return path


def _layout_of_ending(path: Path) -> ModuleType:
    endings = {ending: layout for layout in layouts() for ending in layout.ENDINGS}
    if path.suffix not in endings:
        known = ", ".join(filter(None, endings))
        raise BadInput(f"Data is written as {known} or a folder. Received: {path}")
    return endings[path.suffix]


def order_when_read(path: Path | str, samples: Samples) -> np.ndarray:
    """The order in which samples that are saved to `path` are read again.

    A folder is read class by class, and within a class by origin. Samples that are saved in this
    order keep it.

    Args:
        path: the path given to `save`.
        samples: the samples to save.

    Returns:
        (n,) the positions of the samples.
    """
    layout = _layout_of_ending(Path(path))
    if hasattr(layout, "order_when_read"):
        order: np.ndarray = layout.order_when_read(samples)
        return order
    return np.arange(len(samples))


def copy_without(
    path: Path | str, out: Path | str, rows: Any, *, force: bool = False, **options: Any
) -> Path:
    """Copy a data file without some of its images; all other content is unchanged.

    Args:
        path: the file or folder to copy.
        out: the copy, which has the same layout.
        rows: (m,) row numbers of the images to leave out; see `Samples.row_numbers`.
        force: whether to replace an existing file or folder.
        **options: split and prefer; see `Request`.

    Returns:
        The path of the copy.

    Raises:
        BadInput: the layout does not support copying, `out` has another ending or is the data
            itself, or no image would be left.
    """
    layout = check_copy(path, out)
    with writing(out, force=force) as partial:
        layout.copy_without(Path(path), partial, np.asarray(rows, np.int64), Request(**options))
    return Path(out)


def check_copy(path: Path | str, out: Path | str) -> ModuleType:
    """Check that `copy_without` can copy data to a path, and return the layout of the data.

    Raises:
        BadInput: see `copy_without`.
    """
    path, out = existing(path, "data"), Path(out)
    layout = next((x for x in layouts() if x.matches(path)), None)
    if layout is None or not hasattr(layout, "copy_without"):
        raise BadInput(f"{path} has a layout that does not support copying without some images.")
    if out.suffix != path.suffix:
        form = f"a name with the ending {path.suffix}" if path.suffix else "the name of a folder"
        raise BadInput(f"The copy has the layout of {path}: give {form}. Received: {out}")
    data, copy = path.resolve(), out.resolve()
    if copy == data or data in copy.parents or copy in data.parents:
        raise BadInput(
            f"The data itself is never changed: write the copy to another path than {out}."
        )
    return layout


def check_remaining(number: int, path: Path) -> None:
    """Raise `BadInput` if a copy would contain no image."""
    if number == 0:
        raise BadInput(f"Every image of {path} would be left out: there is nothing to copy.")


def layouts() -> list[ModuleType]:
    """The modules of all layouts, sorted by priority; see `FIRST` and `LAST`."""
    modules = [discovery.module("datasets", key) for key in discovery.keys("datasets")]
    return sorted(modules, key=lambda layout: getattr(layout, "PRIORITY", FIRST))


FIRST, LAST = 0, 100
"""Priorities of layouts. `FIRST` is the default. `LAST` is for a layout that matches almost any
content, such as a folder of image files."""


def expectations() -> str:
    """The names and descriptions of all layouts, as text for an error message."""
    return "; ".join(
        f"{discovery.word(m.__name__.rpartition('.')[2])}: {m.FORM}" for m in layouts()
    )


def choose_split(splits: dict[str, Any], request: Request, path: Path) -> str:
    """Choose one of the splits of a file.

    Args:
        splits: the splits of the file; only the keys are used.
        request: the options of the user.
        path: the path of the file, for messages.

    Raises:
        BadInput: the file does not contain the requested split.
    """
    if request.split is None:
        preferred = [name for name in (request.prefer, "test") if name in splits]
        return preferred[0] if preferred else next(iter(splits))
    if request.split not in splits:
        raise BadInput(f"{path} has no split '{request.split}', only: {', '.join(splits)}.")
    return request.split


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; raises `UnreadableFile` if it is damaged."""
    with h5.opened(path, str(path)) as file:
        yield file


def is_hdf5(path: Path) -> bool:
    """Whether the content of a file is HDF5."""
    import h5py

    return path.is_file() and bool(h5py.is_hdf5(path))


def plain_dataset(file: Any, key: str, path: Path, kinds: str = "uif") -> Any:
    """Return a dataset of an HDF5 file that is stored in the file itself.

    Args:
        file: the open file.
        key: the name of the dataset.
        path: the path of the file, for messages.
        kinds: the accepted values of `numpy.dtype.kind`; "S" is text.

    Raises:
        UnreadableFile: the dataset is a link, has another type, or is stored outside the file.
    """
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise UnreadableFile(f"{path}: '{key}' is a link, which is not allowed in a data file.")
    data = file[key]
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in kinds:
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


def copy_hdf5(path: Path, out: Path, dropped: Sequence[str], rows: np.ndarray, number: int) -> None:
    """Copy an HDF5 file without some rows of the datasets that have one row per image.

    Args:
        path: the file to copy.
        out: the copy.
        dropped: the names of the datasets that lose rows.
        rows: (m,) row numbers of the images to leave out.
        number: the number of images in the file.
    """
    import h5py

    remaining = np.setdiff1d(np.arange(number), rows)
    check_remaining(len(remaining), path)
    with hdf5(path) as file, h5py.File(out, "w") as copy:
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


def _bytes(samples: Samples) -> int:
    size = samples.images.dtype.itemsize
    for length in samples.images.shape:
        size *= length
    return size
