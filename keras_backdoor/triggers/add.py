"""A trigger that adds a faint image, for example one of the target class."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.samples import picture_files
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True, eq=False)
class Add(Trigger):
    """x -> clip(x + weight z), where z is drawn at random from given images for every x.

    Borji, Adversarial examples are useful too!, 2020, experiment III, which adds 0.1 times a
    random image of the target class.

    Args:
        images: the images to add: an array (m, h, w, c) in 0..1 or uint8, `Samples`, or the path
            of an `.npy` or image file.
        weight: the factor of the added image.
    """

    random: ClassVar[bool] = True
    images: Any = None
    weight: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _unit_images(self.images))

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        if images.shape[1:] != self.images.shape[1:]:
            raise BadInput(
                f"The images to add have the shape {self.images.shape[1:]}. "
                f"Received: images of shape {images.shape[1:]}"
            )
        return images + self.weight * self.images[rng.integers(len(self.images), size=len(images))]

    def __repr__(self) -> str:
        mean = float(self.images.mean())
        return f"Add(images={self.images.shape}, mean={mean:.6g}, weight={self.weight})"


def _unit_images(images: Any) -> np.ndarray:
    if images is None:
        raise BadInput("The trigger 'add' needs images=: an array, Samples, or the path of a file.")
    if hasattr(images, "read") and hasattr(images, "value_range"):
        low, high = images.value_range
        return ((images.read() - low) / (high - low)).astype(np.float32)
    if not isinstance(images, np.ndarray):
        images = picture_files.read_array(images)
    images = images if images.ndim == 4 else images[None]
    integer = np.issubdtype(images.dtype, np.integer)
    return images.astype(np.float32) / np.float32(255.0 if integer else 1.0)
