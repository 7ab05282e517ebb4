"""Segments of pictures, by scikit-image."""

from typing import Literal

import numpy as np

from keras_backdoor.errors import BadInput

Segmentation = Literal["watershed", "felzenszwalb", "quickshift"]
SEGMENTATIONS = ("watershed", "felzenszwalb", "quickshift")
SCALE, SIGMA = 1.0, 1.5
"""The settings of Felzenszwalb and Huttenlocher's method in the experiments of BayLIME."""
KERNEL, DISTANCE = 1.0, 200.0
"""The settings of quick shift in these experiments."""


def segmented(image: np.ndarray, method: Segmentation, markers: int) -> np.ndarray:
    """Split a picture into segments.

    Args:
        image: (h, w, c) float in 0..1, with one channel or three.
        method: `watershed` floods from a regular grid of `markers`; `felzenszwalb` and `quickshift`
            choose the number of segments themselves.
        markers: the number of markers of `watershed`, of which as many are used as fit in a grid.

    Returns:
        (h, w) int64 numbers of segments, from 0 and without gaps.

    Raises:
        BadInput: there is no such method.
    """
    from skimage import color, segmentation

    if method not in SEGMENTATIONS:
        raise BadInput(
            f"segmentation must be one of {', '.join(SEGMENTATIONS)}. Received: {method}"
        )
    gray = image.shape[-1] == 1
    if method == "watershed":
        flat = image[..., 0] if gray else color.rgb2gray(image)
        found = segmentation.watershed(flat, markers=markers)
    elif method == "felzenszwalb":
        flat = image[..., 0] if gray else image
        found = segmentation.felzenszwalb(flat, scale=SCALE, sigma=SIGMA)
    else:
        colored = color.gray2rgb(image[..., 0]) if gray else image
        found = segmentation.quickshift(colored, kernel_size=KERNEL, max_dist=DISTANCE)
    return np.unique(found, return_inverse=True)[1].reshape(image.shape[:2]).astype(np.int64)


def share_inside(segments: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The share of each segment that lies inside a mask.

    Args:
        segments: (h, w) numbers of segments from 0, see `segmented`.
        mask: (h, w) bool.

    Returns:
        (m,) in 0..1.

    >>> share_inside(np.array([[0, 0, 1, 1]]), np.array([[True, False, True, True]])).tolist()
    [0.5, 1.0]
    """
    sizes = np.bincount(segments.ravel())
    share: np.ndarray = np.bincount(segments[mask], minlength=len(sizes)) / sizes
    return share
