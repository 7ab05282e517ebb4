"""Input filter: reject inputs that drive the neurons of the recovered trigger."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import FlaggedClasses, RepairedModel
from keras_backdoor.defenses._recovered_triggers import (
    activation_gaps,
    hold_out,
    scan_notes,
    triggers_of,
)
from keras_backdoor.defenses.base import Defense, Evidence, Need, check_no_guard, repaired
from keras_backdoor.defenses.goodnet import SHARPNESS, probabilities
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.defenses.neuron_pruning import last_hidden
from keras_backdoor.errors import BadInput
from keras_backdoor.network import channels, graph
from keras_backdoor.network.activations import features
from keras_backdoor.network.classifier import GUARD, Classifier


def suspicion(active: np.ndarray, neurons: np.ndarray) -> np.ndarray:
    """(n,) mean activation of some neurons.

    Wang et al., Neural Cleanse, S&P 2019, on filters for inputs.

    >>> suspicion(np.array([[1.0, 5.0, 3.0]]), np.array([1, 2]))
    array([4.])
    """
    return active[:, neurons].mean(axis=1)


@dataclass(frozen=True)
class InputFilter(Defense[RepairedModel]):
    """Reject an input whose mean activation of the trigger's neurons is higher than usual.

    Wang et al., Neural Cleanse, S&P 2019, on mitigation: the neurons of the second to last layer
    that the recovered trigger drives most (the paper: 1 % of them; 5 % here, as 1 % of 500 is too
    few to tell); an input is rejected when their mean activation is above a threshold. Here the
    threshold lets `rejected_clean` of held-out clean images be rejected.

    Args:
        layer: path of the layer; None is the last hidden dense layer.
        neurons: share of its neurons.
        rejected_clean: share of clean images that may be rejected.
        holdout: share of the clean images that the threshold is set on; the neurons are ranked
            on the others.
        classes: classes whose triggers count; none means the flagged ones.
        seed: of the parts.
    """

    layer: str | None = None
    neurons: float = 0.05
    rejected_clean: float = 0.05
    holdout: float = 0.5
    classes: tuple[int, ...] = ()
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"), Need("found", answer=FlaggedClasses))
    commands: ClassVar[tuple[str, ...]] = ("guard",)
    revision: ClassVar[int] = 2
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"

    def __post_init__(self) -> None:
        for name in ("neurons", "rejected_clean", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name} must lie between 0 and 1: {getattr(self, name)}")

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Method.run`."""
        model, clean, scan = evidence.model, evidence.clean, evidence.found(FlaggedClasses)
        check_no_guard(model)
        triggers = triggers_of(scan, model, self.classes)
        layer = self.layer or last_hidden(model.model)
        measured_at = channels.after_activation(model.model, layer)
        ranked, held = hold_out(clean, self.holdout, self.seed)
        labels, driven = labels_of(model, ranked), []
        for trigger in triggers:
            affected = ranked.subset(trigger.applies_to(labels))
            (gap,) = activation_gaps(model, affected, [trigger.stamp], measured_at)
            driven.append(np.argsort(-gap, kind="stable")[: max(1, round(self.neurons * len(gap)))])
        chosen = np.unique(driven)
        active = features(model, held, measured_at)
        if active.ndim != 2:
            raise BadInput(f"The filter needs a layer of (n, neurons); '{layer}' has maps.")
        threshold = float(np.quantile(suspicion(active, chosen), 1 - self.rejected_clean))
        guard = filtered(model, measured_at, chosen, threshold)
        summary = {
            "layer": layer,
            "neurons": f"{len(chosen)} of {len(gap)}",
            "threshold": f"{threshold:.4g}",
            "classes": f"{model.classes} and {model.classes}=rejected",
            **scan_notes(evidence, scan, triggers),
        }
        if len(held) * self.rejected_clean < 1:
            summary["warning"] = (
                f"{len(held)} held-out images do not tell where {self.rejected_clean:.1%} are "
                f"rejected: give {math.ceil(1 / self.rejected_clean / self.holdout)} clean images"
            )
        history = {"neurons": chosen, "threshold": np.array(threshold)}
        return repaired(
            evidence,
            guard,
            reject_class=model.classes,
            history=history,
            summary=summary,
        )


def filtered(model: Classifier, layer: str, neurons: np.ndarray, threshold: float) -> Any:
    """A model with N+1 outputs that rejects where the mean of the neurons is above a threshold.

    With a = 1 where it is above, else 0: [(1 - a) p(x), a]. Built-in layers only.
    """
    layers = keras.layers
    image = keras.Input(model.model.inputs[0].shape[1:], name="image")
    seen: list[Any] = []

    def watch(path: str, hidden: Any) -> Any:
        if path == layer:
            seen.append(hidden)
        return hidden

    scores = probabilities(model, graph.rebuild(model.model, image, watch), "filtered")
    mean = layers.Dense(1, name="guard.suspicion")
    above = layers.Rescaling(SHARPNESS, name="guard.sharp")(mean(seen[0]))
    reject = layers.ReLU(max_value=1.0, name="guard.reject")(above)
    accept = layers.Rescaling(-1.0, offset=1.0, name="guard.accept")(reject)
    accepted = layers.Multiply(name="guard.accepted")([scores, accept])
    guard = keras.Model(
        image, layers.Concatenate(name="guard.scores")([accepted, reject]), name=GUARD
    )
    kernel = np.zeros((seen[0].shape[-1], 1), np.float32)
    kernel[neurons] = 1.0 / len(neurons)
    mean.set_weights([kernel, np.array([-threshold], np.float32)])
    graph.settle(guard)
    return guard
