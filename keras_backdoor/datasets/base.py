"""Open a data file whatever its layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from keras_backdoor._internals import discovery
from keras_backdoor._safe import h5
from keras_backdoor._safe.files import existing
from keras_backdoor.errors import BadInput, UnreadableFile, one_line
from keras_backdoor.samples import MEMORY_LIMIT, Samples


@dataclass(frozen=True)
class Request:
    """What is asked of a file.

    Attributes:
        split: "train" or "test"; it must be there.
        prefer: the split to take where none is asked for and the file has it.
        size: (height, width) that pictures are fitted to.
        fit: the same, where no size is asked for; data with a size of its own keeps it.
        channels: 1 or 3, for pictures; None keeps what the first picture has.
        value_range: of floating pixels whose range the file does not tell.
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
    """Write samples in the layout that the suffix names: .npz, .h5 (`X_train`…), or a folder."""
    from keras_backdoor._safe.files import writing

    path = Path(path)
    key = {".npz": "npz", ".h5": "nc_hdf5", ".hdf5": "nc_hdf5", "": "folder"}.get(path.suffix)
    if key is None:
        raise BadInput(f"Data is written as .npz, .h5 or a folder. Received: {path}")
    with writing(path, force=force) as partial:
        discovery.module("datasets", key).write(partial, samples, split)
    return path


def layouts() -> Iterator[ModuleType]:
    """The modules of all layouts."""
    for key in discovery.keys("datasets"):
        yield discovery.module("datasets", key)


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


def plain_dataset(file: Any, key: str, path: Path) -> Any:
    """A data set of an HDF5 file that is stored in the file itself, as numbers."""
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise UnreadableFile(f"{path}: '{key}' is a link to somewhere else; it is not followed.")
    data = file[key]
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "uif":
        raise UnreadableFile(f"{path}: '{key}' is not an array of numbers.")
    if data.is_virtual or data.external:
        raise UnreadableFile(f"{path}: '{key}' is stored outside the file; it is not read.")
    return data


def _bytes(samples: Samples) -> int:
    size = samples.images.dtype.itemsize
    for length in samples.images.shape:
        size *= length
    return size
