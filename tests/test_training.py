"""Training: a seed makes it again, a kill loses nothing, recipes are the published ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keras_backdoor import training
from keras_backdoor._internals import typed_settings
from keras_backdoor._internals.backend import keras
from keras_backdoor.architectures import BadNetMNIST
from keras_backdoor.defenses import Retrain
from keras_backdoor.defenses._retraining import chosen_recipe
from keras_backdoor.loading import cards, load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import PRESETS, MeanWeights, Recipe, fit, recipe


@pytest.fixture(scope="module")
def digits(clean: Samples) -> Samples:
    return clean.take(600, seed=2).in_memory()


def weights(model) -> np.ndarray:
    return np.concatenate([w.ravel() for w in model.get_weights()])


def test_it_learns(clean: Samples, test_images: Samples) -> None:
    classifier, history = fit(
        BadNetMNIST, clean, Recipe(epochs=4, batch_size=32), validation=test_images
    )
    assert history["loss"][-1] < history["loss"][0]
    assert history["validation_accuracy"][-1] > 0.85
    assert len(history["accuracy"]) == 4
    right = (classifier.predict(test_images) == test_images.labels).mean()
    assert history["validation_accuracy"][-1] == pytest.approx(right)


def test_the_seed_makes_it_again(digits: Samples) -> None:
    first, same, other = (
        weights(fit(BadNetMNIST, digits, Recipe(epochs=1, seed=s))[0].model) for s in (0, 0, 1)
    )
    np.testing.assert_allclose(first, same, atol=1e-6)
    assert not np.allclose(first, other, atol=1e-3)


class Killed(Exception):
    pass


def test_a_killed_training_goes_on(digits: Samples, tmp_path: Path, monkeypatch) -> None:
    plan = Recipe(epochs=3, batch_size=64)
    whole, history = fit(BadNetMNIST, digits, plan)
    checkpoint = tmp_path / "c.npz"
    store, epochs = training._store, []

    def killing(*arguments: object) -> None:
        store(*arguments)  # type: ignore[arg-type]
        epochs.append(1)
        if len(epochs) == 2:
            raise Killed

    monkeypatch.setattr(training, "_store", killing)
    with pytest.raises(Killed):
        fit(BadNetMNIST, digits, plan, checkpoint=checkpoint)
    resumed, again = fit(BadNetMNIST, digits, plan, checkpoint=checkpoint)
    assert len(epochs) == 3
    np.testing.assert_allclose(weights(whole.model), weights(resumed.model), atol=1e-5)
    assert again["loss"] == pytest.approx(history["loss"], abs=1e-5)


def test_it_ends_when_it_is_told_to(digits: Samples) -> None:
    seen: list[float] = []

    def until(classifier: Classifier) -> bool:
        seen.append(float(np.abs(classifier.model.get_weights()[0]).sum()))
        return len(seen) == 2

    trained, history = fit(BadNetMNIST, digits, Recipe(epochs=5, batch_size=64), until=until)
    assert len(history["loss"]) == len(seen) == 2
    assert seen[0] != seen[1] == float(np.abs(trained.model.get_weights()[0]).sum())


def test_the_mean_of_the_weights() -> None:
    model = Classifier(keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()]), None)
    model.model.add(keras.layers.Dense(2, use_bias=False))
    mean = MeanWeights()
    for value in (1.0, 2.0, 6.0):
        model.model.set_weights([np.full((4, 2), value)])
        assert not mean.add(model)
    mean.put(model)
    assert (model.model.get_weights()[0] == 3.0).all()


def test_a_checkpoint_of_something_else_is_refused(digits: Samples, tmp_path: Path) -> None:
    fit(BadNetMNIST, digits, Recipe(epochs=1), checkpoint=tmp_path / "c.npz")
    with pytest.raises(ValueError, match="another recipe, network, range or data"):
        fit(BadNetMNIST, digits, Recipe(epochs=1, seed=1), checkpoint=tmp_path / "c.npz")


def test_a_sparse_recipe_makes_channels_silent(digits: Samples) -> None:
    from keras_backdoor.network.activations import mean_activation

    means = []
    for penalty in (0.0, 1e-2):
        classifier, _ = fit(BadNetMNIST, digits, Recipe(epochs=2, activity_l1=penalty))
        means.append(mean_activation(classifier, digits, "conv_1").mean())
    assert means[1] < 0.5 * means[0]


def test_binary_models_train(digits: Samples) -> None:
    two = Samples(digits.read(), (digits.labels >= 5).astype(int))
    for activation in ("sigmoid", None):
        model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(1, activation=activation),
            ]
        )
        _, history = fit(model, two, Recipe(epochs=3))
        assert history["accuracy"][-1] > 0.7


def test_a_recipe_as_a_setting() -> None:
    """The name of a preset, or single settings of the default recipe."""
    build = typed_settings.build
    assert build(Retrain, {}).recipe is None
    assert build(Retrain, {"recipe": "thesis-deepid"}).recipe == PRESETS["thesis-deepid"]
    assert build(Retrain, {"recipe.epochs": "3"}).recipe == Recipe(epochs=3)
    changed = build(Retrain, {"recipe": "thesis-deepid", "recipe.epochs": "3"}).recipe
    assert changed == replace(PRESETS["thesis-deepid"], epochs=3)
    assert build(Retrain, {"recipe": "none"}).recipe is None
    with pytest.raises(ValueError, match="There is no recipe 'mine'; there are: thesis-gtsrb"):
        build(Retrain, {"recipe": "mine"})


def test_the_recipe_of_a_card(digits: Samples, tmp_path: Path) -> None:
    model = Classifier(BadNetMNIST(), (0, 1))
    assert chosen_recipe(model, None)[1].endswith("because the model has no card")
    recipe = Recipe(epochs=7, optimizer="sgd", learning_rate=0.5)
    cards.write(tmp_path / "net.h5", model, {"recipe": typed_settings.as_dict(recipe)})
    loaded = load_model(tmp_path / "net.h5")
    found, text = chosen_recipe(loaded, None)
    assert found == recipe
    assert text.endswith("from the card of the model")
    assert chosen_recipe(loaded, Recipe())[0] == Recipe()
    (tmp_path / "net.json").write_text('{"recipe": {"rate": 1}}')
    assert chosen_recipe(loaded, None)[0] == Recipe()


def test_presets_are_table_3_4() -> None:
    published = json.loads((Path(__file__).parent / "thesis_recipes.json").read_text())
    for name, row in published.items():
        made = PRESETS[name]
        assert (made.epochs, made.batch_size, made.optimizer, made.learning_rate) == tuple(row)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": "0"}, "epochs must be 1 or more"),
        ({"batch_size": "0"}, "batch_size must be 1 or more"),
        ({"learning_rate": "0"}, "learning_rate must be above 0"),
        ({"optimizer": "magic"}, "must be one of adam"),
        ({"nope": "1"}, "no setting 'nope'"),
        ({"epochs": "many"}, "must be a int"),
    ],
)
def test_bad_recipes_are_one_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(None, settings)


def test_bad_input_is_one_sentence(digits: Samples) -> None:
    with pytest.raises(ValueError, match="There is no recipe 'nope'"):
        recipe("nope")
    with pytest.raises(ValueError, match="have no labels"):
        fit(BadNetMNIST, digits.unlabelled(), Recipe())
    with pytest.raises(
        ValueError, match=r"must lie in 0\.\.2, the classes of the model\. Received: label 9"
    ):
        fit(lambda: BadNetMNIST(3), digits, Recipe())
    with pytest.raises(ValueError, match="diverged"):
        fit(BadNetMNIST, digits, Recipe(epochs=1, optimizer="sgd", learning_rate=1e9))
    dense = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    with pytest.raises(ValueError, match="needs a convolution"):
        fit(dense, digits, Recipe(activity_l1=1.0))


def test_the_optimizer_is_the_named_one() -> None:
    names = {n: type(Recipe(optimizer=n).make_optimizer()).__name__ for n in
             ("adam", "adadelta", "rmsprop", "sgd")}  # type: ignore[arg-type]  # fmt: skip
    assert names == {"adam": "Adam", "adadelta": "Adadelta", "rmsprop": "RMSprop", "sgd": "SGD"}


def test_a_checkpoint_of_another_range_or_net_is_refused(clean, tmp_path) -> None:
    from keras_backdoor.architectures import BadNetMNIST, BorjiMNIST
    from keras_backdoor.training import Recipe, fit

    few, path = clean.take(100), tmp_path / "c.npz"
    fit(BadNetMNIST, few, Recipe(epochs=1), checkpoint=path)
    for build, bounds in ((BadNetMNIST, (0, 255)), (BorjiMNIST, (0, 1))):
        with pytest.raises(ValueError, match="checkpoint of another recipe, network, range"):
            fit(build, few, Recipe(epochs=2), checkpoint=path, preprocess=bounds)


def test_the_average_is_that_of_the_last_epochs(digits: Samples, monkeypatch) -> None:
    monkeypatch.setattr(training, "AVERAGED_EVERY", 1)
    few, seen = digits.take(64, seed=0), []
    whole, _ = fit(BadNetMNIST, few, Recipe(epochs=4, batch_size=64), averaged=2)

    def watch(classifier: Classifier) -> bool:
        seen.append(weights(classifier.model))
        return False

    last, _ = fit(BadNetMNIST, few, Recipe(epochs=4, batch_size=64), until=watch)
    np.testing.assert_allclose(weights(whole.model), (seen[2] + seen[3]) / 2, atol=1e-6)
    np.testing.assert_array_equal(weights(last.model), seen[3])


def test_images_are_augmented_in_0_to_1_with_a_seed_of_their_own(digits: Samples) -> None:
    from keras_backdoor._internals.backend import tf

    shown, seeds = [], []

    def augment(images, labels, seed):
        def keep(images, labels, seed):
            shown.append((images.numpy(), labels.numpy()))
            seeds.append(tuple(seed.numpy()))
            return images

        kept = tf.py_function(keep, [images, labels, seed], tf.float32)
        return tf.ensure_shape(kept, images.shape)

    fit(BadNetMNIST, digits.take(100, seed=0), Recipe(epochs=3, batch_size=50, seed=7),
        augment=augment)  # fmt: skip
    assert seeds == [(7, number) for number in range(6)]
    images = np.concatenate([x for x, _ in shown])
    assert images.min() == 0 and images.max() == 1
    first, second = (np.concatenate([y for _, y in shown[i : i + 2]]) for i in (0, 2))
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)


def test_an_objective_gets_all_versions_of_the_images(digits: Samples) -> None:
    class Second(training.Objective):
        def losses(self, pixels, labels):
            _, second = pixels
            return super().losses(second, labels)

    def augment(images, labels, seed):
        return 1.0 - images, images

    few, plan = digits.take(60, seed=0), Recipe(epochs=2, batch_size=30)
    plain, history = fit(BadNetMNIST, few, plan)
    other, same = fit(BadNetMNIST, few, plan, augment=augment, objective=Second)
    np.testing.assert_allclose(weights(plain.model), weights(other.model), atol=1e-6)
    assert history["accuracy"] == same["accuracy"]
