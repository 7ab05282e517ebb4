"""A Keras model with its preprocessing, kind of output, classes and hash."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.errors import BadInput, one_line, warn
from keras_backdoor.metrics import Rate
from keras_backdoor.network.graph import architecture_digest, plain_model
from keras_backdoor.network.preprocessing import Preprocess, Preprocessing, Range
from keras_backdoor.network.units import (
    RANGES,
    Output,
    at_chance,
    output_kind,
    own_preprocessing,
    too_few,
)
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples

GUARD = "goodnet"
"""Model name of a guard: its last class means "rejected", also if the file has no card."""
PROBE, PROBE_PIXELS = 1000, 2**22
"""Largest number of clean images, and of their pixels, used to check a preprocessing. At least 100
images are used, whatever their size."""
TIE = 0.01
"""Difference of two accuracies up to which they count as equal."""
OTHERS = ("caffe", "torch", "vggface", "vggface2", "0:1,bgr", "-1:1,bgr", "0:255,bgr")
"""Less usual candidates, for color images. One of them is used only if the sign test on the images
that exactly one of it and the best range classifies correctly has a p-value below `RARE`."""
RARE = 0.01
MANY = 100
"""Smallest number of images from which an accuracy at chance is a reason for a warning."""
GOOD = 0.7
"""Smallest accuracy with which a preprocessing is recommended."""
GIVEN = "given"
_CHECKED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""Keras model -> the preprocessings and images that were checked."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """An image classifier.

    Args:
        model: a built Keras model with one image input (n, h, w, c) and one output (n, k). A model
            whose structure, data type or class differs from a plain functional model is converted;
            see `graph.plain_model`.
        preprocess: how pixels become the input of the model, in any form that `Preprocessing.of`
            accepts, for example (0, 1) or "caffe"; None if unknown.
        reject_class: the class that means "rejected" in a guard, or None.
        source: the file of the model, or None.
        file_sha256: SHA-256 of that file, or None.
        known_from: how the preprocessing is known, as text.

    Raises:
        BadInput: if the model does not have one image input and one vector of scores.
    """

    model: Any
    preprocess: Any = None
    reject_class: int | None = None
    source: str | None = None
    file_sha256: str | None = None
    known_from: str = ""
    _compiled: dict = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, keras.Model):
            raise BadInput(
                f"A model must be a keras.Model or Classifier. Received: "
                f"{type(self.model).__name__}"
            )
        object.__setattr__(self, "model", plain_model(self.model))
        if len(self.model.inputs) != 1 or len(self.model.outputs) != 1:
            raise BadInput("The model must be built, with one input and one output.")
        if len(self.model.inputs[0].shape) != 4 or len(self.model.outputs[0].shape) != 2:
            raise BadInput(
                "The model must map images (n, h, w, c) to scores (n, classes). Received: "
                f"{tuple(self.model.inputs[0].shape)} -> {tuple(self.model.outputs[0].shape)}"
            )
        if self.model.outputs[0].shape[-1] is None:
            raise BadInput("The model must have a fixed number of classes.")
        self._settle_preprocess()
        if self.reject_class is None and self.model.name == GUARD:
            object.__setattr__(self, "reject_class", int(self.model.outputs[0].shape[-1]) - 1)

    def _settle_preprocess(self) -> None:
        """Convert the preprocessing, or take it from the first layers of the model."""
        preprocess, known_from = self.preprocess, self.known_from
        if preprocess is None:
            preprocess, known_from = own_preprocessing(self.model), "from the model's first layer"
        if preprocess is None:
            object.__setattr__(self, "known_from", "")
            return
        preprocess = Preprocessing.of(preprocess)
        if not preprocess.fits(self.image_shape[-1]):
            raise BadInput(
                f"The preprocessing {preprocess} is for color images, and the model takes "
                f"{self.image_shape[-1]} channels."
            )
        object.__setattr__(self, "preprocess", preprocess)
        object.__setattr__(self, "known_from", known_from or GIVEN)

    @classmethod
    def wrap(cls, model: Any, *, preprocess: Preprocess | None = None) -> "Classifier":
        """A Classifier from a Classifier or a `keras.Model`."""
        if not isinstance(model, Classifier):
            model = cls(model)
        return model if preprocess is None else model.using(preprocess, GIVEN)

    def using(self, preprocess: Preprocess, known_from: str) -> "Classifier":
        """This classifier with another preprocessing; `known_from` says how it is known."""
        return replace(self, preprocess=Preprocessing.of(preprocess), known_from=known_from)

    def __repr__(self) -> str:
        return (
            f"Classifier({self.model.name}, {self.image_shape}, classes={self.classes}, "
            f"preprocess={self.preprocess or 'unknown'}, output={self.output})"
        )

    @property
    def pixels(self) -> str:
        """The preprocessing and how it is known, as text."""
        return f"{self.preprocess} ({self.known_from})" if self.preprocess else "unknown"

    @property
    def to_input(self) -> Preprocessing:
        """The known preprocessing.

        Raises:
            BadInput: if it is unknown.
        """
        if self.preprocess is None:
            raise BadInput(
                "The model's preprocessing is not known: pass --preprocess 0:1, 0:255, -1:1, caffe "
                "or torch (preprocess=(0, 1)), or labeled clean images."
            )
        known: Preprocessing = self.preprocess
        return known

    @property
    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """(height, width, channels); None for a side that may have any length."""
        _, height, width, channels = self.model.inputs[0].shape
        return height, width, channels

    @property
    def output(self) -> Output:
        """The kind of output: probabilities, logits or a single sigmoid."""
        if "output" not in self._compiled:
            self._compiled["output"] = output_kind(self.model)
        kind: Output = self._compiled["output"]
        return kind

    @property
    def classes(self) -> int:
        """Number of classes, including the reject class of a guard; 2 for a single sigmoid."""
        width = int(self.model.outputs[0].shape[-1])
        return 2 if width == 1 else width

    @property
    def true_classes(self) -> int:
        """Number of classes without the reject class of a guard."""
        return self.classes - (self.reject_class is not None)

    def sha256(self) -> str:
        """SHA-256 of the file, or of the architecture and weights if there is no file.

        The latter does not depend on layer names.
        """
        if self.file_sha256 is not None:
            return self.file_sha256
        digest = hashlib.sha256(architecture_digest(self.model).encode())
        for weight in self.model.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
        return digest.hexdigest()

    def with_preprocess(self, samples: Samples | None) -> "Classifier":
        """This classifier with a known preprocessing, checked on labeled clean images.

        A preprocessing that the user gives is compared with the usual ones, and a clearly better
        one causes a warning. One from a card or from the model itself is questioned only if the
        accuracy is at chance.

        Args:
            samples: clean images; their labels must be classes of the model.

        Raises:
            BadInput: if the preprocessing is unknown and cannot be inferred, or if the accuracy is
                at chance with the known one but not with another one.
        """
        if samples is None or samples.labels is None or not self.fits(samples):
            self.to_input  # noqa: B018
            return self
        self.check(samples)
        number = int(np.clip(PROBE_PIXELS // np.prod(samples.image_shape[:2]), 100, PROBE))
        probe = samples.take(min(number, len(samples)), seed=0).in_memory()
        if self.preprocess is None:
            return self._with_best(probe)
        key = f"{self.preprocess}{self.known_from}{probe.fingerprint()}"
        known = _CHECKED.setdefault(self.model, set())
        if key not in known:
            self._check_preprocess(probe)
            known.add(key)
        return self

    def _with_best(self, probe: Samples) -> "Classifier":
        """This classifier with the preprocessing that has the best accuracy."""
        best, right = self._best(probe)
        rate = Rate(int(right[best].sum()), len(probe))
        for name in right:
            self._check_order(probe, replace(self, preprocess=Preprocessing.of(name)))
        if too_few(probe.known_labels, self.classes):
            few = "1 labeled image is" if len(probe) == 1 else f"{len(probe)} labeled images are"
            raise BadInput(
                f"{few} too few to find the model's preprocessing: pass "
                "--preprocess 0:1, 0:255, -1:1, caffe or torch, or give more labeled images."
            )
        if at_chance(rate, probe.known_labels, self.classes):
            raise BadInput(
                "The model's preprocessing is not known, and its accuracy on the labeled images is "
                f"at chance with every one that was tried (best {rate:.1%}): pass --preprocess, or "
                "--unlabelled (labels=None) if the labels are not the model's classes."
            )
        second = max((p for p in right if p != best), key=lambda p: int(right[p].sum()))
        return self.using(
            best,
            f"guessed from {len(probe):,} labeled images: accuracy {rate:.1%}, with {second} "
            f"{right[second].mean():.1%}",
        )

    def _check_preprocess(self, probe: Samples) -> None:
        """Raise or warn if the preprocessing is clearly wrong."""
        if too_few(probe.known_labels, self.classes):
            return
        self._check_order(probe, self)
        given = self.predict(probe) == probe.known_labels
        rate = Rate(int(given.sum()), len(probe))
        lost = at_chance(rate, probe.known_labels, self.classes)
        if self.known_from != GIVEN and not lost:
            return
        best, right = self._best(probe)
        better = Rate(int(right[best].sum()), len(probe))
        if lost:
            if float(better) < GOOD or at_chance(better, probe.known_labels, self.classes):
                if len(probe) >= MANY:
                    warn(
                        f"The accuracy on {len(probe):,} labeled images is {rate:.1%}, which is no "
                        "better than chance: check the labels, the order of the classes "
                        "(--class-names) and --preprocess."
                    )
                return
            raise BadInput(
                f"The model predicts at random with the preprocessing {self.preprocess} (accuracy "
                f"{rate:.1%}) but not with {best} ({better:.1%}): pass --preprocess {best}."
            )
        if float(better) > float(rate) + TIE and _differ(right[best], given):
            warn(
                f"With the preprocessing {self.preprocess} the accuracy on {len(probe):,} labeled "
                f"images is {rate:.1%}, and with {best} it is {better:.1%}: check --preprocess."
            )

    def _check_order(self, probe: Samples, model: "Classifier") -> None:
        """Raise if the labels fit the model clearly better in another usual numbering.

        `image_dataset_from_directory` of Keras sorts the names of folders as text: 0, 1, 10, 11, 2.
        Labels may also be numbered from 1.
        """
        names, labels = probe.class_names or (), probe.known_labels
        others: dict[str, np.ndarray] = {}
        if names and all(name.isdecimal() for name in names) and list(names) != sorted(names):
            others["as text"] = np.argsort(np.argsort(np.array(names)))[labels]
        if labels.min() >= 1:
            others["from 1"] = labels - 1
        if not others:
            return
        predicted = model.predict(probe)
        given = predicted == labels
        advice = {
            "as text": "the folders in the order of text, as Keras does: pass --class-names text "
            "(class_names='text')",
            "from 1": "from 1: subtract 1 from the labels, or name the classes with --class-names",
        }
        for name, numbers in others.items():
            right = predicted == numbers
            if right.mean() > given.mean() + TIE and _differ(right, given):
                raise BadInput(
                    f"The accuracy is {given.mean():.1%}, and {right.mean():.1%} if the classes "
                    f"are numbered {advice[name]}."
                )

    def _best(self, probe: Samples) -> tuple[str, dict[str, np.ndarray]]:
        """(name, right): the best candidate, and whether each image is right with each candidate.

        See `RANGES` and `OTHERS`.
        """
        names = [n for n in (*RANGES, *OTHERS) if Preprocessing.of(n).fits(probe.image_shape[-1])]
        names = [n for n in names if n in RANGES or probe.image_shape[-1] == 3]
        right = {name: self._right(probe, Preprocessing.of(name)) for name in names}
        highest = max(float(right[name].mean()) for name in RANGES)
        best = next(n for n in RANGES if float(right[n].mean()) >= highest - TIE)
        others = [n for n in names if n not in RANGES]
        other = max(others, key=lambda n: float(right[n].mean()), default=best)
        if right[other].mean() > right[best].mean() + TIE and _differ(right[other], right[best]):
            best = other
        return best, right

    def _right(self, probe: Samples, preprocess: Preprocessing) -> np.ndarray:
        """(n,) bool, whether each image is classified correctly with a preprocessing."""
        predicted = replace(self, preprocess=preprocess).predict(probe)
        return np.asarray(predicted == probe.known_labels)

    def fits(self, samples: Samples) -> bool:
        """Whether the images have the size and channels of the model's input."""
        pairs = zip(self.image_shape, samples.image_shape, strict=True)
        return all(wanted in (None, given) for wanted, given in pairs)

    def check(self, samples: Samples) -> Samples:
        """Return the samples if their size and labels fit the model.

        Raises:
            BadInput: if the size or a label does not fit.
        """
        if not self.fits(samples):
            height, width, channels = self.image_shape
            given = samples.image_shape
            if channels not in (None, given[-1]):
                raise BadInput(
                    f"The model takes images with {_counted(channels)} and these have "
                    f"{given[-1]}: pass --channels {channels} (channels={channels}), which "
                    "converts them."
                )
            raise BadInput(
                f"The model takes images of {height}x{width}x{channels} (height, width, "
                "channels) and these have {}x{}x{}: pass --size {}x{} (size=({}, {})) or other "
                "data.".format(*given, height, width, height, width)
            )
        classes = self.true_classes
        if samples.labels is not None and samples.labels.max() >= classes:
            raise BadInput(
                f"The labels must lie in 0..{classes - 1}, the classes of the model. "
                f"Received: label {samples.labels.max()}"
            )
        return samples

    def scaled(self, images: Any, value_range: Range) -> Any:
        """Inputs of the model, float32, for stored pixels in `value_range`."""
        return self.to_input.of_stored(images, value_range)

    def probabilities(self, images: Any, training: bool = False) -> Any:
        """(n, classes) probabilities, as a tensor, for inputs of the model."""
        scores = self.model(images, training=training)
        if self.output == "logits":
            scores = tf.nn.softmax(scores) if scores.shape[-1] > 1 else tf.sigmoid(scores)
        return scores if scores.shape[-1] > 1 else tf.concat([1 - scores, scores], axis=-1)

    def scores(self, samples: Samples, *, batch_size: int = 256) -> np.ndarray:
        """(n, classes) float32 probabilities."""
        return np.concatenate(list(self.stream(samples, self.probabilities, batch_size)))

    def predict(self, samples: Samples, *, batch_size: int = 256) -> np.ndarray:
        """(n,) predicted classes, int64."""
        return np.concatenate(list(self.stream(samples, self._predicted_class, batch_size)))

    def _predicted_class(self, images: Any) -> Any:
        return tf.argmax(self.probabilities(images), axis=-1)

    def stream(self, samples: Samples, function: Any, batch_size: int = 256) -> Any:
        """Apply a function to all samples, batch by batch.

        Args:
            samples: the images; labels are not used.
            function: maps a tensor (b, h, w, c) of inputs of the model to a tensor (b, …). It is
                compiled with `tf.function`.
            batch_size: number of images per batch.

        Yields:
            One NumPy array per batch.

        Raises:
            BadInput: if the images do not fit the model, or it cannot be run on them.
        """
        self.check(samples.unlabelled())
        key = (function, samples.value_range, samples.image_shape, samples.images.dtype.str)
        run = self._compiled.get(key) or self._compile(samples, function)
        if getattr(function, "__self__", None) is self:
            self._compiled[key] = run
        total = -(-len(samples) // batch_size)
        try:
            for images, _ in track(samples.feed(batch_size), "images", total):
                yield run(images).numpy()
        except tf.errors.OpError as error:
            raise BadInput(f"The model cannot be run on these images: {one_line(error)}") from error

    def _compile(self, samples: Samples, function: Any) -> Any:
        value_range = samples.value_range or (0.0, 255.0)
        return tf.function(
            lambda images: function(self.scaled(images, value_range)),
            input_signature=[tf.TensorSpec((None, *samples.image_shape), samples.images.dtype)],
            autograph=False,
        ).get_concrete_function()


def _counted(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two classifiers of the same images differ significantly, by the sign test."""
    from scipy.stats import binomtest

    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    return first + second > 0 and binomtest(first, first + second).pvalue < RARE
