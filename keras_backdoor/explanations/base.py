"""Explanation: a method that shows where in an image a decision comes from."""

from dataclasses import dataclass
from typing import TypeVar

from keras_backdoor.answers import Answer
from keras_backdoor.methods import Evidence, Method, Need

A = TypeVar("A", bound=Answer)

__all__ = ["Evidence", "Explanation", "Need"]


@dataclass(frozen=True)
class Explanation(Method[A]):
    """A method that shows where in an image a decision comes from; see `Method`."""
