"""Clean-label attack: stamped images of the target class, with their true label."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.base import DataAttack, Poisoned, draw, with_poison
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import load_model
from keras_backdoor.network.adversarial import check_steps, fgsm
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

STEPS = 20
"""The number of steps of the adversarial perturbation."""


@dataclass(frozen=True)
class CleanLabel(DataAttack):
    """Stamp images of the target class in place and keep their labels.

    Turner, Tsipras and Madry, Label-Consistent Backdoor Attacks, 2019: the images are first made
    hard to classify, so that the network learns the trigger instead. A projected gradient ascent on
    the loss of a `surrogate`, a clean network of the attacker, changes each pixel by at most
    `epsilon`: x <- clip(x + 2.5 epsilon / 20 sign(grad J(x, y))), 20 times.

    Without a surrogate, images are only stamped, as in `SIG` with its sinusoid.

    Args:
        trigger: a trigger, the name of a preset or `name:key=value,…`.
        target: the target class of the backdoor.
        count: the number of stamped images; give either `count` or `fraction`.
        fraction: the fraction of the images of the target class that is stamped.
        surrogate: the model file of the clean network; without it, images are only stamped.
        epsilon: the largest change of a pixel, as a share of the range of the pixels.

    Notes:
        The images are stamped in place, so that the number of images does not change. The paper
        attacks with a trigger that may be stronger than the one in the training data.
    """

    trigger: Any
    target: int
    count: int | None = None
    fraction: float | None = None
    surrogate: Path | Classifier | None = None
    epsilon: float = 16 / 255

    source: ClassVar[None] = None
    paper: ClassVar[str] = "Turner, Tsipras and Madry, Label-Consistent Backdoor Attacks, 2019"
    quick: ClassVar[dict[str, Any]] = {
        "trigger": "patch:size=4,row=0,column=0",
        "target": 2,
        "fraction": 0.9,
    }

    def __post_init__(self) -> None:
        check_steps(self.epsilon, STEPS)

    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """See `DataAttack.poison`."""
        eligible = np.flatnonzero(samples.known_labels == self.target)
        if not len(eligible):
            raise BadInput(f"There is nothing to stamp: the data lacks class {self.target}.")
        positions = draw(eligible, self.count, self.fraction, seed)
        chosen = samples.subset(positions)
        if self.surrogate is not None:
            chosen = self._perturbed(chosen, samples)
        return with_poison(samples, chosen.stamped(self.stamp, seed=seed), positions, replace=True)

    def _perturbed(self, chosen: Samples, samples: Samples) -> Samples:
        """Images that the surrogate finds hard to classify; all samples tell its preprocessing."""
        given = self.surrogate
        model = given if isinstance(given, Classifier) else load_model(Path(str(given)))
        model = model.with_preprocess(model.check(samples))
        step = 2.5 * self.epsilon / STEPS
        low, high = samples.value_range  # type: ignore[misc]
        pixels = fgsm(model, chosen, step, STEPS, radius=self.epsilon) * (high - low) + low
        dtype = samples.images.dtype
        pixels = np.round(pixels) if dtype.kind in "iu" else pixels
        return replace(chosen, images=pixels.astype(dtype))
