"""Images with labels and provenance, in memory or on disk."""

from keras_backdoor.samples.base import MEMORY_LIMIT, Samples

__all__ = ["MEMORY_LIMIT", "Samples"]
