"""Layouts of data files. One file a layout: `FORM`, `matches`, `read` and `write`."""

from keras_backdoor.datasets.base import open, save

__all__ = ["open", "save"]
