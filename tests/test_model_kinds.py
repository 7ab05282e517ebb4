"""Every method on each kind of model that people have in Python."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from contract import METHODS, evidence, is_nested, load, quick, weights_hash

from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import RepairedModel
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier

L = keras.layers


class Subclassed(keras.Model):
    """A subclassed model around the layers of another one."""

    def __init__(self, inner: keras.Model) -> None:
        super().__init__()
        self.inner = inner

    def call(self, images: Any) -> Any:
        return self.inner(images)


def with_policy(model: keras.Model, policy: str) -> keras.Model:
    """A copy whose layers compute with another data type."""

    def clone(layer: Any) -> Any:
        settings = layer.get_config()
        if type(layer).__name__ != "InputLayer":
            settings["dtype"] = policy
        return type(layer).from_config(settings)

    copied = keras.models.clone_model(model, clone_function=clone)
    copied.set_weights(model.get_weights())
    return copied


def with_structure(model: keras.Model) -> keras.Model:
    image = keras.Input(model.input_shape[1:], name="image")
    return keras.Model({"image": image}, {"scores": model(image)})


def of_bytes(model: keras.Model) -> keras.Model:
    """A model that takes uint8 pixels in 0..255."""
    image = keras.Input(model.input_shape[1:], dtype="uint8")
    return keras.Model(image, model(L.Rescaling(1 / 255)(image)))


def called(model: keras.Model) -> keras.Model:
    wrapped = Subclassed(model)
    wrapped(np.zeros((1, *model.input_shape[1:]), np.float32))
    return wrapped


def always_dropping(model: keras.Model) -> keras.Model:
    image = keras.Input(model.input_shape[1:])
    return keras.Model(image, model(L.Dropout(0.5)(image, training=True)))


KINDS: dict[str, tuple[Callable[[keras.Model], keras.Model], Any]] = {
    "subclassed": (called, (0, 1)),
    "dictionaries": (with_structure, (0, 1)),
    "mixed_float16": (lambda m: with_policy(m, "mixed_float16"), (0, 1)),
    "bfloat16": (lambda m: with_policy(m, "bfloat16"), (0, 1)),
    "float64": (lambda m: with_policy(m, "float64"), (0, 1)),
    "uint8 input": (of_bytes, None),
    "dropout always on": (always_dropping, (0, 1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_like_the_plain_model(kind: str, task) -> None:
    make, preprocess = KINDS[kind]
    model = make(task.model.model)
    classifier = Classifier(model, preprocess)
    agree = (classifier.predict(task.test) == task.model.predict(task.test)).mean()
    assert agree >= (0.97 if "float16" in kind else 1.0)
    assert classifier.model.outputs[0].dtype == "float32"


TYPES = ("mixed_float16", "bfloat16", "float64")
WRAPPED = ("subclassed", "dictionaries", "uint8 input", "dropout always on")


def combinations() -> Iterator[Any]:
    """Every method on one kind of each group, in turn; `make verify` tries it on all kinds."""
    for number, method in enumerate(METHODS):
        chosen = {kinds[number % len(kinds)] for kinds in (TYPES, WRAPPED)}
        nested = is_nested(load(method))
        if nested:  # it runs another method, which is tried on all kinds
            chosen = {WRAPPED[0]} if "repair" in load(method).commands else set()
        for kind in chosen if nested else KINDS:
            marks = () if kind in chosen else pytest.mark.verify
            yield pytest.param(method, kind, marks=marks, id=f"{method[1]}-{kind}")


def test_the_groups_have_all_kinds() -> None:
    assert {*TYPES, *WRAPPED} == set(KINDS)


@pytest.mark.parametrize(("method", "kind"), list(combinations()))
@pytest.mark.filterwarnings("ignore")
def test_every_method_runs_on_it(method: tuple[str, str], kind: str, task, first_run) -> None:
    make, preprocess = KINDS[kind]
    cls = load(method)
    model = make(task.model.model)
    before = weights_hash(model)
    answer = quick(cls)(model, **evidence(cls, task), preprocess=preprocess)
    assert answer.verdict == first_run(method).answer.verdict
    assert weights_hash(model) == before
    if isinstance(answer, RepairedModel):
        assert np.isfinite(answer.classifier.scores(task.test.take(20))).all()


def test_a_subclassed_model_is_used_again(task) -> None:
    """Scan, repair with the scan, repair again: one trace serves all."""
    from keras_backdoor.defenses.fine_pruning import FinePruning
    from keras_backdoor.defenses.goodnet import GoodNet

    class Small(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.flat, self.out = L.Conv2D(4, 3), L.Flatten(), L.Dense(10)

        def call(self, images: Any) -> Any:
            return self.out(self.flat(self.conv(images)))

    model = Small()
    model(task.clean.read()[:1] / np.float32(255))
    for method in (FinePruning(), GoodNet(FinePruning()), FinePruning(max_drop=0.1)):
        answer = method(model, clean=task.clean.unlabelled(), preprocess=(0, 1))
        assert np.isfinite(answer.classifier.scores(task.test.take(5))).all()


def test_what_cannot_be_traced_is_one_sentence() -> None:
    class WithNumPy(keras.Model):
        def call(self, images: Any) -> Any:
            return keras.ops.convert_to_tensor(np.asarray(images).mean(axis=(1, 2)))

    model = WithNumPy()
    model(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(BadInput, match="WithNumPy cannot be converted to a functional model"):
        Classifier(model)
    with pytest.raises(BadInput, match="must be built"):
        Classifier(WithNumPy())


@pytest.mark.filterwarnings("ignore:The accuracy on")
def test_a_small_vision_transformer_is_scanned_and_unlearned(task) -> None:
    """Attention and layer normalization; a method that cannot cut the network says so."""
    from keras_backdoor.defenses.fine_pruning import FinePruning
    from keras_backdoor.defenses.unlearning import Unlearning

    shape, width = task.model.model.input_shape[1:], 16
    image = keras.Input(shape)
    x = L.Conv2D(width, 4, strides=4)(image)
    x = L.Reshape((x.shape[1] * x.shape[2], width))(x)
    y = L.LayerNormalization()(x)
    x = L.Add()([x, L.MultiHeadAttention(2, 8)(y, y)])
    y = L.Dense(32, activation="gelu")(L.LayerNormalization()(x))
    x = L.Add()([x, L.Dense(width)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    model = keras.Model(image, L.Dense(task.model.classes, activation="softmax")(x))
    clean = task.clean
    found = task.found(load(("defenses", "unlearning")).needs[1].answer)
    settings = load(("defenses", "unlearning")).quick
    answer = Unlearning(**settings)(model, clean=clean, found=found, preprocess=(0, 1))
    assert np.isfinite(answer.classifier.scores(clean.take(10))).all()
    scan = quick(load(("defenses", "neural_cleanse")))(model, clean=clean, preprocess=(0, 1))
    assert len(scan.scores) == task.model.classes
    pruned = FinePruning()(model, clean=clean.unlabelled(), preprocess=(0, 1))
    assert pruned.history["order"].size == width
