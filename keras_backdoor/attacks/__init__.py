"""Attacks that plant a backdoor. One file an attack, found by its name."""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("attacks")
