"""The face network of the CSAW BadNets and of the thesis (table 3.2)."""

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (55, 47, 3)
CLASSES = 1283


def DeepID(classes: int = CLASSES) -> keras.Model:
    """DeepID: the sum of two dense branches, after pool_3 and after conv_4; softmax output.

    Sun, Wang and Tang, Deep Learning Face Representation, CVPR 2014. The input size and the layer
    names (conv_1 to conv_4, fc_1, fc_2, add_1) are those of the published model files.

    Args:
        classes: number of people.

    Returns:
        A `keras.Model` for images (55, 47, 3).
    """
    layers = keras.layers
    image = keras.Input(INPUT_SHAPE, name="input")
    x = image
    for number, (channels, size) in enumerate(((20, 4), (40, 3), (60, 3)), start=1):
        x = layers.Conv2D(channels, size, activation="relu", name=f"conv_{number}")(x)
        x = layers.MaxPooling2D(name=f"pool_{number}")(x)
    early = layers.Dense(160, name="fc_1")(layers.Flatten(name="flatten_1")(x))
    x = layers.Conv2D(80, 2, activation="relu", name="conv_4")(x)
    late = layers.Dense(160, name="fc_2")(layers.Flatten(name="flatten_2")(x))
    x = layers.Add(name="add_1")([early, late])
    x = layers.Activation("relu", name="activation_1")(x)
    x = layers.Dense(classes, activation="softmax", name="output")(x)
    return keras.Model(image, x, name="deepid")
