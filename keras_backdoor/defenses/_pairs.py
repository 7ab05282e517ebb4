"""Trigger inversion for every pair of source and target class.

A backdoor that serves one source class only hides from a search over images of all classes; a
search over images of its source class sees it.
"""

from collections.abc import Callable

import numpy as np

from keras_backdoor.classifier import Classifier
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples

MAX_CLASSES = 100
"""More would make more than 10,000 pairs."""


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
) -> tuple[Samples, np.ndarray, np.ndarray]:
    """Up to `number` clean images of each class, class after class.

    Args:
        model: gives the classes of images without labels.
        clean: the images.
        number: most images of a class.
        seed: of the choice.

    Returns:
        (images, first (k,), size (k,)): where each class begins and how many it has.

    Raises:
        BadInput: a class has no image.
    """
    labels = model.predict(clean) if clean.labels is None else clean.labels
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(labels == c))[:number] for c in range(model.classes)]
    sizes = np.array([len(r) for r in rows])
    if not sizes.all():
        missing = ", ".join(map(str, np.flatnonzero(sizes == 0)))
        raise BadInput(f"A scan of pairs needs clean images of every class; without: {missing}.")
    return clean.rows(np.concatenate(rows)), np.cumsum(sizes) - sizes, sizes


def drawer(
    sources: np.ndarray, first: np.ndarray, sizes: np.ndarray, batch_size: int
) -> Callable[[np.random.Generator, int], np.ndarray]:
    """A function that draws images of each row's source class, with replacement."""

    def draw(rng: np.random.Generator, step: int) -> np.ndarray:
        chosen = rng.integers(0, sizes[sources][:, None], (len(sources), batch_size))
        return (first[sources][:, None] + chosen).astype(np.int32)

    return draw
