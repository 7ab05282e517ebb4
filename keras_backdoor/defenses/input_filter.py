"""Input filter: reject inputs that activate the neurons of the recovered trigger."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import FlaggedClasses, RepairedModel
from keras_backdoor.defenses._guards import probabilities, with_rejection
from keras_backdoor.defenses._recovered_triggers import (
    activation_gaps,
    hold_out,
    scan_notes,
    triggers_of,
)
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.defenses.neuron_pruning import last_hidden
from keras_backdoor.errors import BadInput
from keras_backdoor.network import channels, graph
from keras_backdoor.network.activations import features
from keras_backdoor.network.classifier import Classifier


def suspicion(active: np.ndarray, neurons: np.ndarray) -> np.ndarray:
    """The mean activation of the selected neurons for each input.

    Wang et al., Neural Cleanse, S&P 2019, section on filters for inputs.

    Args:
        active: (n, k) activations.
        neurons: (m,) indices of the selected neurons.

    Returns:
        (n,) mean activations.

    >>> suspicion(np.array([[1.0, 5.0, 3.0]]), np.array([1, 2]))
    array([4.])
    """
    return active[:, neurons].mean(axis=1)


@dataclass(frozen=True)
class InputFilter(Repair):
    """Reject an input that activates the neurons of the recovered trigger unusually strongly.

    Wang et al., Neural Cleanse, S&P 2019, section on mitigation: the filter watches the neurons of
    the second to last layer that the recovered trigger activates most, and rejects an input if
    their mean activation is above a threshold. The paper selects 1 % of the neurons; the default
    is 5 %, because 1 % of a layer of 500 neurons is too few. The threshold is set such that a share
    of `rejected_clean` of the held-out clean images is rejected.

    Args:
        layer: the path of the layer whose neurons are watched. By default the last hidden dense
            layer.
        neurons: the share of the neurons of the layer that is watched for each trigger.
        rejected_clean: the share of the held-out clean images that the filter rejects.
        holdout: the share of the clean images that the threshold is set on. The other images rank
            the neurons.
        classes: the classes whose triggers are filtered. By default the flagged classes.
        seed: the seed of the split of the clean images.
    """

    layer: str | None = None
    neurons: float = 0.05
    rejected_clean: float = 0.05
    holdout: float = 0.5
    classes: tuple[int, ...] = ()
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"), Need("found", answer=FlaggedClasses))
    measured_on: ClassVar[Any] = "own"
    commands: ClassVar[tuple[str, ...]] = ("guard",)
    revision: ClassVar[int] = 2
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"

    def __post_init__(self) -> None:
        for name in ("neurons", "rejected_clean", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(
                    f"{name} must lie between 0 and 1. Received: {name}={getattr(self, name)}"
                )

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        model, clean, scan = evidence.model, evidence.clean, evidence.found(FlaggedClasses)
        check_no_guard(model)
        triggers = triggers_of(scan, model, self.classes)
        layer = self.layer or last_hidden(model.model)
        measured_at = channels.after_activation(model.model, layer)
        ranked, held = hold_out(clean, self.holdout, self.seed)
        labels, activated = labels_of(model, ranked), []
        for trigger in triggers:
            affected = ranked.subset(trigger.applies_to(labels))
            (gap,) = activation_gaps(model, affected, [trigger.stamp], measured_at)
            order = np.argsort(-gap, kind="stable")
            activated.append(order[: max(1, round(self.neurons * len(gap)))])
        chosen = np.unique(activated)
        active = features(model, held, measured_at)
        if active.ndim != 2:
            raise BadInput(
                f"The filter needs a layer of output shape (n, neurons): '{layer}' has feature "
                "maps, name a dense layer with --set layer=NAME."
            )
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
                f"{len(held)} held-out images are too few for a threshold that rejects "
                f"{self.rejected_clean:.1%} of them: "
                f"give {math.ceil(1 / self.rejected_clean / self.holdout)} clean images"
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
    """Add an output to a model that rejects inputs by the mean activation of some neurons.

    With a = 1 if the mean activation is above the threshold, else a = 0, the outputs are
    [(1 - a) p(x), a], where p(x) are the probabilities of the model.

    Args:
        model: the model, N classes.
        layer: the path of the layer whose neurons are watched.
        neurons: (m,) indices of the watched neurons.
        threshold: the largest mean activation that is accepted.

    Returns:
        A new `keras.Model` of built-in layers with N+1 outputs.
    """
    image = keras.Input(model.model.inputs[0].shape[1:], name="image")
    watched: list[Any] = []

    def watch(path: str, hidden: Any) -> Any:
        if path == layer:
            watched.append(hidden)
        return hidden

    scores = probabilities(model, graph.rebuild(model.model, image, watch), "filtered")
    mean = keras.layers.Dense(1, use_bias=False, name="guard.suspicion")
    guard = with_rejection(image, scores, mean(watched[0]), threshold)
    kernel = np.zeros((watched[0].shape[-1], 1), np.float32)
    kernel[neurons] = 1.0 / len(neurons)
    mean.set_weights([kernel])
    graph.settle(guard)
    return guard
