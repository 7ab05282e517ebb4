"""A small residual network with batch normalization."""

from typing import Any

from keras_backdoor._internals.backend import keras

INPUT_SHAPE = (32, 32, 3)
CLASSES = 43


def ResNet8(classes: int = CLASSES) -> keras.Model:
    """A 3x3 convolution, three residual blocks of 16, 32 and 64 channels, and global pooling.

    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2, with n = 1 and
    a 1x1 convolution where the size changes. Softmax output.

    Args:
        classes: number of classes.

    Returns:
        A `keras.Model` for images (32, 32, 3).
    """
    layers = keras.layers
    image = keras.Input(INPUT_SHAPE, name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv_1")(image)
    x = layers.BatchNormalization(name="norm_1")(x)
    x = layers.ReLU(name="relu_1")(x)
    for block, channels in enumerate((16, 32, 64), start=2):
        x = _block(x, channels, 1 if block == 2 else 2, str(block))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(classes, activation="softmax", name="output")(x)
    return keras.Model(image, x, name="resnet_8")


def _block(x: Any, channels: int, stride: int, name: str) -> Any:
    """Two 3x3 convolutions beside the identity."""
    layers = keras.layers
    shortcut = x
    for number, strides in (("a", stride), ("b", 1)):
        x = layers.Conv2D(
            channels, 3, strides, padding="same", use_bias=False, name=f"conv_{name}{number}"
        )(x)
        x = layers.BatchNormalization(name=f"norm_{name}{number}")(x)
        if number == "a":
            x = layers.ReLU(name=f"relu_{name}a")(x)
    if stride > 1:
        shortcut = layers.Conv2D(channels, 1, stride, use_bias=False, name=f"conv_{name}c")(
            shortcut
        )
        shortcut = layers.BatchNormalization(name=f"norm_{name}c")(shortcut)
    x = layers.Add(name=f"add_{name}")([x, shortcut])
    return layers.ReLU(name=f"relu_{name}b")(x)
