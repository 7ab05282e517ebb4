"""How many steps and starts a search for triggers needs, by the size of the images."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.defenses._inversion import Inverter
from keras_backdoor.defenses._rows import pool
from keras_backdoor.defenses._schedule import Schedule
from keras_backdoor.studies._nets import Net
from keras_backdoor.studies._place import Place
from keras_backdoor.studies._strangers import FACES, UNIT, Stranger, opened
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import SIGNS, DevelopmentZoo

FACE_NETS = {
    "faces, said to be clean": Stranger(
        "deepid/clean_cl_weights.h5", FACES, input_range=UNIT, architecture="deepid"
    ),
    "faces, unknown trigger": Stranger(
        "deepid/anonymous_1_bd_weights.h5", FACES, input_range=UNIT, architecture="deepid"
    ),
}
"""Networks that no scan is judged by."""
SIGN_NETS = ("signs, clean 0", "signs, backdoored 0")
LABELS, IMAGES, SEED = 12, 1000, 0
PLANS = {
    "80 steps": Schedule(steps=80),
    "160 steps": Schedule(steps=160),
    "320 steps": Schedule(steps=320),
    "the default": Schedule(),
    "the default, 9 starts": Schedule(starts=9),
}


class SearchLength(Study):
    """The masks of a few labels with longer and longer searches.

    Nothing here looks at a planted trigger or its success: a search is long enough when more steps
    leave the norms as they are.
    """

    title: ClassVar[str] = "How long a search for triggers goes on"
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019 (the method)"
    files: ClassVar[tuple[str, ...]] = (SIGNS, FACES)
    columns: ClassVar[Mapping[str, str]] = {
        "pixels": "pixels",
        "median": "median L1",
        "smallest": "smallest L1",
        "largest": "largest L1",
        "updates": "updates a label",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        quick = self.scale != "full"
        zoo = DevelopmentZoo(self.scale).nets()
        nets: dict[str, Stranger | Net] = {n: zoo[n] for n in SIGN_NETS} | FACE_NETS
        plans = {name: replace(p, steps=4, starts=2) if quick else p for name, p in PLANS.items()}
        return [
            Cell(f"{name}, {words}", {"net": net, "schedule": plan, "labels": LABELS, "seed": SEED})
            for name, net in nets.items()
            for words, plan in plans.items()
        ]

    def read(self) -> tuple[str, ...]:
        """See `Study.read`."""
        return (*self.files, *(s.file for s in FACE_NETS.values()))

    def compute(self, cell: Cell, place: Place) -> dict[str, Any]:
        """See `Study.compute`."""
        model, clean = opened(cell.given["net"], place)
        seed = cell.given["seed"]
        images = pool(model, clean, IMAGES if self.scale == "full" else 50, seed)
        number = min(cell.given["labels"], model.classes)
        labels = np.random.default_rng(seed).choice(model.classes, number, replace=False)
        found = Inverter(model, images, cell.given["schedule"]).search(labels, seed=seed)
        return {
            "pixels": int(np.prod(images.shape[1:3])),
            "median": float(np.median(found.norms)),
            "smallest": float(found.norms.min()),
            "largest": float(found.norms.max()),
            "norms": {str(k): float(v) for k, v in zip(labels, found.norms, strict=True)},
            "updates": float(found.steps.mean()),
        }
