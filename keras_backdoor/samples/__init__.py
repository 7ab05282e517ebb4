"""Images with labels and provenance."""

from keras_backdoor.samples.base import MEMORY_LIMIT, Samples

__all__ = ["MEMORY_LIMIT", "Samples"]
