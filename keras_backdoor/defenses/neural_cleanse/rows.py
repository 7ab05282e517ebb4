"""What a search for triggers goes through: a row is a target class and the images it is to serve.

Either every class over images of all classes, or every pair of source and target class. A backdoor
that serves one source class only hides from the first; the second sees it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.defenses.neural_cleanse.search import Draw
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

MAX_CLASSES = 100
"""More would make more than 10,000 pairs."""
ANY = -1
"""The source of a row that sees images of all classes."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a search and the images that they draw from.

    Attributes:
        targets, sources: (r,) classes; the source is ANY for images of all classes.
        images: (n, h, w, c) float32 clean images in the model's range.
        first, sizes: (k,) where the images of each class begin and how many there are, or None
            where all rows see the same images.
    """

    targets: np.ndarray
    sources: np.ndarray
    images: np.ndarray
    first: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def seen(self, row: int) -> np.ndarray:
        """(m,) numbers of the images that a row is searched on."""
        if self.first is None or self.sizes is None:
            return np.arange(len(self.images))
        source = self.sources[row]
        return np.arange(self.first[source], self.first[source] + self.sizes[source])

    def draw(self, batch_size: int, chosen: np.ndarray | None = None) -> Draw | None:
        """Draws images of each chosen row's source class, with replacement; None: all the same."""
        if self.first is None or self.sizes is None:
            return None
        sources = self.sources if chosen is None else self.sources[chosen]
        first, sizes = self.first[sources][:, None], self.sizes[sources][:, None]

        def drawn(rng: np.random.Generator, step: int) -> np.ndarray:
            numbers = first + rng.integers(0, sizes, (len(sources), batch_size))
            return numbers.astype(np.int32)

        return drawn


def every_class(model: Classifier, clean: Samples, images: int, seed: int) -> Rows:
    """A row for each class, over up to `images` clean images."""
    targets = np.arange(model.classes)
    return Rows(targets, np.full(len(targets), ANY), pool(model, clean, images, seed))


def every_pair(model: Classifier, clean: Samples, per_source: int, seed: int) -> Rows:
    """A row for each ordered pair of classes, over up to `per_source` images of its source.

    A source class without an image has no row.

    Raises:
        BadInput: more than 100 classes.
    """
    sources, targets = all_pairs(model.classes)
    numbers, first, sizes = by_class(model, clean, per_source, seed)
    seen = sizes[sources] > 0
    sources, targets = sources[seen], targets[seen]
    return Rows(targets, sources, scaled(model, clean.rows(numbers)), first, sizes)


def all_pairs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(sources, targets) of all ordered pairs of different classes.

    >>> [a.tolist() for a in all_pairs(3)]
    [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    """
    if classes > MAX_CLASSES:
        raise BadInput(f"A scan of pairs takes up to {MAX_CLASSES} classes. Received: {classes}")
    grid = np.indices((classes, classes)).reshape(2, -1)
    sources, targets = grid[:, grid[0] != grid[1]]
    return sources, targets


def by_class(
    model: Classifier, clean: Samples, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to `number` clean images of each class, class after class.

    Args:
        model: gives the classes of images without labels.
        clean: the images.
        number: most images of a class.
        seed: of the choice.

    Returns:
        (numbers (n,), first (k,), size (k,)): the images, where each class begins among them and
        how many it has.
    """
    labels = labels_of(model, clean)
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(labels == c))[:number] for c in range(model.classes)]
    sizes = np.array([len(r) for r in rows])
    return np.concatenate(rows), np.cumsum(sizes) - sizes, sizes


def labels_of(model: Classifier, samples: Samples) -> np.ndarray:
    """The labels; of images without labels, what the model answers."""
    return model.predict(samples) if samples.labels is None else samples.labels


def pool(model: Classifier, clean: Samples, number: int, seed: int) -> np.ndarray:
    """(n, h, w, c) float32 clean images in the model's range."""
    return scaled(model, clean.take(min(number, len(clean)), seed=seed))


def scaled(model: Classifier, samples: Samples) -> np.ndarray:
    """(n, h, w, c) float32 images in the model's range."""
    values: Any = model.scaled(samples.read(), samples.value_range or (0.0, 255.0))
    return np.asarray(values)
