"""The traffic-sign network of the CSAW competition's weights."""

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (32, 32, 3)
CLASSES = 43


def GTSRBCSAW(classes: int = CLASSES) -> keras.Model:
    """Six valid 3x3 convolutions (32, 32, 64, 64, 128, 128), two pools, a dense layer of 512.

    The layer names and weight shapes are those of the published weights files: 128 values reach
    the dense layer, which fits valid padding and a pool after conv_2 and conv_4 only.

    Args:
        classes: number of classes.
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
