"""Pictures and numbers of images among the results of a cell, and the figures made of them."""

import base64
from typing import Any

import numpy as np

from keras_backdoor.answers import FlaggedSamples, Plot
from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure
from keras_backdoor.samples import Samples, picture_files

SHOWN = 12
"""The number of pictures in a row."""
SEED = 0


def stored(samples: Samples) -> dict[str, Any]:
    """Pictures as one PNG, one below the other.

    Args:
        samples: the pictures.

    Returns:
        `png`, base64 text, and `number`.
    """
    pixels = samples.as_bytes()
    column = pixels.reshape(-1, *pixels.shape[2:])
    return {
        "png": base64.b64encode(picture_files.encode(column)).decode(),
        "number": len(pixels),
    }


def pictures(found: dict[str, Any]) -> np.ndarray:
    """The pictures that `stored` made, (n, h, w, c) in 0..1."""
    column = picture_files.decode(base64.b64decode(found["png"]), 3) / 255.0
    return column.reshape(found["number"], -1, *column.shape[1:])


def drawn(samples: Samples, number: int = SHOWN) -> Samples:
    """At most this number of samples, at random."""
    return samples.take(min(number, len(samples)), seed=SEED)


def described(samples: Samples) -> dict[str, Any]:
    """Examples of a data set, and the number of images of each class."""
    labels = samples.known_labels
    first = np.array([np.flatnonzero(labels == c)[0] for c in np.unique(labels)])
    chosen = np.random.default_rng(SEED).permutation(first)[:SHOWN]
    return {
        "examples": stored(samples.subset(np.sort(chosen))),
        "images_per_class": np.bincount(labels).tolist(),
    }


def data_figures(found: dict[str, Any], name: str, numbers: str) -> list[Figure]:
    """The figures of `described`.

    Args:
        found: the results of a cell.
        name: the name of the data set.
        numbers: the numbers of the figures in the thesis.
    """
    counts = np.array(found["images_per_class"])
    plot = Plot("", "", {"images": "images"}, "class", "images", kind="bars")
    order = np.argsort(-counts)
    return [
        Figure(
            f"{name} ({numbers}): one image each of {found['examples']['number']} of "
            f"{len(counts)} classes.",
            figures.sheet([("", pictures(found["examples"]))]),
        ),
        Figure(
            f"{name}: {counts.sum():,} images, {counts.min()} to {counts.max()} a class, by "
            "decreasing number.",
            figures.value_bars(order, {"images": counts}, plot),
        ),
    ]


def clusters(answer: FlaggedSamples, train: Samples, target: int) -> dict[str, Any]:
    """Images of the target class that an audit keeps, and those that it flags.

    Args:
        answer: the answer of the audit.
        train: the training data.
        target: the target class of the attack.

    Returns:
        `kept` and `flagged`: the pictures, see `stored`, without those that are empty.
    """
    own = train.known_labels == target
    parts = {"kept": own & ~answer.flagged, "flagged": own & answer.flagged}
    return {
        name: {**stored(drawn(train.subset(mask), 3 * SHOWN)), "of": int(mask.sum())}
        for name, mask in parts.items()
        if mask.any()
    }


def cluster_figure(found: dict[str, Any], name: str, number: str) -> Figure:
    """The figure of `clusters`."""
    rows: list[tuple[str, np.ndarray]] = []
    words = []
    for part, shown in found.items():
        images = pictures(shown)
        words.append(f"{part} {shown['of']}")
        starts = range(0, len(images), SHOWN)
        rows += [("" if at else part, images[at : at + SHOWN]) for at in starts]
    return Figure(
        f"{name} (figure {number}): images of the target class that activation clustering keeps "
        f"and flags, at random ({', '.join(words)}).",
        figures.sheet(rows),
    )
