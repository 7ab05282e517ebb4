"""The face networks of the thesis with stand-ins for its data: LFW and third parties' networks."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.defenses._recovered_triggers import hold_out
from keras_backdoor.defenses.auto import Auto
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.face_nets import CLEAN_DEEPID, Setting
from keras_backdoor.studies._networks.thesis_defenses import Subject, fine_pruned
from keras_backdoor.studies._networks.third_party import FACES, GLASSES, sunglasses
from keras_backdoor.studies.base import Cell
from keras_backdoor.studies.neural_cleanse_given.study import DEEPID
from keras_backdoor.studies.thesis_faces.study import SURE, ThesisFaces

THIRD_PARTY = "BadNets of third parties"
SUBSETS = range(3)


class FaceStandIns(ThesisFaces):
    """The steps of `thesis-faces` with stand-ins for data that is not public.

    - In the place of DeepID on YouTube Faces: a DeepID network of a third party that was trained on
      YouTube Faces and is said to be clean, fine-tuned on LFW faces under its own answers, with
      stamped faces among them. The accuracy is the agreement with that network.
    - In the place of VGG16-Face: the frozen layers of the same network up to pool_3 with a new last
      layer for the people of LFW.
    - Beside them: three BadNets of third parties on YouTube Faces.

    What they can show is how the attacks and the defenses behave on face networks of these
    architectures. They cannot show the accuracy on YouTube Faces, nor that of VGG16-Face.

    Notes:
        The people of LFW are not those of the network, which is unsure of half of their faces, so
        that its answers to these change with every training. The agreement is therefore also given
        for the faces that it was sure of.
    """

    setting: ClassVar[Setting] = "stand-in"

    title: ClassVar[str] = "Stand-ins for the face networks of the thesis"
    files: ClassVar[tuple[str, ...]] = (FACES, CLEAN_DEEPID.file, GLASSES)

    def groups(self) -> tuple[Iterator[Cell], ...]:
        """See `ThesisFaces.groups`."""
        return (*super().groups(), self._third_party())

    def read(self) -> tuple[str, ...]:
        """Return the data files and the model files. See `Study.read`."""
        return (*self.files, *(model.file for model in DEEPID.values()))

    def _third_party(self) -> Iterator[Cell]:
        for layer in ("second-last", "last"):
            for name, subject in DEEPID.items():
                given = {"subject": subject, "method": self._fine_pruning(layer), "clean_seed": 0}
                yield Cell(f"{name}, {layer}", given, group=THIRD_PARTY)
        for name, subject in DEEPID.items():
            for subset in SUBSETS:
                given = {"subject": subject, "method": self._auto(), "clean_seed": subset}
                yield Cell(f"{name}, repaired, clean {subset}", given, group=THIRD_PARTY)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        if "subject" not in cell.given:
            return super().compute(cell, workspace)
        subject, clean = self._given(cell.given, workspace)
        method = cell.given["method"]
        if not isinstance(method, Auto):
            return fine_pruned(subject, method)
        answer = method(subject.model, clean=clean)
        return {
            **subject.evaluated(subject.model, "before"),
            **subject.evaluated(answer.classifier, "repaired"),
            "seconds_of_repair": answer.about["seconds"],
        }

    def _given(self, given: Mapping[str, Any], workspace: Workspace) -> tuple[Subject, Samples]:
        """A network of a third party, and four fifths of the faces of LFW as clean images."""
        model = given["subject"].open(workspace)
        faces = given["subject"].clean(workspace).unlabelled().in_memory()
        clean, held = hold_out(faces, 0.2, given["clean_seed"])
        if self.scale == "smoke":
            clean, held = clean.take(60), held.take(60)
        labels = model.predict(held)
        target = int(given["subject"].target or 0)
        attack = BadNets(sunglasses(workspace), target, None, 1)
        nothing = np.zeros(len(clean), bool)
        subject = Subject(
            model, clean, nothing, clean, held.labelled(labels), attack, None, _no_training,
            model.scores(held).max(axis=1) >= SURE,
        )  # fmt: skip
        return subject, clean


def _no_training(model: Classifier, samples: Samples) -> Classifier:
    raise NotImplementedError("the training data of third parties is not known")
