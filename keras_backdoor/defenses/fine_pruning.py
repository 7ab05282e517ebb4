"""Fine-pruning: silence the channels that clean images activate least."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from keras_backdoor.answers import Plot, RepairedModel
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses.base import Evidence, Need, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate
from keras_backdoor.network import channels, graph
from keras_backdoor.network.pruning import default_layer, number_to_prune, sweep
from keras_backdoor.network.units import at_chance


@dataclass(frozen=True)
class FinePruning(Repair):
    """Silence channels in the order of their mean activation on clean images.

    Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018: the backdoor uses channels that are
    inactive on clean images. Channels are silenced one by one, starting with the least active, as
    long as the accuracy on the clean images falls by at most `max_drop`.

    Args:
        layer: the path of the pruned layer. By default the last convolution, as in the paper, or
            the last hidden dense layer of a network without a convolution.
        max_drop: the accepted drop of the accuracy, relative to the accuracy before.
        rank_after: the output that ranks the channels. `activation` is the output of the activation
            function, and `pool` that of the pooling layer after it, as in the CSAW notebook.

    Notes:
        If the clean images have no labels, the accuracy is the agreement with the examined model.
        At least one channel is kept. This class does not fine-tune the network after pruning.
    """

    layer: str | None = None
    max_drop: float = 0.04
    rank_after: Literal["activation", "pool"] = "activation"

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018"

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise BadInput(f"max_drop must lie in 0..1. Received: max_drop={self.max_drop}")
        if self.rank_after not in ("activation", "pool"):
            raise BadInput(
                f"rank_after must be activation or pool. Received: rank_after={self.rank_after}"
            )

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        model, clean = evidence.model, evidence.clean
        layer = self.layer or default_layer(model.model)
        ranked_at = channels.after_activation(model.model, layer, pool=self.rank_after == "pool")
        swept = evidence.part("sweep", lambda: sweep(model, clean, layer, ranked_at))
        start = Rate(round(swept["accuracy"][0] * len(clean)), len(clean))
        if clean.labels is not None and at_chance(start, clean.labels, model.classes):
            raise BadInput(
                f"The model is right on {start:.1%} of the clean images, which is no better than "
                "chance: check --preprocess, or pass --unlabelled (labels=None) if the labels are "
                "not the model's classes."
            )
        number = number_to_prune(swept["accuracy"], self.max_drop)
        pruned = graph.copy(model.model)
        channels.silence(pruned, layer, swept["order"][:number])
        total = len(swept["order"])
        summary = {
            "layer": layer,
            "silenced channels": f"{number} of {total}",
            "accuracy on the clean images": (
                f"{swept['accuracy'][0]:.2%} -> {swept['accuracy'][number]:.2%}"
            ),
        }
        history = {**swept, "pruned": np.array(number), "layer": np.array(layer)}
        return repaired(
            evidence, pruned, history=history, plots=_plots(layer, number), summary=summary
        )


def _plots(layer: str, number: int) -> tuple[Plot, ...]:
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
            marked_label="silenced",
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
