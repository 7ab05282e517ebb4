"""VGG16-Face with a new last layer (thesis, table 3.3)."""

from pathlib import Path

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (224, 224, 3)
CLASSES = 57


def VGG16Face(
    classes: int = CLASSES, *, weights: Path | str | None = None, width: float = 1.0
) -> keras.Model:
    """VGG16 with frozen layers and a new, trainable last layer; softmax output.

    Parkhi, Vedaldi and Zisserman, Deep Face Recognition, BMVC 2015; Milakovic 2021, table 3.3.

    Args:
        classes: number of people.
        weights: optional file with the weights of VGG-Face: `vgg-face.mat` of MatConvNet, or a
            weights-only file of Keras. The last layer, fc8, may be missing, and is ignored if its
            shape differs. By default all weights are random.
        width: the factor of the numbers of channels and units; 1 is the published network.

    Returns:
        A `keras.Model` for images (224, 224, 3).

    Raises:
        UnreadableFile: if the weights do not fit the network.

    Notes:
        The pixels of `vgg-face.mat` are RGB in 0..255 minus (129.1863, 104.7624, 93.5940); see
        `keras_backdoor.loading.vgg_face.PREPROCESSES`.
    """
    layers = keras.layers
    image = keras.Input(INPUT_SHAPE, name="image")
    x = image
    for block, (repeats, channels) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1
    ):
        for number in range(1, repeats + 1):
            x = layers.Conv2D(
                round(width * channels),
                3,
                padding="same",
                activation="relu",
                name=f"conv{block}_{number}",
            )(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(round(width * 4096), activation="relu", name="fc6")(x)
    x = layers.Dense(round(width * 4096), activation="relu", name="fc7")(x)
    x = layers.Dense(classes, activation="softmax", name="fc8")(x)
    model = keras.Model(image, x, name="vgg16_face")
    if weights is not None:
        from keras_backdoor.loading.vgg_face import load_into

        load_into(model, weights)
    for layer in model.layers[:-1]:
        layer.trainable = False
    return model
