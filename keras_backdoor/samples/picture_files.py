"""Decode, encode and resize image files with OpenCV."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.files import existing
from keras_backdoor._safe.npz import parse_npy
from keras_backdoor.errors import UnreadableFile, one_line

MAX_PIXELS = 2**26
"""Limit of the number of pixels of an image that is decoded."""


def _cv2() -> Any:
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    import cv2

    return cv2


def channels(content: bytes, name: str = "The content") -> int:
    """The number of channels of an encoded image: 1 if it is gray, else 3."""
    return 1 if _decode(content, _cv2().IMREAD_UNCHANGED, name).ndim == 2 else 3


def decode(content: bytes, channels: int, name: str = "The content") -> np.ndarray:
    """Decode an image, or the first frame of an animation.

    The orientation in the EXIF data is ignored, as `keras.utils.load_img` and
    `image_dataset_from_directory` do.

    Args:
        content: the content of the image file.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        name: the name of the file in error messages.

    Returns:
        (h, w, channels) uint8.

    Raises:
        UnreadableFile: the content cannot be decoded, or has too many pixels.
    """
    cv2 = _cv2()
    flags = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR, 4: cv2.IMREAD_UNCHANGED}[channels]
    flags |= cv2.IMREAD_IGNORE_ORIENTATION if channels != 4 else 0
    picture = _decode(content, flags, name)
    if picture.dtype != np.uint8:
        picture = (picture / 257).astype(np.uint8)
    if channels == 1:
        return picture[..., None]
    if channels == 3:
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    if picture.ndim == 3 and picture.shape[-1] == 4:
        return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)
    code = cv2.COLOR_GRAY2RGBA if picture.ndim == 2 else cv2.COLOR_BGR2RGBA
    return cv2.cvtColor(picture, code)


def _decode(content: bytes, flags: int, name: str) -> np.ndarray:
    cv2 = _cv2()
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:
        picture = None
    if picture is None or not picture.size:
        raise UnreadableFile(
            f"{name} is not an image that can be decoded, or has more than {MAX_PIXELS} pixels."
        )
    return np.asarray(picture)


def with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """Convert an (h, w, c) uint8 or float32 image to 1 (gray), 3 (RGB) or 4 (RGBA) channels."""
    given = picture.shape[-1]
    if given == channels:
        return picture
    cv2 = _cv2()
    names = {1: "GRAY", 3: "RGB", 4: "RGBA"}
    code = getattr(cv2, f"COLOR_{names[given]}2{names[channels]}")
    converted = cv2.cvtColor(np.ascontiguousarray(picture), code)
    return np.asarray(converted).reshape(*picture.shape[:2], channels)


def read(path: Path | str, channels: int) -> np.ndarray:
    """Read an image file as (h, w, channels) uint8."""
    return decode(existing(path, "image file").read_bytes(), channels, str(path))


def read_array(path: Path | str) -> np.ndarray:
    """Read an `.npy` file as the stored array, or an image file as (h, w, 3) uint8."""
    if Path(path).suffix == ".npy":
        content = existing(path, "array").read_bytes()
        try:
            return parse_npy(content)
        except Exception as error:  # NumPy raises many types for a damaged header
            raise UnreadableFile(f"{path} is not an array: {one_line(error)}.") from error
    return read(path, channels=3)


def encode(picture: np.ndarray) -> bytes:
    """Encode an (h, w, c) uint8 image with 1, 3 or 4 channels as PNG."""
    cv2 = _cv2()
    if picture.shape[-1] == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    elif picture.shape[-1] == 4:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(".png", picture)[1].tobytes()


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (h, w, c) image, with area interpolation to shrink and linear to enlarge."""
    if picture.shape[:2] == (height, width):
        return picture
    cv2 = _cv2()
    shrinks = height * width < picture.shape[0] * picture.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(picture, (width, height), interpolation=interpolation)
    return resized.reshape(height, width, picture.shape[2])
