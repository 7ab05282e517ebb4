"""Backdoor triggers, the image changes with which an attacker activates a backdoor.

Every trigger is a module of this package and is discovered by its name.
"""

from keras_backdoor._internals.discovery import attribute_loader
from keras_backdoor.triggers._parse import PRESETS, parse

__all__ = ["PRESETS", "parse"]

__getattr__, __dir__ = attribute_loader("triggers")
