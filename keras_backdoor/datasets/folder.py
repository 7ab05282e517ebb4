"""A folder with one subfolder of image files per class, a zip of it, or one image file."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from keras_backdoor._safe.archives import read_member
from keras_backdoor._safe.files import sha256
from keras_backdoor.datasets.base import LAST, Request, check_remaining, choose_split
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.samples import Samples, picture_files
from keras_backdoor.samples.images import EncodedImages

FORM = "a folder, or a zip of it, with one subfolder of image files per class; or one image file"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
SPLITS = {"train", "test", "valid", "validation"}
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

    If the names of all class folders are numbers, these numbers are the labels. Otherwise the
    labels follow the sorted order of the names. If every image lies in a subfolder of its class
    folder, the name of the subfolder is its origin. A single image has no label.
    """
    if path.is_file() and _is_picture(path.name):
        return _one_picture(path, request)
    names, content = _folder(path) if path.is_dir() else _archive(path)
    tree = _tree(path, names, request)
    if min(len(parts) for _, parts in tree) < 2:
        raise UnreadableFile(f"{path} has images outside class folders, which have no label.")
    folders = [parts[0] for _, parts in tree]
    classes = sorted(set(folders))
    if all(name.isdecimal() and len(name) < 7 for name in classes):
        labels = np.array([int(name) for name in folders])
        classes = [str(number) for number in range(labels.max() + 1)]
    else:
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[name] for name in folders])
    chosen = [name for name, _ in tree]
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
        class_names=tuple(classes),
    )


def _tree(path: Path, names: list[str], request: Request) -> Tree:
    return _split(path, [(name, PurePosixPath(name).parts) for name in names], request)


def copy_without(path: Path, out: Path, rows: np.ndarray, request: Request) -> None:
    """Copy the folder or zip archive without the images in `rows` of one split.

    A copy of a folder has all its other files, but no symbolic links. A copy of an archive has its
    other images only.
    """
    if path.is_file() and _is_picture(path.name):
        raise BadInput(f"{path} is a single image: the copy would be empty.")
    names, content = _folder(path) if path.is_dir() else _archive(path)
    chosen = [name for name, _ in _tree(path, names, request)]
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
        for name in names:
            if name not in left_out:
                archive.writestr(name, content(name))


def _one_picture(path: Path, request: Request) -> Samples:
    content = _reader(path.parent)
    decode, shape = _decoder(content, [path.name], request, path.parent)
    return Samples(EncodedImages([path.name], decode, shape, lambda: sha256(path)))


def _is_picture(name: str) -> bool:
    """Whether a path is an image file, and not a hidden file or metadata of macOS."""
    parts = PurePosixPath(name).parts
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _split(path: Path, tree: Tree, request: Request) -> Tree:
    """Select the images of a split, and remove the folders above the class folders."""

    def roots() -> dict[str, str]:
        return {parts[0].lower(): parts[0] for _, parts in tree}

    def deep() -> bool:
        return min(len(parts) for _, parts in tree) > 2

    while len(roots()) == 1 and not set(roots()) <= SPLITS and deep():
        tree = [(name, parts[1:]) for name, parts in tree]
    if set(roots()) <= SPLITS and deep():
        chosen = roots()[choose_split(dict.fromkeys(sorted(roots())), request, path)]
        return [(name, parts[1:]) for name, parts in tree if parts[0] == chosen]
    if request.split not in (None, "all"):
        raise BadInput(f"{path} has no split '{request.split}': it has no folders train and test.")
    return tree


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


def _folder(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    root = path.resolve()
    names = [
        p.relative_to(path).as_posix()
        for p in sorted(path.rglob("*"))
        if _is_picture(p.relative_to(path).as_posix())
        and p.is_file()
        and p.resolve().is_relative_to(root)
    ]

    return names, _reader(path)


def _reader(folder: Path) -> Callable[[str], bytes]:
    """Return a function that reads a file of a folder by its name."""

    def content(name: str) -> bytes:
        file = folder / name
        if file.stat().st_size > MAX_FILE:
            raise UnreadableFile(f"{file} is larger than 64 MiB.")
        return file.read_bytes()

    return content


def _archive(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
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
    return sorted(i.filename for i in infos), lambda name: read_member(archive, name)


def _decoder(
    content: Callable[[str], bytes], names: list[str], request: Request, path: Path
) -> tuple[Callable[[str], np.ndarray], tuple[int, int, int]]:
    channels = request.channels or picture_files.channels(content(names[0]), f"{path}: {names[0]}")
    first = picture_files.decode(content(names[0]), channels, f"{path}: {names[0]}")
    size = request.size or request.fit
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
