"""Explanations of decisions. Each file defines one method and is discovered by its name."""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("explanations")
