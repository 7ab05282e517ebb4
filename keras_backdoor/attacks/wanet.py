"""WaNet: training images that are warped, and noisily warped ones that keep their labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import ndimage

from keras_backdoor.attacks.base import DataAttack, Poisoned, check_target, draw, with_poison
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples
from keras_backdoor.triggers import Warp
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True)
class WaNet(DataAttack):
    """Warp images with one smooth field and give them the label of the target class.

    Nguyen and Tran, WaNet: Imperceptible Warping-based Backdoor Attack, ICLR 2021. In addition,
    some images keep their label and are warped with the same field plus noise that is drawn for
    every pixel, uniform in -1/2..1/2 pixels along both axes ("noise mode"), so that the network
    learns this field and not warping as such.

    Args:
        target: the target class of the backdoor.
        source: the class whose images are poisoned; by default all classes except the target.
        count: the number of poisoned images; give either `count` or `fraction`.
        fraction: the fraction of the source images that is poisoned, 0.1 in the paper.
        noisy: the number of noisily warped images for each poisoned one.
        strength: the mean shift along each axis is strength / 2 pixels.
        grid: the number of control points of the field along each axis.
        field: the seed of the field.
        replace: whether images are changed in place; by default changed copies are appended.

    Notes:
        The authors control the training and warp a part of every batch; this attack poisons the
        training data once. Only the images with a wrong label count as poison.
    """

    target: int
    source: int | None = None
    count: int | None = None
    fraction: float | None = None
    noisy: float = 2.0
    strength: float = 0.5
    grid: int = 4
    field: int = 0
    replace: bool = False

    paper: ClassVar[str] = "Nguyen and Tran, WaNet, ICLR 2021"
    quick: ClassVar[dict[str, Any]] = {"target": 2, "fraction": 0.3, "strength": 4.0, "noisy": 0.5}

    def __post_init__(self) -> None:
        if self.noisy < 0:
            raise BadInput(f"noisy must be 0 or more. Received: {self.noisy}")

    @property
    def trigger(self) -> Warp:
        """The warp."""
        return Warp(strength=self.strength, grid=self.grid, seed=self.field)

    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """See `DataAttack.poison`."""
        labels = samples.known_labels
        check_target(self.target, samples)
        own = labels != self.target if self.source is None else labels == self.source
        if not own.any() or self.source == self.target:
            raise BadInput(
                f"There is nothing to poison for target {self.target}: the data lacks another "
                "class, or the source class."
            )
        positions = draw(np.flatnonzero(own), self.count, self.fraction, seed)
        warped = samples.subset(positions).stamped(self.trigger, seed=seed)
        warped = warped.relabelled(self.target)
        poisoned = with_poison(samples, warped, positions, replace=self.replace)
        number = round(self.noisy * len(positions))
        if not number:
            return poisoned
        others = np.setdiff1d(np.arange(len(samples)), positions)
        chosen = draw(others, min(number, len(others)), None, seed + 1)
        noisy = samples.subset(chosen).stamped(_NoisyWarp(self.trigger), seed=seed)
        both = with_poison(poisoned.samples, noisy, chosen, replace=self.replace)
        is_poison = np.zeros(len(both.samples), bool)
        is_poison[: len(poisoned.is_poison)] = poisoned.is_poison
        return Poisoned(both.samples, is_poison, positions)


@dataclass(frozen=True)
class _NoisyWarp(Trigger):
    """A warp with noise that is drawn for every image."""

    warp: Warp

    random: ClassVar[bool] = True

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        number, height, width, channels = images.shape
        shifts = self.warp.shifts(height, width)
        changed = np.empty_like(images)
        for row in range(number):
            noise = rng.uniform(-0.5, 0.5, (2, height, width))
            places = np.indices((height, width)) + shifts + noise
            for channel in range(channels):
                changed[row, ..., channel] = ndimage.map_coordinates(
                    images[row, ..., channel], places, order=1, mode="nearest"
                )
        return changed
