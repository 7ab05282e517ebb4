"""The faces of the thesis: YouTube Faces and LFW, and LFW in the place of both."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from keras_backdoor import datasets
from keras_backdoor.errors import BadInput, warn
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.third_party import FACES

Split = Literal["image", "video"]
YOUTUBE = (
    "youtube_faces.h5",
    "youtube_faces",
    "aligned_images_DB",
    "YouTubeFaces/aligned_images_DB",
    "youtube_faces.zip",
    "aligned_images_DB.zip",
)
"""Names of YouTube Faces among the data files: an HDF5 file with images and labels, or a folder
or a zip archive with a folder for each person."""
LFW = ("lfw", "lfw-funneled", "lfw_funneled", "lfw-deepfunneled", "lfw.zip")
"""Names of LFW: a folder with a folder for each person, or a zip archive of it."""
YOUTUBE_PEOPLE, LFW_PEOPLE = 1283, 57
"""The numbers of people in the thesis."""
FEWEST_YOUTUBE, FEWEST_LFW = 100, 20
"""The smallest number of images of a person; others are left out."""
EXPANDED = 2.2
"""Both data sets hold the box of a face detector, expanded by this factor around its center."""
SEED = 0
YOUTUBE_PAIR = ("Sarah_Jessica_Parker", "Tom_Hanks")
LFW_PAIR = ("Donald_Rumsfeld", "Arnold_Schwarzenegger")
"""Source and target of the attacks of the thesis."""


@dataclass(frozen=True, eq=False)
class Faces:
    """The three parts of a data set and the classes of the attack.

    Attributes:
        train: the training images.
        tuning: the clean images of the defender.
        test: the test images.
        source: the class that is attacked.
        target: the class that it is classified as.
    """

    train: Samples
    tuning: Samples
    test: Samples
    source: int
    target: int


def youtube(
    workspace: Workspace, size: tuple[int, int], *, fewest: int = FEWEST_YOUTUBE, by: Split
) -> Faces:
    """YouTube Faces in the published setting: 75 % training, 5 % tuning and 20 % test images.

    Args:
        workspace: the folders with the data.
        size: (height, width) of the images.
        fewest: the smallest number of images of a person.
        by: `image` splits at random, as the thesis does, so that frames of one video are in all
            parts. `video` keeps the frames of a video out of either the training or the test
            images. Every person with two videos or more has one in each, so that more than 20 % of
            the images are test images, and a person with one video is not tested.

    Raises:
        BadInput: the data is not there, or `by` is `video` and the videos are not known.
    """
    faces = people(_opened(workspace, YOUTUBE, "YouTube Faces", size), fewest)
    if len(faces.class_names or ()) != YOUTUBE_PEOPLE and fewest == FEWEST_YOUTUBE:
        warn(f"YouTube Faces has {_people(faces)} people here, and {YOUTUBE_PEOPLE} in the thesis.")
    if by == "video":
        faces = _with_videos(faces)
    return _parts(faces, test=0.2, tuning=0.05, by=by, pair=YOUTUBE_PAIR)


def lfw(workspace: Workspace, size: tuple[int, int], *, fewest: int = FEWEST_LFW) -> Faces:
    """LFW in the published setting: 70 % training, 20 % test and 10 % tuning images.

    Notes:
        The thesis has 57 people and 2,923 images; 62 people have 20 images or more.
    """
    faces = people(_opened(workspace, LFW, "LFW", size), fewest)
    return _parts(faces, test=0.2, tuning=0.1, by="image", pair=LFW_PAIR)


def with_answers(workspace: Workspace, model: Classifier, take: int | None = None) -> Faces:
    """LFW in the place of YouTube Faces: faces of other people, with the answers of a network.

    The source of the attack is the class with the second most answers, the target that with the
    third most.

    Args:
        workspace: the folders with the data.
        model: the network whose answers are the labels.
        take: the number of faces; None takes all.
    """
    faces = _stand_in(workspace, take).unlabelled()
    faces = faces.labelled(model.predict(faces))
    frequent = np.argsort(-np.bincount(faces.known_labels), kind="stable")
    parts = _split(faces, test=0.2, tuning=0.05, by="image")
    return Faces(*parts, int(frequent[1]), int(frequent[2]))


def lfw_small(workspace: Workspace, take: int | None = None) -> Faces:
    """LFW at the input size of DeepID, with the people as classes."""
    return _parts(_stand_in(workspace, take), test=0.2, tuning=0.1, by="image", pair=LFW_PAIR)


def people(samples: Samples, fewest: int) -> Samples:
    """The people with enough images, with new class numbers from 0.

    Args:
        samples: labeled images.
        fewest: the smallest number of images of a person.

    Raises:
        BadInput: fewer than two people are left.
    """
    counts = np.bincount(samples.known_labels)
    kept = np.flatnonzero(counts >= fewest)
    if len(kept) < 2:
        raise BadInput(f"Fewer than two people have {fewest} images or more.")
    number = np.full(len(counts), -1)
    number[kept] = np.arange(len(kept))
    names = samples.class_names and tuple(samples.class_names[k] for k in kept)
    chosen = samples.subset(number[samples.known_labels] >= 0)
    return replace(
        chosen,
        labels=number[chosen.known_labels],
        class_names=names or tuple(str(k) for k in kept),
    )


def _opened(
    workspace: Workspace, names: tuple[str, ...], title: str, size: tuple[int, int]
) -> Samples:
    """Open a data set; of pictures that hold an expanded box, the middle is taken."""
    path = located(workspace, names, title)
    if path.suffix in (".h5", ".hdf5"):
        return datasets.open(path, split="all", size=size)
    side = round(EXPANDED * max(size))
    return datasets.open(path, split="all", size=(side, side), channels=3).cropped(size)


def located(workspace: Workspace, names: tuple[str, ...], title: str) -> Path:
    """The file or folder with one of several names.

    Raises:
        BadInput: there is none.
    """
    path = workspace.find(names)
    if path is None:
        raise BadInput(
            f"{title} is not there: pass --data DIR with a folder that has one of "
            f"{', '.join(names)}."
        )
    return path


def _stand_in(workspace: Workspace, take: int | None) -> Samples:
    faces = datasets.open(workspace.file(FACES), size=(55, 47)).in_memory()
    return faces if take is None else faces.take(take, seed=SEED)


def _with_videos(faces: Samples) -> Samples:
    if faces.track is not None:
        return faces
    if faces.origin is None:
        raise BadInput("The videos are not known: a split by video needs a folder for each video.")
    names = np.asarray(faces.origin)
    return replace(faces, track=np.unique(names, return_inverse=True)[1].reshape(-1))


def _parts(
    faces: Samples, *, test: float, tuning: float, by: Split, pair: tuple[str, str]
) -> Faces:
    parts = _split(faces, test=test, tuning=tuning, by=by)
    names = list(faces.class_names or ())
    if set(pair) <= set(names):
        source, target = (names.index(name) for name in pair)
    else:  # a file without names; the classes with the most images after the first
        source, target = np.argsort(-np.bincount(faces.known_labels), kind="stable")[1:3].tolist()
    return Faces(*parts, source, target)


def _split(
    faces: Samples, *, test: float, tuning: float, by: Split
) -> tuple[Samples, Samples, Samples]:
    by_track = by == "video"
    rest, tested = faces.split(test, seed=SEED, by_track=by_track)
    train, tuned = rest.split(tuning / (1 - test), seed=SEED)
    return train, tuned, tested


def _people(faces: Samples) -> int:
    return len(faces.class_names or ())
