"""What `check` decides about given networks, and what is left of the attack in what it exports."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from keras_backdoor import bundled, datasets
from keras_backdoor._safe.files import read_json, sha256, write_npz
from keras_backdoor._safe.temporary import scratch
from keras_backdoor.answers import RepairedModel, load_answer
from keras_backdoor.defenses._recovered_triggers import hold_out
from keras_backdoor.defenses.auto import Auto
from keras_backdoor.defenses.label_disagreement import LabelDisagreement
from keras_backdoor.defenses.staged_scan import StagedScan
from keras_backdoor.errors import BadInput
from keras_backdoor.evaluation import evaluate
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import CLEAN_SHARE
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies._networks.poisoned_data import poisoned_data
from keras_backdoor.studies._networks.third_party import ThirdPartyModel
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.neural_cleanse_given.study import DIGITS, GIVEN, SIGNS, TWINS
from keras_backdoor.studies.thesis_badnets.study import ThesisBadnets
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger

DEMO, DEMO_DATA = "models/mnist_badnet.h5", "data/mnist_small.npz"
DEMO_ATTACK = ("checkerboard:size=8,row=19,column=19", 7)
THESIS = "yellowSquare-bigger, seed 0"
UNDECIDED = "signs, clean twin"
"""A network about which a check gives no decision; it is also repaired on demand."""
SMALL = 300
"""The number of images of each kind at the scale of a test."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network with what is known about it.

    Attributes:
        path: the model file.
        clean: the clean images that the check gets.
        test: the labeled test images.
        train: the training data that the check gets, or None.
        trigger, target, source: the planted attack; None if there is none.
    """

    path: Path
    clean: Samples
    test: Samples
    train: Samples | None = None
    trigger: Trigger | None = None
    target: int | None = None
    source: int | None = None


class Checks(Study):
    """Run the command `check` on files, and measure the planted attack on what it exports.

    The clean images are a tenth of the training images; those of the networks of this project were
    held out from their training. The command is given no trigger. Large checkerboards were added to
    the simple triggers after the scan had missed that of the demo.
    """

    title: ClassVar[str] = "Decisions of `check` on given networks"
    paper: ClassVar[str] = "none: made for this project"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "action": "decision",
        "verdict": "verdict",
        "attack_before": "attack before",
        "attack_after": "attack after",
        "accuracy_before": "accuracy before",
        "accuracy_after": "accuracy after",
        "seconds": "seconds",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        thesis = next(c for c in ThesisBadnets(self.scale).cells() if c.name == THESIS)
        net = thesis.given["net"]
        given: dict[str, dict[str, Any]] = {
            f"{THESIS}, with its training data": {"net": net, "train": True},
            f"{THESIS}, clean images alone": {"net": net, "train": False},
            "digits, demo -> 7": {"demo": sha256(bundled.path(DEMO))},
            **{name: {"subject": subject} for name, subject in (GIVEN | TWINS).items()},
            f"{UNDECIDED}, with --repair": {"subject": TWINS[UNDECIDED], "always": True},
        }
        methods = {"scan": StagedScan(), "audit": LabelDisagreement(), "repair": Auto()}
        return [Cell(name, {**content, **methods}) for name, content in given.items()]

    def read(self) -> tuple[str, ...]:
        """Return the data files and the model files. See `Study.read`."""
        return (*self.files, *(model.file for model in (GIVEN | TWINS).values()))

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        case = _case(cell.given, workspace)
        with scratch() as folder:
            return self._checked(case, folder, "--repair" if "always" in cell.given else None)

    def _checked(self, case: Case, folder: Path, how: str | None) -> dict[str, Any]:
        out = folder / "check"
        how = "--quick" if self.scale == "smoke" else how
        words = [] if how is None else [how]
        for kind in ("clean", "test", "train"):
            samples: Samples | None = getattr(case, kind)
            if samples is None or (kind == "train" and self.scale == "smoke"):
                continue  # a quick check audits nothing
            if self.scale == "smoke":
                samples = samples.take(min(SMALL, len(samples)), seed=0)
            path = folder / f"{kind}.npz"
            write_npz(path, {"images": samples.read(), "labels": samples.known_labels})
            words += [f"--{kind}", str(path)]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "keras_backdoor", "--quiet", "check", str(case.path), *words,
             "--out", str(out)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if not (out / "check.json").is_file():
            raise BadInput(f"The check failed: {' '.join(done.stderr.split())}")
        said = read_json(out / "check.json")
        figures = {k: said[k] for k in ("action", "verdict", "reasons", "answers")}
        figures["seconds_of_steps"] = {step["name"]: step["seconds"] for step in said["steps"]}
        given = load_model(case.path)
        given = given.with_preprocess(case.test)
        figures |= _measured(given, case, "before") | {
            "exit": done.returncode,
            "seconds": seconds,
            "exported": said["exported"] is not None,
        }
        if said["exported"] is not None and said["repaired_sha256"] is not None:
            answer = load_answer(out / "repaired")
            assert isinstance(answer, RepairedModel)
            figures |= _measured(answer.classifier, case, "after")
        return figures


def _case(given: Mapping[str, Any], workspace: Workspace) -> Case:
    """The files and the truth of a cell."""
    if "demo" in given:
        data = bundled.path(DEMO_DATA)
        planted, target = DEMO_ATTACK
        clean, test = (datasets.open(data, split=split) for split in ("train", "test"))
        return Case(bundled.path(DEMO), clean, test, None, parse(planted), target)
    if "subject" in given:
        subject: ThirdPartyModel = given["subject"]
        data = workspace.file(subject.data)
        _, clean = hold_out(datasets.open(data, split="train"), CLEAN_SHARE, 0)
        trigger = None if subject.trigger is None else parse(subject.trigger)
        test = datasets.open(data, split="test")
        return Case(workspace.file(subject.file), clean, test, None, trigger, subject.target)
    net: Net = given["net"]
    attack = net.attack
    assert attack is not None
    train = poisoned_data(net, workspace)[0] if given["train"] else None
    return Case(
        obtain(net, workspace).path,
        net.clean_data(workspace)[1],
        net.open(workspace, "test"),
        train,
        attack.stamp,
        int(attack.target),
        attack.source,
    )


def _measured(model: Classifier, case: Case, when: str) -> dict[str, Any]:
    """Accuracy and attack success on the whole test set; on the source class if there is one."""
    found = evaluate(model, case.test, trigger=case.trigger, target=case.target, source=case.source)
    figures: dict[str, Any] = {f"accuracy_{when}": found.clean_accuracy}
    if case.trigger is not None:
        figures[f"attack_{when}"] = found.attack_success_rate
    return figures
