"""Layouts of data files. One file a layout, found by its name."""

from keras_backdoor._discovery import attribute_loader
from keras_backdoor.datasets.base import open, save

__all__ = ["open", "save"]

__getattr__, __dir__ = attribute_loader("datasets")
