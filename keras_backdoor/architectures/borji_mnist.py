"""The MNIST network of the bias maps of Borji (figure 23)."""

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (28, 28, 1)
CLASSES = 10


def BorjiMNIST(classes: int = CLASSES) -> keras.Model:
    """Two 5x5 convolutions with 20 and 50 channels, a dense layer of 500 units; logits output.

    Borji, Adversarial examples are useful too!, 2020, figure 23.

    Args:
        classes: number of classes.

    Returns:
        A `keras.Model` for images (28, 28, 1).
    """
    layers = keras.layers
    image = keras.Input(INPUT_SHAPE, name="image")
    x = layers.Conv2D(20, 5, activation="relu", name="conv_1")(image)
    x = layers.MaxPooling2D(name="pool_1")(x)
    x = layers.Conv2D(50, 5, activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(name="pool_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", name="fc_1")(x)
    x = layers.Dense(classes, name="output")(x)
    return keras.Model(image, x, name="borji_mnist")
