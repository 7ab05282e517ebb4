"""A Keras model with its input range, kind of output, classes and hash."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.errors import BadInput, one_line
from keras_backdoor.metrics import Rate, clean_accuracy
from keras_backdoor.network.graph import architecture_digest
from keras_backdoor.network.units import (
    RANGES,
    TIE,
    Output,
    Range,
    at_chance,
    output_kind,
    rescaling_range,
)
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples

GUARD = "goodnet"
"""Model name of a guard: its last class means "rejected", also if the file has no card."""
PROBE = 1000
"""Number of clean images used to check an input range."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """An image classifier.

    Args:
        model: a built Keras model with one image input (n, h, w, c) and one output (n, k).
        input_range: lowest and highest pixel value that the model expects, or None if unknown.
        reject_class: the class that means "rejected" in a guard, or None.
        source: the file of the model, or None.
        file_sha256: SHA-256 of that file, or None.

    Raises:
        BadInput: if the model does not have one image input and one vector of scores.
    """

    model: Any
    input_range: Range | None = None
    reject_class: int | None = None
    source: str | None = None
    file_sha256: str | None = None
    _compiled: dict = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, keras.Model):
            raise BadInput(
                f"A model must be a keras.Model or Classifier. Received: "
                f"{type(self.model).__name__}"
            )
        if not self.model.built or len(self.model.inputs) != 1 or len(self.model.outputs) != 1:
            raise BadInput("The model must be built, with one input and one output.")
        if len(self.model.inputs[0].shape) != 4 or len(self.model.outputs[0].shape) != 2:
            raise BadInput(
                "The model must map images (n, h, w, c) to scores (n, classes). Received: "
                f"{tuple(self.model.inputs[0].shape)} -> {tuple(self.model.outputs[0].shape)}"
            )
        if self.model.outputs[0].shape[-1] is None:
            raise BadInput("The model must have a fixed number of classes.")
        if self.input_range is None:
            object.__setattr__(self, "input_range", rescaling_range(self.model))
        if self.reject_class is None and self.model.name == GUARD:
            object.__setattr__(self, "reject_class", int(self.model.outputs[0].shape[-1]) - 1)
        if self.input_range is not None and not self.input_range[0] < self.input_range[1]:
            raise BadInput(f"input_range must be (low, high). Received: {self.input_range}")

    @classmethod
    def wrap(cls, model: Any, *, input_range: Range | None = None) -> "Classifier":
        """A Classifier from a Classifier or a `keras.Model`."""
        if not isinstance(model, Classifier):
            model = cls(model)
        return model if input_range is None else replace(model, input_range=input_range)

    def __repr__(self) -> str:
        low_high = "unknown" if self.input_range is None else "{:g}..{:g}".format(*self.input_range)
        return (
            f"Classifier({self.model.name}, {self.image_shape}, classes={self.classes}, "
            f"range={low_high}, output={self.output})"
        )

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

    def with_range(self, samples: Samples | None) -> "Classifier":
        """This classifier with a known input range, checked on labeled clean images.

        Raises:
            BadInput: if the range is unknown and cannot be inferred, or if the accuracy is at
                chance with the given range but not with another one.
        """
        if samples is None or samples.labels is None or not self.fits(samples):
            if self.input_range is None:
                raise BadInput(
                    "The model's input range is not known: pass --input-range 0:1, 0:255 or -1:1 "
                    "(input_range=(0, 1)), or labeled clean images."
                )
            return self
        self.check(samples)
        probe = samples.take(min(PROBE, len(samples)), seed=0).in_memory()
        if self.input_range is None:
            return self._with_best_range(probe)
        given = self._accuracy(probe)
        if at_chance(given, probe.known_labels, self.classes):
            self._raise_if_better_range(probe, self.input_range, given)
        return self

    def _with_best_range(self, probe: Samples) -> "Classifier":
        """This classifier with the input range that has the best accuracy."""
        best, rate = self._best_range(probe, RANGES)
        if at_chance(rate, probe.known_labels, self.classes):
            raise BadInput(
                "The model's input range is not known, and its accuracy on the labeled images is "
                f"at chance with every range that was tried (best {rate:.1%}): pass --input-range, "
                "or --unlabelled if the labels are not the model's classes."
            )
        return replace(self, input_range=best)

    def _raise_if_better_range(self, probe: Samples, given: Range, accuracy: Rate) -> None:
        """Raise if the accuracy is above chance with another input range."""
        best, rate = self._best_range(probe, RANGES)
        if not at_chance(rate, probe.known_labels, self.classes):
            raise BadInput(
                "The model predicts at random with the input range {:g}:{:g} (accuracy {:.1%}) but "
                "not with {:g}:{:g} ({:.1%}): pass --input-range {:g}:{:g}.".format(
                    *given, accuracy, *best, rate, *best
                )
            )

    def _best_range(self, probe: Samples, ranges: Sequence[Range]) -> tuple[Range, Rate]:
        """The first range whose accuracy is within `TIE` of the best, and its accuracy."""
        rates = {r: replace(self, input_range=r)._accuracy(probe) for r in ranges}
        highest = max(float(rate) for rate in rates.values())
        best = next(r for r in rates if float(rates[r]) >= highest - TIE)
        return best, rates[best]

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
            raise BadInput(
                f"The model takes images of {height}x{width}x{channels} (height, width, "
                "channels) and these have {}x{}x{}: pass --size HxW or other data.".format(
                    *samples.image_shape
                )
            )
        classes = self.classes - (self.reject_class is not None)
        if samples.labels is not None and samples.labels.max() >= classes:
            raise BadInput(
                f"The labels must lie in 0..{classes - 1}, the classes of the model. "
                f"Received: label {samples.labels.max()}"
            )
        return samples

    def scaled(self, images: Any, value_range: Range) -> Any:
        """Pixels mapped linearly from `value_range` to the input range of the model, float32."""
        if self.input_range is None:
            self.with_range(None)
        (low, high), (a, b) = value_range, self.input_range or (0.0, 1.0)
        scale = (b - a) / (high - low)
        return tf.cast(images, tf.float32) * scale + (a - low * scale)

    def probabilities(self, images: Any, training: bool = False) -> Any:
        """(n, classes) probabilities, as a tensor, of images in the input range of the model."""
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

    def _accuracy(self, samples: Samples) -> Rate:
        return clean_accuracy(self.predict(samples), samples.known_labels)

    def _predicted_class(self, images: Any) -> Any:
        return tf.argmax(self.probabilities(images), axis=-1)

    def stream(self, samples: Samples, function: Any, batch_size: int = 256) -> Any:
        """Apply a function to all samples, batch by batch.

        Args:
            samples: the images; labels are not used.
            function: maps a tensor (b, h, w, c) of images in the input range of the model to a
                tensor (b, …). It is compiled with `tf.function`.
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
