"""Convert arrays and `tf.data` datasets to images and labels of a common form."""

from typing import Any

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.samples.images import ArrayImages, Images

MAX_DATASET = 2 * 2**30
"""Limit of the size of a `tf.data.Dataset` that is read into memory, in bytes."""


def as_images(images: Any) -> Images:
    """Convert an array to `Images`.

    Args:
        images: (n, h, w) or (n, h, w, c), uint8 or floating-point; or `Images`.

    Raises:
        BadInput: the shape, the dtype or the values are not supported.
    """
    if isinstance(images, Images):
        if min(images.shape[1:]) < 1 or images.shape[-1] not in (1, 3, 4):
            raise BadInput(f"images must have 1, 3 or 4 channels. Received: {images.shape}")
        return images
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        raise BadInput(
            "images must be (n, height, width) or (n, height, width, 1, 3 or 4 channels). "
            f"Received: shape={array.shape}"
        )
    if array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating):
        if array.dtype not in (np.uint8, np.float32):
            array = array.astype(np.float32)
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise BadInput("images must be finite: the array has NaN or infinite pixels.")
        return ArrayImages(array)
    if np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0:
        if array.max() <= 255:
            return ArrayImages(array.astype(np.uint8))
        raise BadInput(f"Integer pixels must lie in 0..255. Received: maximum={array.max()}")
    raise BadInput(f"images must be uint8 or floating-point. Received: dtype={array.dtype}")


def stored_range(images: Images) -> tuple[float, float]:
    """Infer the range of stored pixels from their dtype, or else from their values.

    Returns:
        The lowest and highest value: (0, 255), (0, 1) or (-1, 1).

    Raises:
        BadInput: the range cannot be inferred.
    """
    if images.dtype == np.uint8:
        return 0.0, 255.0
    if not isinstance(images, ArrayImages):
        raise BadInput("Floating-point images on disk need value_range=(lowest, highest).")
    low, high = float(images.array.min()), float(images.array.max())
    for bounds in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if bounds[0] <= low and high <= bounds[1]:
            return bounds
    raise BadInput(
        "The range of floating-point images is not 0..1, -1..1 or 0..255: pass --value-range A:B "
        "(value_range=(a, b)). "
        f"Received: values from {low:g} to {high:g}"
    )


def check_range(array: np.ndarray, value_range: tuple[float, float]) -> None:
    """Raise `BadInput` if pixels lie outside their range by more than rounding."""
    low, high = float(array.min()), float(array.max())
    slack = 1e-3 * (value_range[1] - value_range[0])
    if low < value_range[0] - slack or high > value_range[1] + slack:
        raise BadInput(
            f"The pixels must lie in {value_range[0]:g}..{value_range[1]:g}, the range given as "
            f"--value-range A:B (value_range=(a, b)). Received: values from {low:g} to {high:g}"
        )


def as_labels(labels: Any) -> np.ndarray | None:
    """Convert class numbers or one-hot vectors to (n,) int64 class numbers."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.dtype.kind in "US" and labels.size and np.char.isdecimal(labels.astype("U")).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biuf":
        raise BadInput(f"labels must be numbers. Received: dtype={labels.dtype}")
    if labels.ndim == 2 and labels.shape[1] == 0:
        raise BadInput(f"labels must not be empty. Received: shape={labels.shape}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or not np.all(labels == np.asarray(labels).astype(np.int64)):
        raise BadInput(f"labels must be (n,) class numbers or one-hot. Received: {labels.shape}")
    if len(labels) and labels.min() < 0:
        raise BadInput(f"labels must be 0 or more. Received: minimum={labels.min()}")
    return labels.astype(np.int64)


def collect(dataset: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a `tf.data.Dataset` of up to `MAX_DATASET` bytes as (images, labels or None)."""
    spec = dataset.element_spec
    image_spec = spec[0] if isinstance(spec, tuple) else spec
    images, labels, used = [], [], 0
    for element in dataset if image_spec.shape.rank == 4 else dataset.batch(256):
        parts = element if isinstance(element, tuple) else (element,)
        images.append(np.asarray(parts[0]))
        used += images[-1].nbytes
        if used > MAX_DATASET:
            raise BadInput(
                "The tf.data.Dataset is larger than 2 GiB: save it as HDF5 and open that file."
            )
        if len(parts) > 1:
            labels.append(np.asarray(parts[1]))
    if not images:
        raise BadInput("The tf.data.Dataset is empty.")
    return np.concatenate(images), np.concatenate(labels) if labels else None


def track_mask(
    labels: np.ndarray, track: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Select about `share` of the recordings of every class.

    Args:
        labels: (n,) class numbers.
        track: (n,) number of the recording of each image, within its class.
        share: the share of the recordings, between 0 and 1.
        rng: the random generator.

    Returns:
        (n,) bool; all images of a recording have the same value.
    """
    selected = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        tracks = np.unique(track[labels == label])
        number = min(max(1, round(share * len(tracks))), len(tracks) - 1)
        chosen = rng.choice(tracks, number, replace=False)
        selected |= (labels == label) & np.isin(track, chosen)
    return selected
