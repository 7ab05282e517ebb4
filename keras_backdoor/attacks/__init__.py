"""Attacks that plant a backdoor: one file per attack, looked up by name."""

from keras_backdoor._internals.discovery import attribute_loader

__getattr__, __dir__ = attribute_loader("attacks")
