"""Methods that find, remove or guard against backdoors. One file a method, found by its name."""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("defenses")
