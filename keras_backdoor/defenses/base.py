"""The base class of defenses."""

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
    """Raise `BadInput` if the model has a reject class already."""
    if model.reject_class is not None:
        raise BadInput("The model is a guard already: give the model that the guard was made from.")


def repaired(evidence: Evidence, model: Any, **parts: Any) -> RepairedModel:
    """A RepairedModel with the preprocessing and the reject class of the examined model.

    Args:
        evidence: the evidence of the run.
        model: the repaired `keras.Model`.
        **parts: further fields of the RepairedModel, which take precedence.
    """
    parts = {"reject_class": evidence.model.reject_class, **parts}
    return RepairedModel(model=model, preprocess=evidence.model.to_input, **parts)
