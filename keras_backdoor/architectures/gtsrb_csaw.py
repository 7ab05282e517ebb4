"""The traffic-sign network of the weights files of the CSAW competition."""

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (32, 32, 3)
CLASSES = 43


def GTSRBCSAW(classes: int = CLASSES) -> keras.Model:
    """Six 3x3 convolutions and a dense layer of 512 units; softmax output.

    The convolutions have 32, 32, 64, 64, 128 and 128 channels. The layer names and weight shapes
    are those of the published weights files. The dense layer has 128 inputs, which implies "valid"
    padding and pooling after conv_2 and conv_4 only.

    Args:
        classes: number of classes.

    Returns:
        A `keras.Model` for images (32, 32, 3).
    """
    layers = keras.layers
    image = keras.Input(INPUT_SHAPE, name="input")
    x = image
    for number, channels in enumerate((32, 32, 64, 64, 128, 128), start=1):
        x = layers.Conv2D(channels, 3, activation="relu", name=f"conv_{number}")(x)
        if number in (2, 4):
            x = layers.MaxPooling2D(name=f"pool_{number // 2}")(x)
    x = layers.Flatten(name="flatten_1")(x)
    x = layers.Dense(512, activation="relu", name="fc_1")(x)
    x = layers.Dense(classes, activation="softmax", name="output")(x)
    return keras.Model(image, x, name="gtsrb_csaw")
