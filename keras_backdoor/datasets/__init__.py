"""Layouts of data files.

Every layout is a module with `FORM`, `ENDINGS`, `matches`, `read` and `write`.
"""

from keras_backdoor.datasets.base import check_copy, copy_without, open, order_when_read, save

__all__ = ["check_copy", "copy_without", "open", "order_when_read", "save"]
