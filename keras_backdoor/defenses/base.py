"""Defense: a method that finds, removes or guards against a backdoor."""

from dataclasses import dataclass
from typing import Any, TypeVar

from keras_backdoor.answers import Answer, RepairedModel
from keras_backdoor.errors import BadInput
from keras_backdoor.methods import Evidence, Method, Need
from keras_backdoor.network.classifier import Classifier

A = TypeVar("A", bound=Answer)

__all__ = ["Defense", "Evidence", "Need", "check_no_guard", "repaired"]


@dataclass(frozen=True)
class Defense(Method[A]):
    """A method that finds, removes or guards against a backdoor; see `Method`."""


def check_no_guard(model: Classifier) -> None:
    """Raise where a guard would be made of a guard."""
    if model.reject_class is not None:
        raise BadInput("The model is a guard already: its last class means rejected.")


def repaired(evidence: Evidence, model: Any, **parts: Any) -> RepairedModel:
    """A RepairedModel in the units of the examined model; a guard stays a guard."""
    parts = {"reject_class": evidence.model.reject_class, **parts}
    return RepairedModel(model=model, input_range=evidence.model.input_range or (0.0, 1.0), **parts)
