"""The answers that methods return. Each file defines one kind and is discovered by its name."""

from keras_backdoor._internals.discovery import attribute_loader
from keras_backdoor.answers._plots import Plot
from keras_backdoor.answers.base import Answer, load_answer

__all__ = ["Answer", "Plot", "load_answer"]

__getattr__, __dir__ = attribute_loader("answers")
