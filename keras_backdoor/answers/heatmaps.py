"""Heatmaps: which pixels of an image the decision of a model depends on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.ndimage import label as connected
from scipy.ndimage import sum_labels as total

from keras_backdoor.answers.base import Answer
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

PRINTED = 8
"""The largest number of maps that get a row in the printed table."""
STRONG = 0.5
"""A pixel can belong to the strongest part from this share of the largest importance."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Heatmaps(Answer):
    """Which pixels of each image the decision of a model depends on.

    A method sets `maps` and `labels`; `completed` adds `pictures` and `predicted`.

    Attributes:
        maps: (n, h, w) importance of every pixel; positive values raise the score of the class,
            negative values lower it.
        labels: (n,) the class that each map explains.
        spread: (n, h, w) standard deviation of the importance, or None.
        prior: (n, h, w) importance that was expected before the model was asked, or None.
        segments: (n, h, w) numbers of the segments that the pixels of an image belong to, or None.
        top: (n, h, w) bool, the most important part of each image; None selects the strongest
            connected part of the map, see `strongest_part`.
        pictures: (n, h, w, c) uint8, the explained images, or None.
        predicted: (n,) the class that the model predicts for each image, or None.
    """

    maps: np.ndarray
    labels: np.ndarray
    spread: np.ndarray | None = None
    prior: np.ndarray | None = None
    segments: np.ndarray | None = None
    top: np.ndarray | None = None
    pictures: np.ndarray | None = None
    predicted: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = (
        "maps", "labels", "spread", "prior", "segments", "top", "pictures", "predicted",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.maps.ndim != 3 or len(self.maps) != len(self.labels):
            raise BadInput(
                "maps must have shape (n, h, w), with one label for each. Received: "
                f"{self.maps.shape}, {len(self.labels)} labels"
            )
        if not np.isfinite(self.maps).all() and not self.inconclusive:
            raise BadInput("maps must be finite, unless the answer says why it is inconclusive.")
        if self.top is None:
            parts = np.array([strongest_part(m) for m in self.maps]).reshape(self.maps.shape)
            object.__setattr__(self, "top", parts)

    @property
    def verdict(self) -> str:
        """Inconclusive if the method cannot decide, else explained."""
        return "inconclusive" if self.inconclusive else "explained"

    def _own_rows(self) -> list[tuple[str, str]]:
        assert self.top is not None
        rows = [("maps", f"{len(self.maps)} of {self.maps.shape[1]}x{self.maps.shape[2]} pixels")]
        for number, part in enumerate(self.top[:PRINTED]):
            text = f"class {self.labels[number]}"
            if self.predicted is not None:
                text += f", the model predicts {self.predicted[number]}"
            rows.append((f"picture {number}", f"{text}; strongest part: {_box_as_text(part)}"))
        return rows

    def completed(self, model: Classifier, samples: Samples | None) -> Self:
        """A copy with the explained images and the model's predictions for them."""
        if samples is None:
            return self
        if (len(samples), *samples.images.shape[1:3]) != self.maps.shape:
            raise TypeError(
                f"Maps of the shape {self.maps.shape} were given for images of the shape "
                f"{samples.images.shape}"
            )
        return replace(self, pictures=samples.as_bytes(), predicted=model.predict(samples))

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        assert self.top is not None
        edges = ("top", "bottom", "left", "right")
        boxes = [_box(part) for part in self.top]
        return {
            **super().facts(),
            "labels": self.labels,
            "predicted": self.predicted,
            "strongest": [box and dict(zip(edges, box, strict=True)) for box in boxes],
        }

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        return cls(**{**cls._common(facts, arrays), "top": arrays["top"].astype(bool)})


def strongest_part(importance: np.ndarray) -> np.ndarray:
    """The strongest connected part of a map.

    The pixels with at least half of the largest importance form connected parts; the strongest
    part is the one with the largest total importance.

    Args:
        importance: (h, w) importance of every pixel; NaN counts as 0.

    Returns:
        (h, w) bool mask of the part; all False if no pixel has a positive importance.

    >>> strongest_part(np.array([[0.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])).astype(int)
    array([[0, 1, 1],
           [0, 0, 0],
           [0, 0, 0]])
    """
    importance = np.nan_to_num(np.asarray(importance, float))
    if not importance.max() > 0:
        return np.zeros(importance.shape, bool)
    parts, number = connected(importance >= STRONG * importance.max())
    sums = total(importance, parts, np.arange(1, number + 1))
    strongest: np.ndarray = parts == 1 + int(np.argmax(sums))
    return strongest


def _box(part: np.ndarray) -> tuple[int, int, int, int] | None:
    """The bounding box (top, bottom, left, right) of a mask, inclusive; None if it is empty."""
    if not part.any():
        return None
    rows, columns = np.nonzero(part)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def _box_as_text(part: np.ndarray) -> str:
    box = _box(part)
    if box is None:
        return "none"
    return "rows {} to {}, columns {} to {}".format(*box)
