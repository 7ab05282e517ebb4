"""The clean images that a search draws from."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.defenses.neural_cleanse.search import Draw
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

ANY = -1
"""The source of a search over images of all classes."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """What is searched for: targets, and the images that each trigger is to work on.

    Attributes:
        targets: (s,) the class that each trigger leads to.
        sources: (s,) the class of the images that it works on; ANY for images of all classes.
        images: (n, h, w, c) float32 clean images in the model's range.
        first: (k,) where the images of each class begin, or None where all searches see the same.
        sizes: (k,) how many images each class has, or None.
    """

    targets: np.ndarray
    sources: np.ndarray
    images: np.ndarray
    first: np.ndarray | None = None
    sizes: np.ndarray | None = None

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return int(np.prod(self.images.shape[1:3]))

    def seen_by(self, search: int) -> np.ndarray:
        """(m,) positions of the images that a search sees."""
        if self.first is None or self.sizes is None:
            return np.arange(len(self.images))
        source = self.sources[search]
        return np.arange(self.first[source], self.first[source] + self.sizes[source])

    def draw(self, batch_size: int, chosen: np.ndarray | None = None) -> Draw | None:
        """Draws images of the source class of each search, with replacement.

        None where all searches see the same images.
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
    """Up to `number` clean images of each class, class after class.

    Args:
        model: gives the classes of images without labels.
        clean: the images.
        number: the largest number of images of a class.
        seed: of the choice.

    Returns:
        (positions (n,), first (k,), sizes (k,)): positions of the images in `clean`, where each
        class begins among them, and how many it has.
    """
    labels = labels_of(model, clean)
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:number] for c in range(model.classes)]
    sizes = np.array([len(positions) for positions in chosen])
    return np.concatenate(chosen), np.cumsum(sizes) - sizes, sizes


def labels_of(model: Classifier, samples: Samples) -> np.ndarray:
    """The labels; of images without labels, the model's answers."""
    return model.predict(samples) if samples.labels is None else samples.labels


def draw_images(model: Classifier, clean: Samples, number: int, seed: int) -> np.ndarray:
    """(n, h, w, c) float32, up to `number` clean images in the model's range."""
    return scaled(model, clean.take(min(number, len(clean)), seed=seed))


def scaled(model: Classifier, samples: Samples) -> np.ndarray:
    """(n, h, w, c) float32 images in the model's range."""
    values: Any = model.scaled(samples.read(), samples.value_range or (0.0, 255.0))
    return np.asarray(values)
