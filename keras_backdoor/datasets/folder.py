"""A folder with one subfolder of image files per class, a zip of it, or one image file."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from keras_backdoor._safe.archives import read_member
from keras_backdoor._safe.files import sha256
from keras_backdoor.datasets._columns import SPLITS
from keras_backdoor.datasets.base import (
    LAST,
    TEXT_ORDER,
    Request,
    check_remaining,
    choose_split,
)
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.samples import Samples, picture_files
from keras_backdoor.samples.images import EncodedImages

FORM = "a folder, or a zip of it, with one subfolder of image files per class; or one image file"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff",
            ".gif"}  # fmt: skip
PICTURES = True
ENDINGS = ("",)
PRIORITY = LAST
MAX_PICTURES = 2_000_000
Tree = list[tuple[str, tuple[str, ...]]]
MAX_FILE = 64 * 2**20
"""Limit of the size of an image file, in bytes."""


def matches(path: Path) -> bool:
    """Whether the path is, or contains, an image file."""
    if path.is_dir():
        return any(_is_picture(p.relative_to(path).as_posix()) for p in path.rglob("*"))
    if _is_picture(path.name):
        return path.is_file()
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(map(_is_picture, archive.namelist()))


def read(path: Path, request: Request) -> Samples:
    """Read the images of one split, which are decoded lazily.

    The classes are the class folders of all splits, also those without an image. Folders whose
    names are the numbers from 0 have these labels, and those from 1 have these numbers minus 1;
    other names are numbered in sorted order. `class_names` of the request sets another order.

    If every image lies in a subfolder of its class folder, the name of the subfolder is its origin.
    A single image has no label, nor have images in a folder without class folders.
    """
    if path.is_file() and _is_picture(path.name):
        return _one_picture(path, request)
    listing = _folder(path) if path.is_dir() else _archive(path)
    tree, names = _tree(path, listing, request)
    labels = class_names = None
    if names:
        if min(len(parts) for _, parts in tree) < 2:
            raise UnreadableFile(f"{path} has images outside class folders, which have no label.")
        numbers, class_names = _numbered(names, request, path)
        labels = np.array([numbers[parts[0]] for _, parts in tree])
    chosen = [name for name, _ in tree]
    content = listing.content
    decode, shape = _decoder(content, chosen, request, path)

    def digest() -> str:
        whole = hashlib.sha256()
        for name in chosen:
            whole.update(content(name))
        return whole.hexdigest()

    inner = ["/".join(parts[1:-1]) for _, parts in tree]
    return Samples(
        EncodedImages(chosen, decode, shape, digest),
        labels,
        origin=np.array(inner) if all(inner) else None,
        class_names=class_names,
    )


def _numbered(
    names: list[str], request: Request, path: Path
) -> tuple[dict[str, int], tuple[str, ...]]:
    """(name of a class folder -> class number, names by class number)."""
    wanted, classes = request.class_names, request.classes
    if wanted is not None and wanted != TEXT_ORDER:
        order = [wanted] if isinstance(wanted, str) else list(wanted)
        if unknown := set(names) - set(order):
            raise BadInput(
                f"{path} has the class folder '{min(unknown)}', which is not among the class names "
                f"{_shown(order)}: name the class of every folder."
            )
        if classes is not None and len(order) != classes:
            raise BadInput(f"There are {len(order)} class names, and the model has {classes}.")
        return {name: order.index(name) for name in names}, tuple(order)
    numeric = all(name.isdecimal() and len(name) < 7 for name in names)
    if numeric and wanted is None:
        numbers = {name: int(name) for name in names}
        if min(numbers.values()) == 1 and max(numbers.values()) == (classes or len(names)):
            numbers = {name: number - 1 for name, number in numbers.items()}
        number = max(max(numbers.values()) + 1, classes or 0)
        by_number = {n: name for name, n in numbers.items()}
        return numbers, tuple(by_number.get(n, str(n)) for n in range(number))
    if classes is not None and len(names) != classes:
        raise BadInput(
            f"{path} has {len(names)} class folders ({_shown(sorted(names))}), and the model has "
            f"{classes} classes: pass --class-names with a name for every class of the model, or "
            "--unlabelled (labels=None)."
        )
    order = sorted(names)
    return {name: number for number, name in enumerate(order)}, tuple(order)


def _shown(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _tree(path: Path, listing: "Listing", request: Request) -> tuple[Tree, list[str]]:
    """The images of one split below their class folders, and the class folders of all splits."""
    images = [(name, PurePosixPath(name).parts) for name in listing.pictures]
    folders = [PurePosixPath(name).parts for name in listing.folders]
    return _split(path, images, folders, request)


def copy_without(path: Path, out: Path, rows: np.ndarray, request: Request) -> None:
    """Copy the folder or zip archive without the images in `rows` of one split.

    A copy of a folder has all its other files, but no symbolic links. A copy of an archive has its
    other images only.
    """
    if path.is_file() and _is_picture(path.name):
        raise BadInput(f"{path} is a single image: the copy would be empty.")
    listing = _folder(path) if path.is_dir() else _archive(path)
    chosen = [name for name, _ in _tree(path, listing, request)[0]]
    left_out = {chosen[row] for row in rows}
    check_remaining(len(chosen) - len(left_out), path)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and not file.is_symlink() and name not in left_out:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, out / name)
        return
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in listing.pictures:
            if name not in left_out:
                archive.writestr(name, listing.content(name))


def _one_picture(path: Path, request: Request) -> Samples:
    content = _reader(path.parent)
    decode, shape = _decoder(content, [path.name], request, path.parent)
    return Samples(EncodedImages([path.name], decode, shape, lambda: sha256(path)))


def _is_picture(name: str) -> bool:
    """Whether a path is an image file, and not a hidden file or metadata of macOS."""
    return not _is_hidden(name) and PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)


def _split(
    path: Path, tree: Tree, folders: list[tuple[str, ...]], request: Request
) -> tuple[Tree, list[str]]:
    """Select the images of a split, and remove the folders above the class folders.

    Returns:
        (tree, names): the images of the split, and the names of the class folders of all splits.
    """

    def roots() -> list[str]:
        found = {parts[0] for _, parts in tree if len(parts) > 1}
        return sorted(found | {parts[0] for parts in folders if parts})

    def deep() -> bool:
        return min(len(parts) for _, parts in tree) > 2

    while len(roots()) == 1 and roots()[0].lower() not in SPLITS and deep():
        tree = [(name, parts[1:]) for name, parts in tree]
        folders = [parts[1:] for parts in folders if len(parts) > 1]
    splits = [root for root in roots() if root.lower() in SPLITS]
    inside = {parts[0] for _, parts in tree if len(parts) > 2} & set(splits)
    if inside or (splits and len(splits) > 1 and len(splits) == len(roots())):
        if others := [root for root in roots() if root not in splits]:
            raise UnreadableFile(
                f"{path} has the folders of splits {', '.join(splits)} and others beside them "
                f"({_shown(others)}): move those away, or give the folder of one split."
            )
        known = _known_splits(splits)
        chosen = known[choose_split(known, _with_usual_names(request, known), path)]
        names = {parts[1] for _, parts in tree if parts[0] in splits and len(parts) > 2}
        names |= {parts[1] for parts in folders if len(parts) > 1 and parts[0] in splits}
        loose = [name for name, parts in tree if parts[0] == chosen and len(parts) < 3]
        if loose:
            raise UnreadableFile(
                f"{path} has images outside class folders in the split '{chosen}', such as "
                f"{loose[0]}: they have no label, move them away or into the folder of a class."
            )
        return [(name, parts[1:]) for name, parts in tree if parts[0] == chosen], sorted(names)
    if request.split not in (None, "all"):
        raise BadInput(f"{path} has no split '{request.split}': it has no folders train and test.")
    return tree, roots()


def _known_splits(splits: list[str]) -> dict[str, str]:
    """Usual name of a split -> its folder; the name of the folder if two have the same usual name.

    >>> _known_splits(["Testing", "Training", "val"])
    {'test': 'Testing', 'train': 'Training', 'validation': 'val'}
    >>> _known_splits(["eval", "test"])
    {'eval': 'eval', 'test': 'test'}
    """
    usual = [SPLITS[name.lower()] for name in splits]
    return {
        word if usual.count(word) == 1 else name.lower(): name
        for word, name in zip(usual, splits, strict=True)
    }


def _with_usual_names(request: Request, known: dict[str, str]) -> Request:
    """The request with the usual name of its split, so that both names are accepted."""
    split = (request.split or "").lower()
    if request.split is None or split in known:
        return replace(request, split=request.split and split)
    return replace(request, split=SPLITS.get(split, request.split))


def order_when_read(samples: Samples) -> np.ndarray:
    """See `keras_backdoor.datasets.order_when_read`: by class, by origin, then as given."""
    folders = _folders(samples)
    return np.array(sorted(range(len(samples)), key=folders.__getitem__))


def write(path: Path, samples: Samples, split: str) -> None:
    """Write PNG files into one folder per class and, if there are origins, per origin."""
    low, high = samples.value_range or (0.0, 255.0)
    for index, parts in enumerate(_folders(samples)):
        folder = path.joinpath(split, *parts)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (samples.read(index, index + 1)[0].astype(float) - low) / (high - low) * 255
        picture = np.round(pixels).astype(np.uint8)
        (folder / f"{index:06d}.png").write_bytes(picture_files.encode(picture))


def _folders(samples: Samples) -> list[tuple[str, ...]]:
    """The names of the folders of each image: its class and, if there is one, its origin."""
    names = samples.class_names or [str(c) for c in range(int(samples.known_labels.max()) + 1)]
    width = 0 if samples.class_names else max(map(len, names))
    classes: list[tuple[str, ...]] = [
        (names[label].zfill(width),) for label in samples.known_labels
    ]
    if samples.origin is None:
        return classes
    origins = [plain_name(str(origin)) for origin in samples.origin]
    return [(*name, origin) for name, origin in zip(classes, origins, strict=True)]


def plain_name(text: str) -> str:
    """Convert an origin to a valid name of a folder."""
    return "".join(c if c.isalnum() or c in "-_. " else "_" for c in text).strip(". ") or "_"


@dataclass(frozen=True)
class Listing:
    """The content of a folder or of an archive.

    Attributes:
        pictures: the sorted names of the image files.
        folders: the names of the folders, also of empty ones.
        content: a function that reads a file by its name.
    """

    pictures: list[str]
    folders: list[str]
    content: Callable[[str], bytes]


def _folder(path: Path) -> Listing:
    root = path.resolve()
    pictures, folders = [], []
    for found in sorted(path.rglob("*")):
        name = found.relative_to(path).as_posix()
        if found.is_dir() and not _is_hidden(name):
            folders.append(name)
        elif _is_picture(name) and found.is_file() and found.resolve().is_relative_to(root):
            pictures.append(name)
    return Listing(pictures, folders, _reader(path))


def _reader(folder: Path) -> Callable[[str], bytes]:
    """Return a function that reads a file of a folder by its name."""

    def content(name: str) -> bytes:
        file = folder / name
        if file.stat().st_size > MAX_FILE:
            raise UnreadableFile(f"{file} is larger than 64 MiB.")
        return file.read_bytes()

    return content


def _archive(path: Path) -> Listing:
    archive = zipfile.ZipFile(path)
    infos = [i for i in archive.infolist() if _is_picture(i.filename)]
    if len(infos) > MAX_PICTURES:
        raise UnreadableFile(f"{path} has more than {MAX_PICTURES} images.")
    for info in infos:
        parts = PurePosixPath(info.filename)
        if parts.is_absolute() or ".." in parts.parts:
            raise UnreadableFile(
                f"{path}: the member {info.filename!r} points outside the archive."
            )
        if info.file_size > MAX_FILE:
            raise UnreadableFile(f"{path}: the member {info.filename!r} is larger than 64 MiB.")
    folders = [
        i.filename.rstrip("/")
        for i in archive.infolist()
        if i.is_dir() and not _is_hidden(i.filename)
    ]
    pictures = sorted(i.filename for i in infos)
    return Listing(pictures, folders, lambda name: read_member(archive, name))


def _decoder(
    content: Callable[[str], bytes], names: list[str], request: Request, path: Path
) -> tuple[Callable[[str], np.ndarray], tuple[int, int, int]]:
    fit = request.fit or (None, None, None)
    channels = request.channels or fit[2]
    channels = channels or picture_files.channels(content(names[0]), f"{path}: {names[0]}")
    first = picture_files.decode(content(names[0]), channels, f"{path}: {names[0]}")
    size = request.size
    if size is None and fit[0] and fit[1]:
        size = fit[0], fit[1]
    height, width = size or first.shape[:2]
    if not (0 < height <= 4096 and 0 < width <= 4096):
        raise BadInput(f"size must lie in 1..4096. Received: {height}x{width}")

    def decode(name: str) -> np.ndarray:
        picture = picture_files.decode(content(name), channels, f"{path}: {name}")
        if size is None and picture.shape[:2] != (height, width):
            raise BadInput(
                f"{path} has images of different sizes ({name} is {picture.shape[0]}x"
                f"{picture.shape[1]}): pass --size HxW (size=(height, width))."
            )
        return picture_files.resize(picture, height, width)

    return decode, (height, width, channels)
