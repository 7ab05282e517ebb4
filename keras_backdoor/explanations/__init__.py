"""Where in a picture the decision comes from. One file a method, found by its name."""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("explanations")
