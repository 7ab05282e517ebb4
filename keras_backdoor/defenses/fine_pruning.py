"""Fine-pruning: delete the channels that clean images activate least, then fine-tune."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor.answers import Plot, RepairedModel
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.base import Evidence, Need, repaired
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate, clean_accuracy
from keras_backdoor.network import channels, graph, pruning
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.surgery import Unsupported, delete_channels
from keras_backdoor.network.units import at_chance

Stop = Literal["within", "crossed", "before-next"]


def number_by_rule(
    accuracy: np.ndarray, stop: Stop, drop: float, thresholds: tuple[float, ...]
) -> int:
    """The number of channels to prune for a drop of the accuracy.

    Args:
        accuracy: (n,) accuracy with 0, 1, …, n - 1 silenced channels.
        stop: the rule, see `FinePruning`.
        drop: the drop, relative to the accuracy without silenced channels.
        thresholds: all drops, in increasing order.

    >>> curve = np.array([1.0, 0.99, 0.97, 0.95, 0.99, 0.80])
    >>> [number_by_rule(curve, r, 0.02, (0.02, 0.1)) for r in ("within", "crossed", "before-next")]
    [1, 2, 3]
    """
    if stop == "within":
        return pruning.number_to_prune(accuracy, drop)
    first = pruning.first_past(accuracy, drop)
    later = [t for t in thresholds if t > drop]
    if stop == "crossed" or not later:
        return first
    dropped = (accuracy[0] - accuracy[: pruning.first_past(accuracy, max(later))]) / accuracy[0]
    between = np.flatnonzero((dropped >= drop) & (dropped < min(later)))
    return int(between[-1]) if len(between) else first


@dataclass(frozen=True)
class FinePruning(Repair):
    """Delete channels in the order of their mean activation on clean images, then fine-tune.

    Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018: the backdoor uses channels that are
    inactive on clean images. Channels are silenced one by one, starting with the least active, and
    the accuracy on the clean images is measured after each. The channels up to the accepted drop
    are deleted with kerassurgeon, and the smaller network is fine-tuned on the clean images.

    Args:
        layer: the path of the pruned layer, `last` or `second-last` for the last or the second to
            last convolution (hidden dense layer, in a network without convolutions).
        stop: which number of channels belongs to a drop. `within` is the largest number before the
            accuracy falls by more. `crossed` is the first number with which it has fallen by so
            much. `before-next` is the last number before the next of the `thresholds` is crossed,
            which is what the CSAW notebook saves.
        max_drop: the drop of the accuracy, relative to the accuracy before.
        thresholds: the drops, in increasing order, for which the number of channels is reported.
        count: a fixed number of channels, instead of a drop.
        rank_after: the output that ranks the channels. `activation` is the output of the activation
            function, and `pool` that of the pooling layer after it, as in the CSAW notebook.
        tuning: the fine-tuning; `tuning.steps=0` leaves it out, as in the CSAW notebook.
        seed: the seed of the fine-tuning.

    Notes:
        The paper does not give the length and the rate of the fine-tuning; the defaults are those
        of this package. If the clean images have no labels, the accuracy is the agreement with the
        examined model, which also labels the images of the fine-tuning. At least one channel is
        kept. Where kerassurgeon cannot delete the channels, they are set to zero.
    """

    layer: str = "last"
    stop: Stop = "within"
    max_drop: float = 0.04
    thresholds: tuple[float, ...] = (0.02, 0.04, 0.06, 0.1)
    count: int | None = None
    rank_after: Literal["activation", "pool"] = "activation"
    tuning: Tuning = field(default_factory=lambda: Tuning(steps=500, averaged=0.0))
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018"
    revision: ClassVar[int] = 2
    caveats: ClassVar[tuple[str, ...]] = (
        "Fine-pruning works on backdoors that have channels of their own, which many have not.",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise BadInput(f"max_drop must lie in 0..1. Received: max_drop={self.max_drop}")
        for name in ("stop", "rank_after"):
            known = {"stop": ("within", "crossed", "before-next")}.get(name, ("activation", "pool"))
            if getattr(self, name) not in known:
                raise BadInput(
                    f"{name} must be {', '.join(known[:-1])} or {known[-1]}. "
                    f"Received: {name}={getattr(self, name)}"
                )
        if list(self.thresholds) != sorted({t for t in self.thresholds if 0 <= t < 1}):
            raise BadInput(
                f"thresholds must lie in 0..1 and increase. Received: thresholds={self.thresholds}"
            )
        if self.count is not None and self.count < 0:
            raise BadInput(f"count must be 0 or more. Received: count={self.count}")

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        model, clean = evidence.model, evidence.clean
        layer = pruning.named_layer(model.model, self.layer)
        ranked_at = channels.after_activation(model.model, layer, pool=self.rank_after == "pool")
        swept = evidence.part("sweep", lambda: pruning.sweep(model, clean, layer, ranked_at))
        start = Rate(round(swept["accuracy"][0] * len(clean)), len(clean))
        if clean.labels is not None and at_chance(start, clean.labels, model.classes):
            raise BadInput(
                f"The model is right on {start:.1%} of the clean images, which is no better than "
                "chance: check --preprocess, or pass --unlabelled (labels=None) if the labels are "
                "not the model's classes."
            )
        number, numbers = self._numbers(swept["accuracy"], layer)
        pruned, how = _without(model.model, layer, swept["order"][:number])
        after = swept["accuracy"][number]
        summary = {
            "layer": layer,
            f"{how} channels": f"{number} of {len(swept['order'])}",
            "accuracy on the clean images": f"{swept['accuracy'][0]:.2%} -> {after:.2%}",
            "parameters": f"{model.model.count_params():,} -> {pruned.count_params():,}",
        }
        history = {
            **swept,
            "pruned": np.array(number),
            "layer": np.array(layer),
            "thresholds": np.array(self.thresholds),
            "numbers": np.array(numbers, int),
        }
        if self.tuning.steps:
            shape = Classifier(pruned, model.to_input)
            tuned, trained = self.tuning.tuned(evidence, "tuning", self.seed, model=shape)
            pruned = tuned.model
            history |= {f"tuning_{name}": values for name, values in trained.items()}
            rate = clean_accuracy(tuned.predict(clean), labels_of(model, clean))
            summary["accuracy on them, fine-tuned"] = f"{rate:.2%}"
        return repaired(
            evidence,
            pruned,
            history=history,
            plots=_plots(layer, number, how),
            summary=summary,
            inconclusive=self._too_few(len(clean)),
        )

    def _numbers(self, accuracy: np.ndarray, layer: str) -> tuple[int, list[int]]:
        """The number of pruned channels, and that of each of the thresholds."""

        def number(drop: float) -> int:
            return number_by_rule(accuracy, self.stop, drop, self.thresholds)

        if self.count is not None and self.count >= len(accuracy):
            raise BadInput(
                f"'{layer}' has {len(accuracy)} channels, and at least one is kept. Received: "
                f"count={self.count}"
            )
        chosen = number(self.max_drop) if self.count is None else self.count
        return chosen, [number(drop) for drop in self.thresholds]

    def _too_few(self, images: int) -> str:
        """Why so many images cannot show the accepted drop; empty if they can."""
        needed = math.ceil(2 / self.max_drop) if self.max_drop else 0
        if self.count is not None or images >= needed:
            return ""
        return (
            f"{images} clean images are too few to judge a drop of the accuracy by "
            f"{self.max_drop:.0%}, for which at least {needed} are needed"
        )


def _without(model: Any, layer: str, chosen: np.ndarray) -> tuple[Any, str]:
    """A copy of a model without some channels, and whether they were deleted or silenced."""
    try:
        return delete_channels(model, layer, chosen), "deleted"
    except Unsupported:
        pruned = graph.copy(model)
        channels.silence(pruned, layer, chosen)
        return pruned, "silenced"


def _plots(layer: str, number: int, how: str) -> tuple[Plot, ...]:
    channels_of = f"channel of {layer}, least active first"
    chosen = "chosen from clean images alone"
    return (
        Plot(
            title="Channels",
            caption=f"Mean activation of the channels of {layer}.",
            series={"clean images": "activation"},
            x_label=channels_of,
            y_label="mean activation",
            kind="bars",
            order="order",
            marked=number,
            marked_label=how,
        ),
        Plot(
            title="Pruning",
            caption="Accuracy over the number of silenced channels.",
            series={"accuracy on clean images": "accuracy"},
            x_label="silenced channels",
            marked=number,
            marked_label=chosen,
        ),
    )
