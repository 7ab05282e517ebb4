"""Neural Cleanse: detect target classes by their unusually small triggers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses.neural_cleanse.images import ANY, SearchSpace, draw_images
from keras_backdoor.defenses.neural_cleanse.scan import InversionScan
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule
from keras_backdoor.defenses.neural_cleanse.verdict import Run, judge
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

CAVEATS = (
    "It does not see backdoors that work on images of one class only, such as all those of the "
    "thesis's traffic-sign networks, nor triggers that cover much of the image, such as blends.",
    "Measured on networks that its rule was not chosen on (results/neural_cleanse_given.json): it "
    "flags exactly the target of both networks of the authors' script in 10 of 10 scans, nothing "
    "in 15 scans of 11 clean networks, but a class of one further clean network in 4 of 5 scans.",
)


@dataclass(frozen=True)
class NeuralCleanse(InversionScan):
    """Search for the smallest trigger of every class; flag classes whose trigger is an outlier.

    Wang et al., Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks,
    S&P 2019. The clean images need no labels. The searches of all classes run at the same time.

    Args:
        images: the number of clean images that each run draws for the search.

    Notes:
        The published code makes 31 updates on 1,000 images before it adjusts the weight of the
        norm. Here every update is a step of the schedule, and the success of the attack is measured
        on one batch. The learning rate, the patience and the starts differ too, see `Schedule`.
        `published.invert` implements the published schedule. `SourceSpecificScan` detects backdoors
        that work on images of one source class only.
    """

    images: int = 1000

    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"
    revision: ClassVar[int] = 3
    caveats: ClassVar[tuple[str, ...]] = CAVEATS
    quick: ClassVar[dict[str, Any]] = {
        "runs": 1,
        "images": 200,
        "schedule": Schedule(steps=80, starts=2),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 1:
            raise BadInput(f"images must be 1 or more. Received: images={self.images}")

    def space(self, model: Classifier, clean: Samples, seed: int) -> SearchSpace:
        """A search for every class, on images of all classes."""
        targets = np.arange(model.classes)
        images = draw_images(model, clean, self.images, seed)
        return SearchSpace(targets, np.full(len(targets), ANY), images)

    def images_used(self, clean: Samples) -> int:
        """See `InversionScan.images_used`."""
        return min(self.images, len(clean))

    def predicted_share(self, model: Classifier, clean: Samples) -> np.ndarray | None:
        """See `InversionScan.predicted_share`."""
        predicted = model.predict(clean.take(min(self.images, len(clean)), seed=self.seed))
        share: np.ndarray = np.bincount(predicted, minlength=model.classes) / len(predicted)
        return share

    def judge(
        self, runs: list[Run], classes: int, predicted_share: np.ndarray | None = None
    ) -> FlaggedClasses:
        """See `InversionScan.judge`.

        With the scaled rule, the answer is inconclusive if a norm is below `ratio` times the median
        but is not an outlier.
        """
        paper = self.rule == "paper"
        return judge(
            runs,
            classes,
            self.limits(),
            flag_all=paper,
            inconclusive_below=None if paper else self._share_of_median,
            predicted_share=predicted_share,
        )

    def _share_of_median(self, norms: np.ndarray, among: int) -> float:
        return self.ratio * float(np.median(norms[~np.isnan(norms)]))
