"""The preprocessing of a model: how the pixels of an image become the values of its input."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Union

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples

Range = tuple[float, float]
Order = Literal["rgb", "bgr"]
Preprocess = Union["Preprocessing", str, Range]
"""What is accepted wherever a preprocessing is given; see `Preprocessing.of`."""
FORMS = "0:1, 0:255, -1:1, caffe, torch, tf, vggface, vggface2 or mean=M/M/M,scale=S, and ,bgr"


@dataclass(frozen=True)
class Preprocessing:
    """A linear map from pixels to the input of a model, for each channel, and the channel order.

    With the pixel u in 0..1 and the channel c of the input of the model:

        input_c = low_c + (high_c - low_c) * u_c

    Args:
        low: the input for a black pixel: one value, or one for each channel of the input.
        high: the input for a white pixel, in the same form.
        order: the order of the channels of the input, `rgb` or `bgr`. Images are always RGB.

    Raises:
        BadInput: the values are not finite, `low` is not below `high`, or the numbers of channels
            differ.

    >>> caffe = Preprocessing.of("caffe")
    >>> [round(float(value), 1) for value in caffe(np.ones(3))]
    [151.1, 138.2, 131.3]
    >>> str(Preprocessing.of((0, 255))), str(caffe)
    ('0:255', 'caffe')
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    order: Order = "rgb"

    def __post_init__(self) -> None:
        values = [*self.low, *self.high]
        fits = len(self.low) == len(self.high) and len(self.low) in (1, 3)
        if not fits or not all(math.isfinite(v) and abs(v) < 1e6 for v in values):
            raise BadInput(
                "A preprocessing has finite values for one or for three channels. Received: "
                f"low={self.low}, high={self.high}"
            )
        if not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise BadInput(
                f"The value of a black pixel must be below that of a white pixel. Received: "
                f"{self.low}, {self.high}"
            )
        if self.order not in ("rgb", "bgr"):
            raise BadInput(f"The order of the channels must be rgb or bgr. Received: {self.order}")

    @classmethod
    def of(cls, value: Any) -> "Preprocessing":
        """Convert a preprocessing in any of the accepted forms.

        Args:
            value: a Preprocessing; a pair (low, high), the inputs for a black and a white pixel;
                or a text: `LOW:HIGH`, the name of a preset, or `mean=M/M/M,scale=S`, which stands
                for (pixel - mean) * scale with pixels in 0..255 and the means in the order of the
                input. `,bgr` at the end of a text reverses the order of the channels.

        Raises:
            BadInput: the value has another form.
        """
        if isinstance(value, Preprocessing):
            return value
        if isinstance(value, str):
            return _parse(value)
        try:
            low, high = (float(v) for v in value)
        except (TypeError, ValueError):
            raise BadInput(
                f"A preprocessing must be a pair (low, high), or {FORMS}. Received: {value!r}"
            ) from None
        return cls((low,), (high,))

    @property
    def range(self) -> Range | None:
        """(low, high) if all channels have the same range and the order is RGB, else None."""
        same = len({*self.low}) == len({*self.high}) == 1
        return (self.low[0], self.high[0]) if same and self.order == "rgb" else None

    def fits(self, channels: int | None) -> bool:
        """Whether it can be applied to images with this number of channels."""
        wanted = 3 if len(self.low) == 3 or self.order == "bgr" else None
        return wanted is None or channels in (None, wanted)

    def __call__(self, unit: Any) -> Any:
        """Convert pixels in 0..1 to inputs of the model.

        Args:
            unit: (..., channels) float32, an array or a tensor; RGB.
        """
        low, high = self._bounds()
        return low + (high - low) * self._ordered(unit)

    def of_stored(self, images: Any, value_range: Range) -> Any:
        """Convert stored pixels to inputs of the model.

        Args:
            images: (..., channels), the stored pixels; RGB.
            value_range: the lowest and the highest possible stored value.

        Returns:
            (..., channels) float32 tensor.
        """
        (low, high), (a, b) = value_range, self._bounds()
        scale = (b - a) / (high - low)
        pixels = self._ordered(tf.cast(images, tf.float32))
        return pixels * _plain(scale) + _plain(a - low * scale)

    def pixels(self, inputs: Any) -> Any:
        """Convert inputs of the model back to RGB pixels in 0..1; the inverse of a call."""
        low, high = self._bounds()
        return self._ordered((inputs - low) / (high - low))

    def _bounds(self) -> tuple[Any, Any]:
        if len(self.low) == 1:
            return self.low[0], self.high[0]
        return np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)

    def _ordered(self, values: Any) -> Any:
        return values if self.order == "rgb" else values[..., ::-1]

    def __str__(self) -> str:
        for name, preset in PRESETS.items():
            if preset == self:
                return name
        order = "" if self.order == "rgb" else ",bgr"
        if len({*self.low}) == len({*self.high}) == 1:
            return f"{self.low[0]:.9g}:{self.high[0]:.9g}{order}"
        scales = [(b - a) / 255 for a, b in zip(self.low, self.high, strict=True)]
        means = "/".join(f"{-a / s:.9g}" for a, s in zip(self.low, scales, strict=True))
        scale = "/".join(f"{s:.9g}" for s in scales)
        return f"mean={means},scale={scale}{order}"

    def as_json(self) -> Any:
        """The form for a JSON file, which `from_json` reads: a text or a dictionary."""
        text = str(self)
        if _parse(text) == self:
            return text
        return {"low": list(self.low), "high": list(self.high), "order": self.order}

    @classmethod
    def from_json(cls, value: Any) -> "Preprocessing":
        """Read the form that `as_json` writes, or a pair [low, high].

        Raises:
            BadInput: the value has another form.
        """
        if not isinstance(value, dict):
            return cls.of(value)
        try:
            low, high = (tuple(float(v) for v in value[key]) for key in ("low", "high"))
            return cls(low, high, value.get("order", "rgb"))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"A preprocessing must have low, high and order. Received: {value}"
            ) from error


def _plain(value: Any) -> Any:
    return value if isinstance(value, float) else np.asarray(value, np.float32)


def _of_mean(mean: tuple[float, ...], scale: tuple[float, ...], order: Order) -> Preprocessing:
    size = max(len(mean), len(scale))
    means, scales = (v if len(v) == size else v * size for v in (mean, scale))
    pairs = list(zip(means, scales, strict=True))
    return Preprocessing(
        tuple(-m * s for m, s in pairs), tuple((255 - m) * s for m, s in pairs), order
    )


PRESETS = {
    "0:1": Preprocessing((0.0,), (1.0,)),
    "-1:1": Preprocessing((-1.0,), (1.0,)),
    "0:255": Preprocessing((0.0,), (255.0,)),
    "caffe": _of_mean((103.939, 116.779, 123.68), (1.0,), "bgr"),
    "torch": _of_mean(
        (255 * 0.485, 255 * 0.456, 255 * 0.406),
        (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
        "rgb",
    ),
    "vggface": _of_mean((93.5940, 104.7624, 129.1863), (1.0,), "bgr"),
    "vggface2": _of_mean((91.4953, 103.8827, 131.0912), (1.0,), "bgr"),
}
"""The usual preprocessings, by name: plain ranges, those of `keras.applications`, and those of the
two VGG-Face networks."""
SYNONYMS = {"tf": "-1:1"}


def _parse(text: str) -> Preprocessing:
    words = [word.strip() for word in text.strip().lower().split(",")]
    reverse = words[-1] in ("bgr", "rgb") and words.pop() == "bgr"
    order: Order = "bgr" if reverse else "rgb"
    try:
        if len(words) == 1 and SYNONYMS.get(words[0], words[0]) in PRESETS:
            preset = PRESETS[SYNONYMS.get(words[0], words[0])]
            return preset if not reverse else Preprocessing(preset.low, preset.high, order)
        if len(words) == 1 and "=" not in words[0]:
            low, high = (float(part) for part in words[0].split(":"))
            return Preprocessing((low,), (high,), order)
        given = dict(word.split("=") for word in words)
        if not {"mean"} <= set(given) <= {"mean", "scale"}:
            raise ValueError(text)
        mean, scale = (
            tuple(float(part) for part in given.get(key, "1").split("/"))
            for key in ("mean", "scale")
        )
        if min(scale) <= 0:
            raise ValueError(text)
        return _of_mean(mean, scale, order)
    except BadInput:
        raise
    except ValueError:
        raise BadInput(f"A preprocessing is written {FORMS}. Received: {text}") from None


def unit_images(images: Any, samples: Samples) -> Any:
    """(b, h, w, c) float32 in 0..1 for a batch of the stored pixels of samples."""
    low, high = samples.value_range or (0.0, 255.0)
    unit = (tf.cast(images, tf.float32) - low) / (high - low)
    return tf.ensure_shape(unit, (None, *samples.image_shape))
