"""The targets of a trigger search, and the clean images that it draws from."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.defenses.neural_cleanse.search import Draw
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

ANY = -1
"""The source of a search whose trigger has to work on images of all classes."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """The searches of a run: their targets, and the images that each trigger has to work on.

    Attributes:
        targets: (s,) the target class of each trigger.
        sources: (s,) the source class of each trigger, whose images it has to work on; ANY for
            images of all classes.
        images: (n, h, w, c) float32 clean images as inputs of the model.
        first: (k,) the index of the first image of each class, or None if all searches use the
            same images.
        sizes: (k,) the number of images of each class, or None.
    """

    targets: np.ndarray
    sources: np.ndarray
    images: np.ndarray
    first: np.ndarray | None = None
    sizes: np.ndarray | None = None

    @property
    def pixels(self) -> int:
        """The number of pixels of an image."""
        return int(np.prod(self.images.shape[1:3]))

    def seen_by(self, search: int) -> np.ndarray:
        """(m,) the indices of the images that a search draws from."""
        if self.first is None or self.sizes is None:
            return np.arange(len(self.images))
        source = self.sources[search]
        return np.arange(self.first[source], self.first[source] + self.sizes[source])

    def draw(self, batch_size: int, chosen: np.ndarray | None = None) -> Draw | None:
        """A function that draws images of the source class of each search, with replacement.

        Args:
            batch_size: the number of images of each search in a step.
            chosen: (t,) the indices of the searches; None selects all.

        Returns:
            The function, or None if all searches use the same images.
        """
        if self.first is None or self.sizes is None:
            return None
        sources = self.sources if chosen is None else self.sources[chosen]
        first, sizes = self.first[sources][:, None], self.sizes[sources][:, None]

        def drawn(rng: np.random.Generator, step: int) -> np.ndarray:
            positions = first + rng.integers(0, sizes, (len(sources), batch_size))
            return positions.astype(np.int32)

        return drawn


def images_by_class(
    model: Classifier, clean: Samples, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw up to `number` clean images of each class.

    Args:
        model: the model, whose predictions are the classes of images without labels.
        clean: the clean images.
        number: the largest number of images of a class.
        seed: the seed of the draw.

    Returns:
        (positions (n,), first (k,), sizes (k,)): the indices of the drawn images in `clean`, sorted
        by class, the start of each class in `positions`, and the number of images of each class.
    """
    labels = labels_of(model, clean)
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:number] for c in range(model.classes)]
    sizes = np.array([len(positions) for positions in chosen])
    return np.concatenate(chosen), np.cumsum(sizes) - sizes, sizes


def labels_of(model: Classifier, samples: Samples) -> np.ndarray:
    """(n,) the labels of the samples, or the predicted classes if they have no labels."""
    return model.predict(samples) if samples.labels is None else samples.labels


def draw_images(model: Classifier, clean: Samples, number: int, seed: int) -> np.ndarray:
    """(n, h, w, c) float32, up to `number` drawn images as inputs of the model."""
    return scaled(model, clean.take(min(number, len(clean)), seed=seed))


def scaled(model: Classifier, samples: Samples) -> np.ndarray:
    """(n, h, w, c) float32, the images as inputs of the model."""
    values: Any = model.scaled(samples.read(), samples.value_range or (0.0, 255.0))
    return np.asarray(values)
