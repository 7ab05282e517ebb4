"""Layouts of data files.

Every layout is a module with `FORM`, `ENDINGS`, `matches`, `read` and `write`.
"""

from keras_backdoor.datasets.base import copy_without, open, save

__all__ = ["copy_without", "open", "save"]
