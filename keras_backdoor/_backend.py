"""The one place that imports TensorFlow and Keras, and checks that they fit together."""

import os

from keras_backdoor.errors import BadInput

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise BadInput(
        "keras_backdoor needs the TensorFlow backend of Keras: unset KERAS_BACKEND or set it to "
        f"'tensorflow'. Received: KERAS_BACKEND={os.environ['KERAS_BACKEND']}"
    )

import keras
import tensorflow as tf

if keras.config.backend() != "tensorflow":
    raise BadInput(
        "keras_backdoor needs the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow. "
        f"Received: backend={keras.config.backend()}"
    )

__all__ = ["keras", "tf"]
