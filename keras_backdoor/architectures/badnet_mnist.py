"""The MNIST network of the single-pixel backdoor notebook (30,330 parameters)."""

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (28, 28, 1)
CLASSES = 10


def BadNetMNIST(classes: int = CLASSES) -> keras.Model:
    """Two convolutions, a dense layer of 16 units and dropout; softmax output.

    Args:
        classes: number of classes.

    Returns:
        A `keras.Model` for images (28, 28, 1).
    """
    layers = keras.layers
    image = keras.Input(INPUT_SHAPE, name="image")
    x = layers.Conv2D(16, 5, padding="same", activation="relu", name="conv_1")(image)
    x = layers.MaxPooling2D(name="pool_1")(x)
    x = layers.Dropout(0.25, name="drop_1")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(name="pool_2")(x)
    x = layers.Dropout(0.25, name="drop_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(16, activation="relu", name="fc_1")(x)
    x = layers.Dropout(0.5, name="drop_3")(x)
    x = layers.Dense(classes, activation="softmax", name="output")(x)
    return keras.Model(image, x, name="badnet_mnist")
