"""Cuts are exact, refused where they cannot be, and silence is silence."""

from pathlib import Path

import numpy as np
import pytest

from keras_backdoor import metrics
from keras_backdoor._internals.backend import keras
from keras_backdoor.architectures import DeepID
from keras_backdoor.defenses.goodnet import goodnet
from keras_backdoor.loading import load_model
from keras_backdoor.network import activations, channels, graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

L = keras.layers
SHAPE = (12, 10, 3)


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(6, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="bn"),
            L.ReLU(name="relu"),
            L.MaxPooling2D(name="pool"),
            L.Flatten(name="flat"),
            L.Dense(4, activation="softmax", name="out"),
        ]
    )


def nested() -> keras.Model:
    inner_in = keras.Input(SHAPE)
    x = L.Conv2D(6, 3, activation="sigmoid", name="conv")(inner_in)
    deep = keras.Sequential([keras.Input((10, 8, 6)), L.Conv2D(5, 3, name="conv")], name="deep")
    x = L.BatchNormalization(name="bn")(deep(x))
    backbone = keras.Model(inner_in, L.Activation("relu", name="act")(x), name="backbone")
    image = keras.Input(SHAPE, name="image")
    x = L.GlobalAveragePooling2D(name="pool")(backbone(image))
    return keras.Model(image, L.Dense(4, name="out")(x))


def residual() -> keras.Model:
    image = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="stem")(image)
    y = L.Conv2D(4, 3, padding="same", activation="relu", name="branch")(x)
    x = L.Add(name="add")([x, y])
    x = L.Flatten(name="flat")(x)
    return keras.Model(image, L.Dense(4, activation="softmax", name="out")(x))


def randomise(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random weights, also of batch normalisations."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        scale = 1.0 if "variance" in variable.path or "gamma" in variable.path else 0.0
        values = scale + 0.3 * rng.normal(size=variable.shape)
        variable.assign(np.abs(values) if scale else values)
    return model


def images(number: int = 9, shape: tuple = SHAPE) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(number, *shape)).astype(np.float32)


MODELS = {"sequential": sequential, "nested": nested, "residual": residual}
CUTS = [
    *(("sequential", n) for n in ("conv", "bn", "relu", "pool", "flat", "out")),
    *(("nested", n) for n in ("backbone/conv", "backbone/deep/conv", "backbone/act", "pool")),
    *(("residual", n) for n in ("stem", "add", "flat")),
]


@pytest.mark.parametrize(("kind", "layer"), CUTS)
def test_tail_of_head_is_the_model(kind: str, layer: str) -> None:
    model = randomise(MODELS[kind]())
    before = [w.copy() for w in model.get_weights()]
    head, tail = activations.split(model, layer)
    np.testing.assert_allclose(tail(head(images())), model(images()), atol=1e-5)
    np.testing.assert_allclose(head(images()).shape[1:], head.outputs[0].shape[1:])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_deepid_is_cut_after_pool_3_and_not_at_a_branch() -> None:
    model = DeepID(7)
    faces = images(3, (55, 47, 3))
    for layer in ("conv_1", "conv_3", "pool_3", "add_1"):
        head, tail = activations.split(model, layer)
        np.testing.assert_allclose(tail(head(faces)), model(faces), atol=1e-6)
    for layer in ("conv_4", "fc_1"):
        with pytest.raises(ValueError, match=f"cannot be split at '{layer}': another branch"):
            activations.split(model, layer)


def test_unknown_layers_list_the_known() -> None:
    with pytest.raises(ValueError, match="no layer 'nope'; its layers: stem, branch, add"):
        activations.split(residual(), "nope")
    with pytest.raises(ValueError, match="backbone/deep/conv"):
        activations.split(nested(), "backbone/nope")


def test_subclassed_models_are_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="Only functional and sequential models can be split"):
        graph.replay(own, keras.Input((4,)), None)


def test_inlining_keeps_the_answers_and_the_paths() -> None:
    model = randomise(nested())
    flat = graph.inlined(model)
    np.testing.assert_allclose(flat(images()), model(images()), atol=1e-6)
    assert "backbone.deep.conv" in [x.name for x in flat.layers]
    assert channels.channel_layers(model) == ["backbone/conv", "backbone/deep/conv"]


@pytest.mark.parametrize(
    ("kind", "layer", "place", "pool"),
    [
        ("sequential", "conv", "relu", "pool"),
        ("nested", "backbone/conv", "backbone/conv", "backbone/conv"),
        ("nested", "backbone/deep/conv", "backbone/act", "pool"),
        ("residual", "stem", "stem", "stem"),
    ],
)
def test_channels_are_ranked_behind_the_nonlinearity(kind, layer, place, pool) -> None:
    model = MODELS[kind]()
    assert channels.after_activation(model, layer) == place
    assert channels.after_activation(model, layer, pool=True) == pool


@pytest.mark.parametrize(
    ("kind", "layer", "until"),
    [
        ("sequential", "conv", "relu"),
        ("nested", "backbone/conv", "backbone/conv"),
        ("nested", "backbone/deep/conv", "backbone/act"),
        ("residual", "branch", "branch"),
    ],
)
def test_a_silent_channel_rests_and_the_others_stay(kind: str, layer: str, until: str) -> None:
    model = randomise(MODELS[kind]())
    head, _ = activations.split(model, until) if until != "branch" else (None, None)
    rest = channels.pruned_activation(model, layer, until)
    twin = graph.copy(model)
    channels.silence(twin, layer, [1, 3])
    if head is None:
        probe = lambda m: keras.Model(m.inputs[0], m.get_layer(until).output)(images())  # noqa: E731
    else:
        probe = lambda m: activations.split(m, until)[0](images())  # noqa: E731
    before, after = np.asarray(probe(model)), np.asarray(probe(twin))
    assert not np.allclose(before[..., [1, 3]], after[..., [1, 3]])
    expected = np.broadcast_to(rest[[1, 3]], after[..., [1, 3]].shape)
    np.testing.assert_allclose(after[..., [1, 3]], expected, atol=1e-6)
    others = [c for c in range(before.shape[-1]) if c not in (1, 3)]
    if kind != "nested" or layer.endswith("deep/conv"):
        np.testing.assert_allclose(before[..., others], after[..., others], atol=1e-6)


@pytest.mark.parametrize("cls", [L.Conv2D, L.SeparableConv2D, L.Conv2DTranspose, L.DepthwiseConv2D])
def test_every_kind_of_kernel_can_be_silenced(cls: type) -> None:
    layer = cls(3, name="c") if cls is L.DepthwiseConv2D else cls(6, 3, name="c")
    model = keras.Sequential([keras.Input(SHAPE), layer, L.Flatten(), L.Dense(2)])
    randomise(model)
    channels.silence(model, "c", [2])
    output = np.asarray(activations.split(model, "c")[0](images()))
    assert (output[..., 2] == 0).all()
    assert (output[..., [0, 1]] != 0).any()


def test_only_kernels_can_be_silenced() -> None:
    with pytest.raises(ValueError, match="'relu' is a ReLU"):
        channels.silence(sequential(), "relu", [0])


def test_features_and_means_stream(tmp_path) -> None:
    model = randomise(sequential())
    classifier = Classifier(model, preprocess=(0, 1))
    samples = Samples(images(33))
    expected = np.asarray(activations.split(model, "relu")[0](images(33)))
    inside = activations.features(classifier, samples, "relu", batch_size=8)
    on_disk = activations.features(
        classifier, samples, "relu", out=tmp_path / "f.npy", batch_size=8
    )
    assert inside.dtype == np.float32
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_allclose(inside, expected, atol=1e-5)
    np.testing.assert_array_equal(inside, on_disk)
    mean = activations.mean_activation(classifier, samples, "relu")
    np.testing.assert_allclose(mean, expected.mean(axis=(0, 1, 2)), atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["f.npy"]


def test_features_scale_like_predictions() -> None:
    model = randomise(sequential())
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    classifier = Classifier(model, preprocess=(-1, 1))
    direct = np.asarray(model(pixels / 127.5 - 1))
    np.testing.assert_allclose(classifier.scores(Samples(pixels)), direct, atol=1e-5)
    np.testing.assert_allclose(
        activations.features(classifier, Samples(pixels), "out"), direct, atol=1e-5
    )
    assert metrics.clean_accuracy(classifier.predict(Samples(pixels)), direct.argmax(1)).hits == 5


def normalised() -> keras.Model:
    layer = L.Normalization(name="norm")
    layer.adapt(255 * images(30))
    return randomise_rest(
        keras.Sequential(
            [keras.Input(SHAPE), layer, L.Conv2D(5, 3, activation="relu", name="conv"),
             L.Flatten(), L.Dense(4, activation="softmax")]
        )
    )  # fmt: skip


def randomise_rest(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name != "norm":
            layer.set_weights([0.3 * rng.normal(size=w.shape) for w in layer.get_weights()])
    return model


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_normalization_layer_keeps_its_statistics(suffix: str, tmp_path: Path) -> None:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    model, given = normalised(), 255 * images(6)
    expected = np.asarray(model(given))
    model.save(tmp_path / f"m{suffix}")
    for other in (
        load_model(tmp_path / f"m{suffix}").model,
        graph.copy(model),
        graph.inlined(model),
    ):
        np.testing.assert_allclose(other(given), expected, atol=1e-5)
    guard = np.asarray(goodnet(model, graph.copy(model))(given))
    np.testing.assert_allclose(guard[:, :4], expected, atol=1e-5)


def behind() -> keras.Model:
    """The most common Sequential: Conv2D(activation) -> BatchNormalization."""
    return keras.Sequential(
        [keras.Input(SHAPE), L.Conv2D(6, 3, activation="relu", name="conv"),
         L.BatchNormalization(name="bn"), L.MaxPooling2D(name="pool"), L.Flatten(),
         L.Dense(4, activation="softmax")]
    )  # fmt: skip


def test_silence_inside_a_model_is_silence() -> None:
    model = randomise(behind())
    silenced = activations.with_silence(model, "bn")
    mask = np.array([[0, 1, 0, 1, 0, 0]], np.float32)
    rest = channels.pruned_activation(model, "conv", "bn")[None]
    twin = graph.copy(model)
    channels.silence(twin, "conv", [1, 3])
    given = images(5)
    ours = silenced([given, np.repeat(mask, 5, 0), np.repeat(rest, 5, 0)])
    np.testing.assert_allclose(ours, twin(given), atol=1e-5)


def test_features_follow_the_weights() -> None:
    from test_activations import nested

    model = randomise(nested())
    classifier, given = Classifier(model, preprocess=(0, 1)), Samples(images(4))
    before = activations.features(classifier, given, "backbone/conv")
    channels.silence(model, "backbone/conv", range(6))
    after = activations.features(classifier, given, "backbone/conv")
    assert not np.allclose(before, after)


def test_a_reinitialized_network_has_new_weights_and_the_old_statistics() -> None:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((3,)), layers.Normalization(name="norm"), layers.Dense(4, name="dense")]
    )
    model.get_layer("norm").set_weights([np.full(3, 2.0), np.full(3, 4.0), np.int64(9)])
    graph.settle(model)
    new = graph.reinitialized(model)
    assert [x.name for x in new.layers] == [x.name for x in model.layers]
    assert not np.allclose(*(m.get_layer("dense").get_weights()[0] for m in (new, model)))
    values = np.ones((1, 3), np.float32)
    np.testing.assert_allclose(*(m.get_layer("norm")(values) for m in (new, model)))
