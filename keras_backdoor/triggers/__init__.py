"""What an attacker puts on an image. One file a trigger, found by its name."""

from keras_backdoor._internals.discovery import attribute_loader
from keras_backdoor.triggers._parse import PRESETS, parse

__all__ = ["PRESETS", "parse"]

__getattr__, __dir__ = attribute_loader("triggers")
