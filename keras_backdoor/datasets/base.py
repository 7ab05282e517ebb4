"""Open a data file whatever its layout."""

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
"""Images that are copied at a time."""


@dataclass(frozen=True)
class Request:
    """What is asked of a file.

    Attributes:
        split: "train" or "test"; it must be there.
        prefer: the split to take where none is asked for and the file has it.
        size: (height, width) that pictures are fitted to.
        fit: the same, where no size is asked for; data with a size of its own keeps it.
        channels: 1 or 3, for pictures; None keeps what the first picture has.
        value_range: of floating pixels whose range the file does not say.
    """

    split: str | None = None
    prefer: str | None = None
    size: tuple[int, int] | None = None
    fit: tuple[int, int] | None = None
    channels: int | None = None
    value_range: tuple[float, float] | None = None


def open(path: Path | str, **options: Any) -> Samples:
    """Samples from a file or folder; the layout is recognised by its content.

    Layouts are the modules of `keras_backdoor.datasets`: npz, nc_hdf5, csaw_hdf5, folder (or a
    zip of it). A file under 2 GiB decoded is read once; a larger one stays on disk.

    Args:
        path: the file or folder.
        **options: split ("train" or "test"; left out, the only one there is, or the test data),
            size ((height, width) for pictures), channels (1 or 3, for pictures), value_range
            (of floating pixels), and the weaker prefer and fit; see `Request`.

    Raises:
        BadInput: nothing there, no known layout, no such split.
    """
    path, request = existing(path, "data"), Request(**options)
    try:
        for layout in layouts():
            if layout.matches(path):
                return _read(layout, path, request)
    except BadInput:
        raise
    except Exception as error:  # whatever zipfile and h5py make of a damaged file
        raise UnreadableFile(f"{path} is damaged: {one_line(error)}.") from error
    raise UnreadableFile(f"{path} has no layout that is known: {expectations()}.")


def _read(layout: ModuleType, path: Path, request: Request) -> Samples:
    if request.size is not None and not getattr(layout, "PICTURES", False):
        raise BadInput(f"{path} has images of a fixed size; a size is for pictures.")
    samples: Samples = layout.read(path, request)
    return samples.in_memory() if _bytes(samples) <= MEMORY_LIMIT else samples


def save(path: Path | str, samples: Samples, *, split: str = "train", force: bool = False) -> Path:
    """Write samples in the layout whose file ending the path has, as a folder without an ending."""
    path = Path(path)
    endings = {ending: layout for layout in layouts() for ending in layout.ENDINGS}
    if path.suffix not in endings:
        known = ", ".join(filter(None, endings))
        raise BadInput(f"Data is written as {known} or a folder. Received: {path}")
    with writing(path, force=force) as partial:
        endings[path.suffix].write(partial, samples, split)
    return path


def copy_without(
    path: Path | str, out: Path | str, rows: Any, *, force: bool = False, **options: Any
) -> Path:
    """Copy a data file without some of its images; everything else stays as it is.

    Args:
        path: the file or folder, which is not changed.
        out: the copy, in the same layout.
        rows: row numbers of the images that are left out, as `Samples.row_numbers` has them.
        force: replace what is there.
        **options: split and prefer, as for `open`.

    Raises:
        BadInput: the layout cannot be copied, or `out` has another ending.
    """
    path, out = existing(path, "data"), Path(out)
    layout = next((x for x in layouts() if x.matches(path)), None)
    if layout is None or not hasattr(layout, "copy_without"):
        raise BadInput(f"{path} has a layout that cannot be copied without some of its images.")
    if out.suffix != path.suffix:
        form = f"a name with the ending {path.suffix}" if path.suffix else "the name of a folder"
        raise BadInput(f"The copy has the layout of {path}: give {form}. Received: {out}")
    with writing(out, force=force) as partial:
        layout.copy_without(path, partial, np.asarray(rows, np.int64), Request(**options))
    return out


def layouts() -> list[ModuleType]:
    """The modules of all layouts, in the order in which they are asked; see `FIRST` and `LAST`."""
    found = [discovery.module("datasets", key) for key in discovery.keys("datasets")]
    return sorted(found, key=lambda layout: getattr(layout, "PRIORITY", FIRST))


FIRST, LAST = 0, 100
"""Priorities of layouts. One that recognizes its files by what is in them is asked first, which is
the default; one that takes almost anything (a folder of pictures) is asked last."""


def expectations() -> str:
    """What every layout looks like, in a sentence."""
    return "; ".join(
        f"{discovery.word(m.__name__.rpartition('.')[2])}: {m.FORM}" for m in layouts()
    )


def choose_split(found: dict[str, Any], request: Request, path: Path) -> str:
    """The split that is asked for among those that a file has."""
    if request.split is None:
        preferred = [name for name in (request.prefer, "test") if name in found]
        return preferred[0] if preferred else next(iter(found))
    if request.split not in found:
        raise BadInput(f"{path} has no split '{request.split}', only: {', '.join(found)}.")
    return request.split


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """An open HDF5 file, or one sentence where it is damaged."""
    with h5.opened(path, str(path)) as file:
        yield file


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its content."""
    import h5py

    return path.is_file() and bool(h5py.is_hdf5(path))


def plain_dataset(file: Any, key: str, path: Path, kinds: str = "uif") -> Any:
    """A data set of an HDF5 file that is stored in the file itself, as numbers.

    Args:
        file: the open file.
        key: name of the data set.
        path: of the file, for messages.
        kinds: NumPy's letters of the kinds of values that are accepted; "S" is text.
    """
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise UnreadableFile(f"{path}: '{key}' is a link to somewhere else; it is not followed.")
    data = file[key]
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in kinds:
        raise UnreadableFile(f"{path}: '{key}' is not an array of numbers.")
    if data.is_virtual or data.external:
        raise UnreadableFile(f"{path}: '{key}' is stored outside the file; it is not read.")
    return data


def origins(values: Any) -> Any:
    """Origins from HDF5 as NumPy text or numbers."""
    values = np.asarray(values)
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def stored_origins(values: Any) -> Any:
    """Origins as HDF5 stores them without objects: text of fixed length, or numbers."""
    values = np.asarray(values)
    return values if values.dtype.kind in "uif" else np.char.encode(values.astype("U"), "utf-8")


def copy_hdf5(path: Path, out: Path, dropped: Sequence[str], rows: np.ndarray, number: int) -> None:
    """Copy an HDF5 file; the arrays with one row for each image lose some rows.

    Args:
        path: the file.
        out: the copy.
        dropped: names of these arrays.
        rows: of the images that are left out.
        number: of images in the file.
    """
    import h5py

    kept = np.setdiff1d(np.arange(number), rows)
    with hdf5(path) as file, h5py.File(out, "w") as copy:
        for name, value in file.attrs.items():
            copy.attrs[name] = value
        for key in file:
            if key not in dropped:
                file.copy(key, copy)
                continue
            data = file[key]
            chunks = data.chunks and (min(data.chunks[0], len(kept)), *data.chunks[1:])
            target = copy.create_dataset(
                key, (len(kept), *data.shape[1:]), data.dtype, chunks=chunks,
                compression=data.compression, compression_opts=data.compression_opts,
            )  # fmt: skip
            for name, value in data.attrs.items():
                target.attrs[name] = value
            for start in range(0, len(kept), BLOCK):
                part = kept[start : start + BLOCK]
                target[start : start + len(part)] = data[part]


def _bytes(samples: Samples) -> int:
    size = samples.images.dtype.itemsize
    for length in samples.images.shape:
        size *= length
    return size
