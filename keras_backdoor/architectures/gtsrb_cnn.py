"""The traffic-sign network of the thesis (table 3.1) and of Neural Cleanse."""

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (32, 32, 3)
CLASSES = 43


def GTSRBCNN(classes: int = CLASSES) -> keras.Model:
    """Three pairs of 3x3 convolutions and a dense layer of 512 units; softmax output.

    Milakovic, TU Wien 2021, table 3.1; Wang et al., S&P 2019. The pairs have 32, 64 and 128
    channels. The tables specify neither padding nor dropout. Here, the padding is "same" for the
    first and "valid" for the second convolution of a pair, and the dropout rate is 0.2 after each
    pooling layer and 0.5 after the dense layer.

    Args:
        classes: number of classes.

    Returns:
        A `keras.Model` for images (32, 32, 3).
    """
    layers = keras.layers
    image = keras.Input(INPUT_SHAPE, name="image")
    x = image
    for block, channels in enumerate((32, 64, 128), start=1):
        first, second = 2 * block - 1, 2 * block
        x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv_{first}")(x)
        x = layers.Conv2D(channels, 3, activation="relu", name=f"conv_{second}")(x)
        x = layers.MaxPooling2D(name=f"pool_{block}")(x)
        x = layers.Dropout(0.2, name=f"drop_{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(512, activation="relu", name="fc_1")(x)
    x = layers.Dropout(0.5, name="drop_4")(x)
    x = layers.Dense(classes, activation="softmax", name="output")(x)
    return keras.Model(image, x, name="gtsrb_cnn")
