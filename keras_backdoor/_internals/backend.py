"""Import TensorFlow and Keras, and check that Keras uses the TensorFlow backend."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from keras_backdoor.errors import BadInput

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise BadInput(
        "keras_backdoor needs the TensorFlow backend of Keras: unset KERAS_BACKEND or set it to "
        f"'tensorflow'. Received: KERAS_BACKEND={os.environ['KERAS_BACKEND']}"
    )


@contextmanager
def _silent_start() -> Iterator[None]:
    """Suppress the messages on GPU drivers that TensorFlow writes before logging is configured."""
    sys.stderr.flush()
    original = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(null)


with _silent_start() if os.environ.get("KERAS_BACKDOOR_QUIET") else nullcontext():
    import keras
    import tensorflow as tf

    if os.environ.get("KERAS_BACKDOOR_QUIET"):
        tf.zeros(1)

if keras.config.backend() != "tensorflow":
    raise BadInput(
        "keras_backdoor needs the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow. "
        f"Received: backend={keras.config.backend()}"
    )


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Suppress the messages that TensorFlow and Keras log while they save a model."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__all__ = ["keras", "quiet_logs", "tf"]
