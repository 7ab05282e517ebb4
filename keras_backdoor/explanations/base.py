"""The base class of explanations."""

from dataclasses import dataclass
from typing import TypeVar

from keras_backdoor.answers import Answer
from keras_backdoor.methods import Evidence, Method, Need

A = TypeVar("A", bound=Answer)

__all__ = ["Evidence", "Explanation", "Need"]


@dataclass(frozen=True)
class Explanation(Method[A]):
    """A method that shows which pixels of an image a decision depends on; see `Method`."""
