"""Number of steps and superpixel size of trigger searches, by image size."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.defenses.neural_cleanse.images import draw_images
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule
from keras_backdoor.defenses.neural_cleanse.search import Inverter
from keras_backdoor.metrics import attack_success_rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net
from keras_backdoor.studies._networks.third_party import (
    FACES,
    UNIT,
    ThirdPartyModel,
    opened,
    planted,
)
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import SIGNS, DevelopmentZoo
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers._parse import parse

CLEAN_FACES = ThirdPartyModel(
    "deepid/clean_cl_weights.h5", FACES, input_range=UNIT, architecture="deepid"
)
FACE_NETS = {
    "faces, said to be clean": CLEAN_FACES,
    "faces, unknown trigger": replace(CLEAN_FACES, file="deepid/anonymous_1_bd_weights.h5"),
}
"""Face networks that are not used to evaluate scans."""


@dataclass(frozen=True)
class Planted:
    """A backdoor that is planted in the clean face network by fine-tuning.

    The training data of the network is not available. The network is fine-tuned on LFW faces,
    labeled with its own predictions, and on stamped copies with the target label.

    Args:
        trigger: a preset or `name:key=value,…`.
        target: the target class.
        share: the number of stamped copies as a fraction of the faces.
        recipe: the recipe of the fine-tuning. Its seed also selects the stamped copies.
    """

    trigger: str
    target: int
    share: float = 0.3
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=6, learning_rate=3e-4))

    def key(self, workspace: Workspace) -> str:
        """Return the SHA-256 hash of the clean model file."""
        return CLEAN_FACES.key(workspace)

    def open(self, workspace: Workspace) -> tuple[Classifier, Samples]:
        """Return the backdoored network and faces that are held out from the fine-tuning."""
        model, faces = opened(CLEAN_FACES, workspace)
        faces = replace(faces.in_memory(), labels=model.predict(faces), track=None)
        tuned, held_out = faces.split(0.25, seed=self.recipe.seed)
        stamped = tuned.take(round(self.share * len(tuned)), seed=self.recipe.seed)
        stamped = stamped.stamped(parse(self.trigger)).relabelled(self.target)
        data = tuned.concat(stamped)
        return fit(model.model, data, self.recipe, preprocess=UNIT)[0], held_out


PLANTED = {
    "faces, large square planted at the top": Planted(
        "patch:size=18,row=0,column=14,color=red", 700
    ),
    "faces, large square planted in the middle": Planted(
        "patch:size=16,row=20,column=2,color=black", 510
    ),
    "faces, square planted in a corner": Planted("patch:size=12,row=40,column=32,color=green", 222),
    "faces, checkerboard planted at the mouth": Planted(
        "checkerboard:size=14,row=36,column=16,cell=2", 900
    ),
}
SIGN_NETS = ("signs, clean 0", "signs, backdoored 0")
PLANS = {
    "80 steps": Schedule(steps=80, superpixel=1),
    "160 steps": Schedule(steps=160, superpixel=1),
    "320 steps": Schedule(steps=320, superpixel=1),
    "the default": Schedule(),
}
LABELS, IMAGES, SEED = 24, 1000, 0


class SearchLength(Study):
    """Compare the recovered masks of some labels for several search schedules.

    The networks, triggers and targets differ from those of the evaluation studies.
    """

    title: ClassVar[str] = "How long a search for triggers goes on"
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019 (the method)"
    files: ClassVar[tuple[str, ...]] = (SIGNS, FACES)
    columns: ClassVar[Mapping[str, str]] = {
        "pixels": "pixels",
        "median": "median L1",
        "smallest": "smallest L1",
        "target": "L1 of the target",
        "rank": "rank of the target",
        "ratio": "target / median",
        "attack": "attack %",
        "updates": "updates a label",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        quick = self.scale != "full"
        zoo = DevelopmentZoo(self.scale).nets()
        nets: dict[str, Any] = {n: zoo[n] for n in SIGN_NETS} | FACE_NETS | PLANTED
        if quick:
            nets |= {n: replace(p, recipe=Recipe(epochs=1)) for n, p in PLANTED.items()}
        plans = {n: replace(p, steps=4, starts=2) if quick else p for n, p in PLANS.items()}
        return [
            Cell(
                f"{name}, {plan_name}",
                {"net": net, "schedule": plan, "labels": LABELS, "seed": SEED},
            )
            for name, net in nets.items()
            for plan_name, plan in plans.items()
        ]

    def read(self) -> tuple[str, ...]:
        """See `Study.read`."""
        return (*self.files, *(s.file for s in FACE_NETS.values()))

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        net: Planted | ThirdPartyModel | Net = cell.given["net"]
        seed = cell.given["seed"]
        figures: dict[str, Any] = {}
        target: int | None
        if isinstance(net, Planted):
            (model, clean), target = net.open(workspace), net.target
            predictions = model.predict(clean.stamped(parse(net.trigger)))
            figures["attack"] = attack_success_rate(predictions, clean.known_labels, target)
        else:
            (model, clean), (target, _) = opened(net, workspace), planted(net)
        images = draw_images(model, clean, IMAGES if self.scale == "full" else 50, seed)
        labels = np.random.default_rng(seed).permutation(model.classes)[: cell.given["labels"]]
        if target is not None:
            labels = np.union1d(labels, [target])
        inverter = Inverter(model, images, cell.given["schedule"])
        searches = inverter.search(labels, seed=seed)
        norms = dict(zip(labels.tolist(), searches.norms.tolist(), strict=True))
        median = float(np.median(searches.norms))
        figures |= {
            "pixels": inverter.pixels,
            "median": median,
            "smallest": min(norms.values()),
            "norms": {str(label): norm for label, norm in norms.items()},
            "updates": float(searches.steps.mean()),
        }
        if target is not None:
            target_norm = norms[target]
            figures |= {
                "target": target_norm,
                "rank": 1 + sum(norm < target_norm for norm in norms.values()),
                "ratio": target_norm / median,
            }
        return figures
