"""Network architectures of published experiments: one file per network, looked up by name.

Each file defines a function that builds a `keras.Model`, named as in `keras.applications`.
"""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("architectures")
