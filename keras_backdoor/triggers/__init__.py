"""What an attacker puts on an image. One file a trigger, found by its name."""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("triggers")
