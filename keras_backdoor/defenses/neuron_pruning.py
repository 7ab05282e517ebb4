"""Neuron pruning: silence the neurons that the recovered trigger activates."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses, Plot, RepairedModel
from keras_backdoor.defenses._recovered_triggers import (
    RecoveredTrigger,
    Refinement,
    activation_gaps,
    median_norm,
    scan_notes,
    triggers_of,
)
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses.base import Evidence, Need, check_no_guard, repaired
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.errors import BadInput
from keras_backdoor.network import channels, graph, pruning
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp


def number_to_silence(success: np.ndarray, accuracy: np.ndarray, stop: float, drop: float) -> int:
    """The smallest number of silenced neurons for which the trigger no longer works.

    Args:
        success, accuracy: (m,) the success of the trigger and the clean accuracy with 0, 1, 2, …
            neurons silenced.
        stop: the accepted success of the trigger.
        drop: the accepted drop of the accuracy, relative to the accuracy before.

    Returns:
        The number of neurons. If the trigger always works at an accepted accuracy, it is the
        largest number with an accepted accuracy.

    >>> number_to_silence(np.array([1.0, 0.6, 0.0]), np.array([0.9, 0.9, 0.89]), 0.01, 0.05)
    2
    """
    allowed = pruning.number_to_prune(accuracy, drop)
    enough = np.flatnonzero(success[: allowed + 1] <= stop)
    return int(enough[0]) if len(enough) else allowed


@dataclass(frozen=True)
class NeuronPruning(Repair):
    """Silence the neurons that the recovered trigger activates most.

    Wang et al., Neural Cleanse, S&P 2019, section on mitigation: the neurons of the second to last
    layer are ranked by the gap between their mean activation on images with the recovered trigger
    and on clean images, and pruned until the model no longer responds to the recovered trigger.

    Args:
        layer: the path of the layer whose neurons are pruned. By default the last hidden dense
            layer.
        stop: the success of the recovered trigger at which the pruning stops.
        max_drop: the accepted drop of the accuracy, relative to the accuracy before.
        classes: the classes whose triggers rank the neurons. By default the flagged classes.
        refinement: the search for more triggers of the same class, which are combined and used
            beside the trigger of the scan. `refinement.searches=0` uses only the trigger of the
            scan, as in the paper.
        seed: the seed of the search for more triggers.

    Notes:
        With several triggers, the gap of a neuron is the largest gap of all triggers, and the
        success is the largest success of all triggers.
    """

    layer: str | None = None
    stop: float = 0.01
    max_drop: float = 0.05
    classes: tuple[int, ...] = ()
    refinement: Refinement = field(default_factory=Refinement)
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"), Need("found", answer=FlaggedClasses))
    measured_on: ClassVar[Any] = "all"
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019"

    def __post_init__(self) -> None:
        if not (0 <= self.stop < 1 and 0 <= self.max_drop < 1):
            raise BadInput(
                "stop and max_drop must lie in 0..1. "
                f"Received: stop={self.stop}, max_drop={self.max_drop}"
            )

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        model, clean, scan = evidence.model, evidence.clean, evidence.found(FlaggedClasses)
        check_no_guard(model)
        triggers = triggers_of(scan, model, self.classes)
        layer = self.layer or last_hidden(model.model)
        ranked_at = channels.after_activation(model.model, layer)
        labels, gaps, stamped = labels_of(model, clean), [], []
        for trigger in triggers:
            stamps = self._stamps(model, clean, trigger, median_norm(scan))
            affected = clean.subset(trigger.applies_to(labels))
            stamped += [affected.stamped(s).relabelled(trigger.target) for s in stamps]
            gaps.append(activation_gaps(model, affected, stamps, ranked_at))
        gap = np.concatenate(gaps).max(axis=0)
        order = np.argsort(-gap, kind="stable")
        accuracy, *successes = (
            pruning.accuracy_by_silenced(model, s, layer, ranked_at, order)
            for s in (clean, *stamped)
        )
        success = np.max(successes, axis=0)
        number = number_to_silence(success, accuracy, self.stop, self.max_drop)
        pruned = graph.copy(model.model)
        channels.silence(pruned, layer, order[:number])
        summary = {
            "layer": layer,
            "silenced neurons": f"{number} of {len(order)}",
            "recovered trigger": f"{success[0]:.2%} -> {success[number]:.2%}",
            "accuracy on the clean images": f"{accuracy[0]:.2%} -> {accuracy[number]:.2%}",
            **scan_notes(evidence, scan, triggers),
        }
        if success[number] > self.stop:
            summary["warning"] = "the recovered trigger still works: raise max_drop, or unlearn"
        history = {
            "order": order,
            "gap": gap,
            "accuracy": accuracy,
            "recovered_success": success,
            "pruned": np.array(number),
            "layer": np.array(layer),
        }
        plots = _plots(layer, number)
        return repaired(evidence, pruned, history=history, plots=plots, summary=summary)

    def _stamps(
        self, model: Classifier, clean: Samples, trigger: RecoveredTrigger, median: float
    ) -> list[Stamp]:
        """The trigger of the scan, and the combinations with more triggers of its class."""
        more, _ = self.refinement.search(model, clean, trigger, median_norm=median, seed=self.seed)
        combined = self.refinement.combined([trigger, *more])
        return [trigger.stamp, *(t.stamp for t in combined)]


def _plots(layer: str, number: int) -> tuple[Plot, ...]:
    return (
        Plot(
            title="Neurons",
            caption=f"How much more the recovered trigger activates the neurons of {layer}.",
            series={"with the recovered trigger less clean": "gap"},
            x_label=f"neuron of {layer}, largest gap first",
            y_label="gap in mean activation",
            kind="bars",
            order="order",
            marked=number,
            marked_label="silenced",
        ),
        Plot(
            title="Pruning",
            caption="Accuracy and success over the number of silenced neurons.",
            series={
                "accuracy on clean images": "accuracy",
                "success of the recovered trigger": "recovered_success",
            },
            x_label="silenced neurons",
            marked=number,
            marked_label="chosen from clean images alone",
        ),
    )


def last_hidden(model: object) -> str:
    """The path of the last hidden dense layer."""
    layers = channels.hidden_dense(model)
    if not layers:
        raise BadInput("The model has no hidden dense layer: name one with --set layer=NAME.")
    return layers[-1]
