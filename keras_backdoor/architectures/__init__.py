"""Networks of the published experiments. One file a network, found by its name.

Each is a function that builds a `keras.Model`, named as in `keras.applications`.
"""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("architectures")
