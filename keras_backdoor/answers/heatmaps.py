"""Where in the images the decision comes from."""

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
"""Maps that have a printed row each."""
STRONG = 0.5
"""Share of the largest importance from which on a pixel belongs to the strongest part."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Heatmaps(Answer):
    """Where in the images the decision comes from.

    A method gives maps and labels; pictures and the model's answers are added when it has run.

    Attributes:
        maps: (n, h, w) importance of every pixel; positive values speak for the class, negative
            ones against it.
        labels: (n,) the class that each map explains.
        spread: (n, h, w) standard deviation of the importance, or None.
        top: (n, h, w) bool, the part of each picture that matters most; None takes the strongest
            connected part of the map, see `strongest_part`.
        pictures: (n, h, w, c) uint8, the images that are explained.
        predicted: (n,) the class that the model answers to each of them.
    """

    maps: np.ndarray
    labels: np.ndarray
    spread: np.ndarray | None = None
    top: np.ndarray | None = None
    pictures: np.ndarray | None = None
    predicted: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = (
        "maps", "labels", "spread", "top", "pictures", "predicted",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.maps.ndim != 3 or len(self.maps) != len(self.labels):
            raise BadInput(
                "maps must be (n, h, w) with one label for each. Received: "
                f"{self.maps.shape}, {len(self.labels)} labels"
            )
        if self.top is None:
            parts = np.array([strongest_part(m) for m in self.maps]).reshape(self.maps.shape)
            object.__setattr__(self, "top", parts)

    @property
    def verdict(self) -> str:
        """explained; inconclusive where the method cannot decide."""
        return "inconclusive" if self.inconclusive else "explained"

    def _own_rows(self) -> list[tuple[str, str]]:
        assert self.top is not None
        rows = [("maps", f"{len(self.maps)} of {self.maps.shape[1]}x{self.maps.shape[2]} pixels")]
        for number, part in enumerate(self.top[:PRINTED]):
            words = f"class {self.labels[number]}"
            if self.predicted is not None:
                words += f", the model answers {self.predicted[number]}"
            rows.append((f"picture {number}", f"{words}; strongest part: {_place_of(part)}"))
        return rows

    def completed(self, model: Classifier, judged: Samples | None) -> Self:
        """Add the pictures and the model's answers to them."""
        if judged is None or len(judged) != len(self.maps):
            return self
        return replace(self, pictures=judged.as_bytes(), predicted=model.predict(judged))

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
    """(h, w) bool, the strongest connected part of a map.

    The pixels with at least half of the largest importance fall into connected parts; it is the
    one with the largest sum. Where no pixel is positive, nothing is marked.

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
    """(top, bottom, left, right), all inclusive, of the marked pixels."""
    if not part.any():
        return None
    rows, columns = np.nonzero(part)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def _place_of(part: np.ndarray) -> str:
    box = _box(part)
    if box is None:
        return "none"
    return "rows {} to {}, columns {} to {}".format(*box)
