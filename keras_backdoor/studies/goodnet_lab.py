"""The pruning defense of the CSAW 2020 lab, with LFW faces in place of its data."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.defenses._tuning import NO_TUNING
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.goodnet import goodnet
from keras_backdoor.metrics import Rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.third_party import FACES, GLASSES, sunglasses
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.neural_cleanse_given.study import DEEPID

LAB = "faces, lab3 -> 0"
COUNTS: dict[int, float | None] = {40: None, 45: None, 48: None, 50: None, 52: 77.21}
"""Number of pruned channels -> published attack success of the notebook in %.

The notebook stops at 10 % of lost accuracy, with 52 channels; how many channels its models of 2 and
4 % lack is not published.
"""
FIRST = 45
"""Number of channels whose set is published."""


class GoodnetLab(Study):
    """Prune the BadNet of the lab by fixed numbers of channels and combine it with the original.

    The 60 channels of conv_3 are ranked by their mean activation after pool_3, as in the notebook.

    Notes:
        The data of the lab, YouTube Faces, is not public. The faces are those of LFW, whose people
        are not the classes of the network: instead of the accuracy, the agreement with the original
        is reported, and thresholds of the accuracy are replaced by fixed numbers of channels.
    """

    title: ClassVar[str] = "Pruning defense of the CSAW lab on LFW faces"
    paper: ClassVar[str] = "CSAW 2020 backdoor challenge (the notebook)"
    files: ClassVar[tuple[str, ...]] = (FACES, GLASSES)
    columns: ClassVar[Mapping[str, str]] = {
        "attack_before": "attack before",
        "attack_success_rate": "attack, pruned",
        "agreement": "agreement with the original",
        "rejected": "triggered faces rejected by G",
        "rejected_clean": "faces rejected by G",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [
            Cell(
                f"{count} channels",
                {
                    "subject": DEEPID[LAB],
                    "method": FinePruning(
                        layer="conv_3", count=count, rank_after="pool", tuning=NO_TUNING
                    ),
                },
                {} if published is None else {"attack_success_rate": published},
            )
            for count, published in COUNTS.items()
        ]

    def read(self) -> tuple[str, ...]:
        """Return the data files and the model file. See `Study.read`."""
        return (*self.files, DEEPID[LAB].file)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        subject = cell.given["subject"]
        model, faces = subject.open(workspace), subject.clean(workspace).unlabelled().in_memory()
        if self.scale == "smoke":
            faces = faces.take(60, seed=0)
        answer = cell.given["method"](model, clean=faces)
        stamped = faces.stamped(sunglasses(workspace))
        guard = Classifier(goodnet(model, answer.classifier), model.to_input, model.classes)
        target, order = subject.target, answer.history["order"]

        def rate(hits: np.ndarray) -> Rate:
            return Rate(int(hits.sum()), len(hits))

        return {
            "attack_before": rate(model.predict(stamped) == target),
            "attack_success_rate": rate(answer.classifier.predict(stamped) == target),
            "agreement": rate(answer.classifier.predict(faces) == model.predict(faces)),
            "rejected": rate(guard.predict(stamped) == model.classes),
            "rejected_clean": rate(guard.predict(faces) == model.classes),
            "first": sorted(order[:FIRST].tolist()),
            "model_sha256": model.sha256(),
        }
