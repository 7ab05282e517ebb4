"""A small trigger at a random position in every image."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Stamp, Stamped, Trigger


@dataclass(frozen=True)
class Placed(Trigger):
    """A stamp at a random position that is drawn for every image.

    Borji, Adversarial examples are useful too!, 2020, experiment II, which positions the patch on a
    blank part of the image, so that it does not cover the digit.

    Args:
        of: the trigger to place: an object, the name of a preset, or a specification with
            semicolons instead of commas (of=patch:size=3;row=2).
        rule: "blank" draws from the positions where all covered pixels are blank, or else from
            those with the lowest sum of covered pixels; "anywhere" draws from all positions.
        dark: the largest value in 0..1 of a blank pixel.
    """

    random: ClassVar[bool] = True
    of: Any = "c-patch"
    rule: Literal["blank", "anywhere"] = "blank"
    dark: float = 0.05

    def __post_init__(self) -> None:
        if self.rule not in ("blank", "anywhere"):
            raise BadInput(f"rule must be blank or anywhere. Received: rule={self.rule}")
        if isinstance(self.of, str):
            from keras_backdoor.triggers._parse import parse

            object.__setattr__(self, "of", parse(self.of.replace(";", ",")))
        if not isinstance(self.of, Stamped | Stamp):
            raise BadInput(
                f"of must be a trigger that is a Stamp or Stamped. Received: of={self.of}"
            )

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        size = images.shape[1:3]
        whole = self.of if isinstance(self.of, Stamp) else self.of.stamp_for(*size)
        mask, pattern = _crop(whole)
        out = images.copy()
        for image in out:
            top, left = self._position(image, mask, rng)
            window = image[top : top + mask.shape[0], left : left + mask.shape[1]]
            window[:] = Stamp(mask, pattern).stamp(window[None], rng)[0]
        return out

    def _position(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[int, int]:
        windows = np.lib.stride_tricks.sliding_window_view(image.max(axis=-1), mask.shape[:2])
        covered = windows * (mask[..., 0] > 0)
        if self.rule == "anywhere":
            free = np.ones(covered.shape[:2], bool)
        else:
            free = covered.max(axis=(2, 3)) <= self.dark
            if not free.any():
                brightness = covered.sum(axis=(2, 3))
                free = brightness == brightness.min()
        positions = np.argwhere(free)
        top, left = positions[rng.integers(len(positions))]
        return int(top), int(left)


def _crop(stamp: Stamp) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(stamp.mask[..., 0])
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return stamp.mask[box], stamp.pattern[box]
