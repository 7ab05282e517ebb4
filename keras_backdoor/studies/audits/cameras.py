"""Origins for the provenance experiment: four cameras, one of which is poisoned, and an odd one."""

from dataclasses import replace

import numpy as np

from keras_backdoor.samples import Samples
from keras_backdoor.samples.images import Mapped

CAMERAS, POISONED, ODD = 4, 3, 4
"""The number of ordinary cameras, the poisoned one among them, and the odd one."""
ODD_CLASSES = 6
"""The number of classes that the odd camera has seen."""
ODD_SHARE = 0.5
"""The share of the recordings of these classes that are from the odd camera."""
DARKER = 0.5
"""The factor by which the images of the odd camera are darker."""


def with_cameras(train: Samples, is_poison: np.ndarray, seed: int) -> Samples:
    """Give training images origins, by recording.

    Each recording is from one of four cameras at random. All poisoned images are from camera 3,
    which has also taken a quarter of the clean recordings. An honest fifth camera has taken half of
    the recordings of a few classes, and its images are darker.

    Args:
        train: labeled images with recordings.
        is_poison: (n,) bool.
        seed: the seed of the cameras.

    Returns:
        The images with origins; those of the odd camera are darker.
    """
    rng = np.random.default_rng(seed)
    assert train.track is not None
    labels = train.known_labels
    odd = rng.choice(np.unique(labels), ODD_CLASSES, replace=False)
    pairs = np.stack([labels, np.asarray(train.track, np.int64)])
    recordings, member = np.unique(pairs, axis=1, return_inverse=True)
    camera = rng.integers(0, CAMERAS, recordings.shape[1])
    strange = np.isin(recordings[0], odd) & (rng.random(recordings.shape[1]) < ODD_SHARE)
    number = np.where(strange, ODD, camera)[member.reshape(-1)]
    number = np.where(is_poison, POISONED, number)

    def darker(pixels: np.ndarray, indices: np.ndarray) -> np.ndarray:
        factor = np.where(number[indices] == ODD, DARKER, 1.0)[:, None, None, None]
        values: np.ndarray = np.round(pixels * factor).astype(pixels.dtype)
        return values

    images = Mapped(train.images, darker, f"cameras {seed}")
    origin = np.array([f"camera {i}" for i in number])
    return replace(train, images=images, origin=origin)
