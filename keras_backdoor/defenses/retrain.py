"""Retrain: train the network again on the training images that an audit left."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras_backdoor.answers import FlaggedSamples, RepairedModel
from keras_backdoor.defenses._retraining import chosen_recipe, retrained
from keras_backdoor.defenses.base import Defense, Evidence, Need, check_no_guard, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.training import Recipe


@dataclass(frozen=True)
class Retrain(Defense[RepairedModel]):
    """Train the architecture of the network again, without the images that an audit flagged.

    Frozen layers keep their weights. A network that was fine-tuned starts from the network before
    that, if it is given as `reference`; all others start from new weights.

    Args:
        recipe: the recipe, or the name of a preset. By default that in the card of the model, or
            the default recipe.
    """

    recipe: Recipe | None = None

    needs: ClassVar[tuple[Need, ...]] = (
        Need("train", labelled=True),
        Need("found", answer=FlaggedSamples),
        Need("reference", optional=True),
    )
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Chen et al., Activation Clustering, SafeAI 2019, section on repair"
    quick: ClassVar[dict[str, Any]] = {
        "recipe": Recipe(epochs=8, batch_size=16, learning_rate=2e-3)
    }
    caveats: ClassVar[tuple[str, ...]] = (
        "Poison that the audit did not flag is learned again. Measure the known or suspected "
        "trigger, or audit the new network with the same data.",
    )

    def run(self, evidence: Evidence) -> RepairedModel:
        """See `Method.run`."""
        model, train, found = evidence.model, evidence.train, evidence.found(FlaggedSamples)
        check_no_guard(model)
        if len(found.flagged) != len(train):
            raise BadInput(
                f"The audit is about {len(found.flagged)} images, and train has {len(train)}: give "
                "the data that was audited, with the same --train-split and --train-take."
            )
        if found.row_numbers is not None and (found.row_numbers != train.row_numbers).any():
            raise BadInput("The audit is about other images: give the data that was audited.")
        kept = train.subset(~found.flagged)
        recipe, text = chosen_recipe(model, self.recipe)
        start: Classifier | None = evidence.get("reference")
        network = retrained(evidence, "retrained", kept, recipe, start)
        first = (
            "new weights" if start is None else f"the weights of {start.source or start.model.name}"
        )
        return repaired(
            evidence,
            network.model,
            summary={
                "left out": f"{int(found.flagged.sum())} of {len(train)} images",
                "recipe": text,
                "start": first,
            },
            figures={"trained_anew": start is None},
            inconclusive="" if found.flagged.any() else "the audit flagged no image",
        )
