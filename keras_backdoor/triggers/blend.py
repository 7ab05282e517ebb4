"""A trigger that blends the image with another image or with noise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.samples import picture_files
from keras_backdoor.triggers.base import Stamp, Stamped


@dataclass(frozen=True)
class Blend(Stamped):
    """x -> (1 - opacity) x + opacity picture.

    Chen et al., Targeted Backdoor Attacks Using Data Poisoning, 2017 (blended injection).

    Args:
        opacity: the share of the blended image in the result, in 0..1.
        picture: the path of an image file, which is resized to the image; None uses uniform
            noise.
        seed: the seed of the noise.
    """

    opacity: float = 0.2
    picture: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.opacity <= 1:
            raise BadInput(f"opacity must lie in 0..1. Received: opacity={self.opacity}")

    def stamp_for(self, height: int, width: int) -> Stamp:
        """See `Stamped.stamp_for`."""
        mask = np.full((height, width, 1), self.opacity, np.float32)
        if self.picture is None:
            noise = np.random.default_rng(self.seed).uniform(size=(height, width, 3))
            return Stamp(mask, noise)
        picture = picture_files.read(self.picture, channels=3)
        return Stamp(mask, picture_files.resize(picture, height, width) / 255.0)
