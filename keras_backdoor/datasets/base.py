"""Open, save and copy data files of all layouts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from keras_backdoor._internals import discovery
from keras_backdoor._safe.files import existing, writing
from keras_backdoor.errors import BadInput, UnreadableFile, one_line, warn
from keras_backdoor.samples import MEMORY_LIMIT, Samples

BLOCK = 256
"""Number of images that are copied at a time."""


TEXT_ORDER = "text"
"""The value of `class_names` that numbers folders in the order of their names as text."""


@dataclass(frozen=True)
class Request:
    """Options for reading a data file.

    Attributes:
        split: the split to read, such as "train" or "test"; the file must contain it.
        prefer: the split to read if `split` is None and the file contains it.
        size: (height, width) to which images are resized.
        channels: 1, 3 or 4, to which the channels of images are converted.
        fit: (height, width, channels) of decoded image files where `size` and `channels` are None,
            with None for what is free; ignored for arrays.
        value_range: (lowest, highest) value of floating-point pixels, if the file does not
            contain it.
        class_names: the names of the class folders in the order of the classes, or `TEXT_ORDER`.
        classes: the number of classes of the model, to which the labels have to fit, or None.
        keys: column ("images" or "labels") -> name of its array in the file.
    """

    split: str | None = None
    prefer: str | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: tuple[int | None, int | None, int | None] | None = None
    value_range: tuple[float, float] | None = None
    class_names: tuple[str, ...] | str | None = None
    classes: int | None = None
    keys: Mapping[str, str] = field(default_factory=dict)


def open(path: Path | str, **options: Any) -> Samples:
    """Open a file or folder as samples; the layout is recognized by the content.

    The layouts are the modules of `keras_backdoor.datasets`: npz, hdf5 and folder (or a zip archive
    of a folder). Data of at most 2 GiB after decoding is read into memory, and larger data stays on
    disk.

    Args:
        path: the path of the file or folder.
        **options: the fields of `Request`: split (default: the test data, or the only split),
            size, channels, value_range of floating-point pixels, class_names, classes and keys.

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
    samples: Samples = layout.read(path, request)
    if not getattr(layout, "PICTURES", False):
        samples = samples.converted(request.size, request.channels)
        samples = _from_zero(samples, request, path)
    return samples.in_memory() if _bytes(samples) <= MEMORY_LIMIT else samples


def _from_zero(samples: Samples, request: Request, path: Path) -> Samples:
    """Subtract 1 from labels that are numbered from 1 to the number of classes of the model."""
    labels = samples.labels
    if labels is None or request.classes is None or labels.max() != request.classes:
        return samples
    if labels.min() < 1:
        return samples
    warn(
        f"The labels of {path} lie in {labels.min()}..{labels.max()} and the model has "
        f"{request.classes} classes: they are read as 0..{request.classes - 1}, with 1 subtracted."
    )
    return replace(samples, labels=labels - 1)


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
    if request.split not in splits and request.split != "all":
        raise BadInput(f"{path} has no split '{request.split}', only: {', '.join(splits)}.")
    if request.split not in splits and len(splits) > 1:
        raise BadInput(f"{path} has several splits: choose one of {', '.join(splits)}.")
    return request.split if request.split in splits else next(iter(splits))


def _bytes(samples: Samples) -> int:
    size = samples.images.dtype.itemsize
    for length in samples.images.shape:
        size *= length
    return size
