"""Random views of pictures, as TensorFlow operations for a `tf.data` pipeline."""

from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.defenses._random_numbers import Draw

ROTATION = 10.0
"""The largest rotation, in degrees."""
SCALE, SHIFT = 0.15, 0.12
"""The largest change of the size, and the largest shift as a share of the image's side."""
CONTRAST, BRIGHTNESS = 0.45, 0.2
"""The largest change of the contrast, around 0.5, and of the brightness."""
SHARE = 0.6
"""The share of the images that are changed; the others are seen as they are."""
STREAMS = 8_000_009
"""Added to the seed of a batch, whose other random numbers are those of its triggers."""


def random_views(images: Any, seed: Any) -> Any:
    """Rotate, scale, shift, brighten and darken some of the images, each in its own way.

    Args:
        images: (b, h, w, c) float32 in 0..1.
        seed: (2,) int32, the seed of the batch.

    Returns:
        (b, h, w, c) float32 in 0..1. What is seen beyond the border repeats it.
    """
    _, height, width, _ = images.shape
    draw = Draw(seed + STREAMS, tf.shape(images)[0])
    angle = draw.uniform(0, low=-1.0, high=1.0) * np.radians(ROTATION)
    size = draw.uniform(1, low=1.0 - SCALE, high=1.0 + SCALE)
    down = draw.uniform(2, low=-SHIFT, high=SHIFT) * height
    right = draw.uniform(3, low=-SHIFT, high=SHIFT) * width
    cos, sin = tf.cos(angle) * size, tf.sin(angle) * size
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    zero = tf.zeros_like(angle)
    from_x = middle_x - cos * middle_x + sin * middle_y + right
    from_y = middle_y - sin * middle_x - cos * middle_y + down
    transform = tf.stack([cos, -sin, from_x, sin, cos, from_y, zero, zero], axis=1)
    seen = keras.ops.image.affine_transform(
        images, transform, fill_mode="nearest", data_format="channels_last"
    )
    contrast = draw.uniform(4, low=1.0 - CONTRAST, high=1.0 + CONTRAST)[:, None, None, None]
    brightness = draw.uniform(5, low=-BRIGHTNESS, high=BRIGHTNESS)[:, None, None, None]
    seen = tf.clip_by_value((seen - 0.5) * contrast + 0.5 + brightness, 0.0, 1.0)
    return tf.where(draw.uniform(6)[:, None, None, None] < SHARE, seen, images)
