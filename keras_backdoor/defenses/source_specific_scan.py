"""Source-specific scan: search every pair of source and target class for a small trigger."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses.neural_cleanse.images import SearchSpace, images_by_class, scaled
from keras_backdoor.defenses.neural_cleanse.scan import InversionScan
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule
from keras_backdoor.defenses.neural_cleanse.verdict import Run, judge
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

MAX_CLASSES = 100
"""The largest number of classes, which limits a scan to 10,000 pairs."""


@dataclass(frozen=True)
class SourceSpecificScan(InversionScan):
    """Search for the smallest trigger of every pair of source and target class.

    Wang et al., Neural Cleanse, S&P 2019, search for triggers that work on images of all classes,
    which does not detect a backdoor that works on images of one source class only. This scan
    searches for triggers that work on the images of one class. Images without labels are assigned
    to the class that the model predicts.

    With more than 100 pairs, some pairs without a backdoor have triggers as small as planted ones.
    The answer then lists suspects but is inconclusive.

    Args:
        images_per_source: the largest number of clean images of each source class.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(batch_size=8))
    images_per_source: int = 32

    paper: ClassVar[str] = "none; after Wang et al., Neural Cleanse, S&P 2019"
    quick: ClassVar[dict[str, Any]] = {
        "runs": 1,
        "images_per_source": 16,
        "schedule": Schedule(batch_size=8, steps=80, starts=2),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images_per_source < 1:
            raise BadInput(
                "images_per_source must be 1 or more. "
                f"Received: images_per_source={self.images_per_source}"
            )

    def space(self, model: Classifier, clean: Samples, seed: int) -> SearchSpace:
        """Every ordered pair of different classes whose source class has a clean image."""
        sources, targets = all_pairs(model.classes)
        positions, first, sizes = images_by_class(model, clean, self.images_per_source, seed)
        has_images = sizes[sources] > 0
        images = scaled(model, clean.subset(positions))
        return SearchSpace(targets[has_images], sources[has_images], images, first, sizes)

    def judge(
        self, runs: list[Run], classes: int, predicted_share: np.ndarray | None = None
    ) -> FlaggedClasses:
        """See `InversionScan.judge`."""
        return judge(runs, classes, self.limits(), flag_all=self.rule == "paper")


def all_pairs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The ordered pairs of different classes.

    Args:
        classes: the number of classes, at most 100.

    Returns:
        (sources (s,), targets (s,)): the source and the target class of each pair.

    Raises:
        BadInput: there are too many classes.

    >>> [a.tolist() for a in all_pairs(3)]
    [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    """
    if classes > MAX_CLASSES:
        raise BadInput(f"A scan of pairs takes up to {MAX_CLASSES} classes. Received: {classes}")
    grid = np.indices((classes, classes)).reshape(2, -1)
    sources, targets = grid[:, grid[0] != grid[1]]
    return sources, targets
