"""A folder of class folders of pictures, or a zip of one."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from keras_backdoor import _pictures
from keras_backdoor._images import EncodedImages
from keras_backdoor.datasets.base import Request, choose_split
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.samples import Samples

FORM = "a folder, or a zip of one, with a folder of pictures for every class"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
SPLITS = {"train", "test", "valid", "validation"}
MAX_FILE = 64 * 2**20
"""Bytes of an encoded picture above which it is not read."""


def matches(path: Path) -> bool:
    """Whether there are pictures in class folders."""
    if path.is_dir():
        return any(p.suffix.lower() in SUFFIXES for p in path.rglob("*"))
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(n).suffix.lower() in SUFFIXES for n in archive.namelist())


def read(path: Path, request: Request) -> Samples:
    """The pictures of one split, decoded as they are read; classes in the order of their names."""
    names, content = _folder(path) if path.is_dir() else _archive(path)
    tree = [(name, PurePosixPath(name).parts) for name in names]
    splits = {parts[0] for _, parts in tree}
    while len(splits) == 1 and not splits <= SPLITS and min(len(p) for _, p in tree) > 2:
        tree = [(name, parts[1:]) for name, parts in tree]
        splits = {parts[0] for _, parts in tree}
    if splits <= SPLITS and min(len(p) for _, p in tree) > 2:
        chosen = choose_split(dict.fromkeys(sorted(splits)), request, path)
        tree = [(name, parts[1:]) for name, parts in tree if parts[0] == chosen]
    elif request.split not in (None, "all"):
        raise BadInput(f"{path} has no split '{request.split}': it has no folders train and test.")
    if min(len(parts) for _, parts in tree) < 2:
        raise UnreadableFile(f"{path} has pictures outside class folders, which have no label.")
    classes = sorted({parts[0] for _, parts in tree})
    labels = np.array([classes.index(parts[0]) for _, parts in tree])
    chosen_names = [name for name, _ in tree]
    decode, shape = _decoder(content, chosen_names, request, path)
    digest = lambda: hashlib.sha256(b"".join(map(content, chosen_names))).hexdigest()  # noqa: E731
    images = EncodedImages(chosen_names, decode, shape, digest)
    return Samples(images, labels, class_names=tuple(classes))


def write(path: Path, samples: Samples, split: str) -> None:
    """Write PNG files into a folder for every class."""
    names = samples.class_names or [str(c) for c in range(int(samples.known_labels.max()) + 1)]
    width = max(map(len, names))
    low, high = samples.value_range or (0.0, 255.0)
    for row, label in enumerate(samples.known_labels):
        name = names[label] if samples.class_names else names[label].zfill(width)
        folder = path / split / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (samples.read(row, row + 1)[0].astype(float) - low) / (high - low) * 255
        picture = np.round(pixels).astype(np.uint8)
        (folder / f"{row:06d}.png").write_bytes(_pictures.encode(picture))


def _folder(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    root = path.resolve()
    names = [
        p.relative_to(path).as_posix()
        for p in sorted(path.rglob("*"))
        if p.suffix.lower() in SUFFIXES and p.is_file() and p.resolve().is_relative_to(root)
    ]

    def content(name: str) -> bytes:
        file = path / name
        if file.stat().st_size > MAX_FILE:
            raise UnreadableFile(f"{file} is larger than 64 MiB.")
        return file.read_bytes()

    return names, content


def _archive(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    archive = zipfile.ZipFile(path)
    infos = [i for i in archive.infolist() if PurePosixPath(i.filename).suffix.lower() in SUFFIXES]
    for info in infos:
        parts = PurePosixPath(info.filename)
        if parts.is_absolute() or ".." in parts.parts:
            raise UnreadableFile(
                f"{path}: the member {info.filename!r} points outside the archive."
            )
        if info.file_size > MAX_FILE:
            raise UnreadableFile(f"{path}: the member {info.filename!r} is larger than 64 MiB.")
    return sorted(i.filename for i in infos), archive.read


def _decoder(
    content: Callable[[str], bytes], names: list[str], request: Request, path: Path
) -> tuple[Callable[[str], np.ndarray], tuple[int, int, int]]:
    first = _pictures.decode(content(names[0]), request.channels, f"{path}: {names[0]}")
    height, width = request.size or first.shape[:2]
    if not (0 < height <= 4096 and 0 < width <= 4096):
        raise BadInput(f"size must lie in 1..4096. Received: {height}x{width}")

    def decode(name: str) -> np.ndarray:
        picture = _pictures.decode(content(name), request.channels, f"{path}: {name}")
        if request.size is None and picture.shape[:2] != (height, width):
            raise BadInput(
                f"{path} has pictures of several sizes ({name} is {picture.shape[0]}x"
                f"{picture.shape[1]}): pass --size HxW (size=(height, width))."
            )
        return _pictures.resize(picture, height, width)

    return decode, (height, width, request.channels)
