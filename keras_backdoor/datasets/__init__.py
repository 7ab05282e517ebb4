"""Layouts of data files. One file a layout: `FORM`, `matches`, `read` and `write`."""

from keras_backdoor.datasets.base import copy_without, open, save

__all__ = ["copy_without", "open", "save"]
