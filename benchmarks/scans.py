"""CPU time of the whole scan of 43 classes, against three runs of Neural Cleanse.

`python benchmarks/scans.py` takes about 15 minutes, and needs the data and the BadNets in
KERAS_BACKDOOR_DATA (see data/README.md). A scan that flags a class with a simple trigger ends
there, so that the networks are ones that no simple trigger leads to: a clean one of a third party,
a clean one of this project and a BadNet of the thesis that the scan does not see. Nothing else
should run on the machine, as shared cores make CPU seconds longer.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")

import numpy as np
from _common import record

from keras_backdoor import bundled
from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses import NeuralCleanse, StagedScan, WeightSignature
from keras_backdoor.defenses._recovered_triggers import hold_out
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import CLEAN_SHARE
from keras_backdoor.studies._networks.network_store import obtain
from keras_backdoor.studies._networks.third_party import opened
from keras_backdoor.studies.development_zoo import DevelopmentZoo
from keras_backdoor.studies.neural_cleanse_given.study import TWINS

TWIN = TWINS["signs, clean twin"]
BADNET = "models/gtsrb_yellowPattern.h5"
RUNS = 3
COMPARED = "clean, of a third party"
"""The network that Neural Cleanse alone scans, too."""


def networks() -> dict[str, tuple[Classifier, Samples]]:
    """Name -> a network and clean images without labels."""
    workspace = Workspace()
    ours = DevelopmentZoo().nets()["signs, clean 0"]
    twin, images = opened(TWIN, workspace)
    _, clean = hold_out(images, CLEAN_SHARE, 0)
    badnet = load_model(bundled.path(BADNET))
    held_out = ours.clean_data(workspace)[1].unlabelled()
    return {
        COMPARED: (twin, clean.unlabelled()),
        "clean, of the zoo": (obtain(ours, workspace).classifier, held_out),
        "yellow pattern of the thesis": (badnet, held_out),
    }


def timed(scan: Callable[[], FlaggedClasses]) -> dict[str, Any]:
    """What a scan says, and its CPU and wall seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = scan()
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "verdict": answer.verdict,
        "flagged": np.flatnonzero(answer.flagged).tolist(),
    }


def main() -> None:
    figures: dict[str, Any] = {}
    for name, (model, clean) in networks().items():
        model.predict(clean.take(1))  # the model is open
        figures[name] = {
            "first look": timed(partial(WeightSignature(), model)),
            "whole scan": timed(partial(StagedScan(), model, clean=clean)),
        }
        if name == COMPARED:
            figures[name]["search"] = timed(partial(NeuralCleanse(runs=RUNS), model, clean=clean))
    first = [f["first look"]["wall"] for f in figures.values()]
    whole = [f["whole scan"]["cpu"] / 60 for f in figures.values()]
    compared = figures[COMPARED]
    ratio = compared["search"]["cpu"] / compared["whole scan"]["cpu"]
    table = {
        "first look of a scan (weights of the last layer, 43 classes), three networks": (
            f"{min(first):.1f} to {max(first):.1f} s"
        ),
        "whole scan of 43 classes, three networks": (
            f"{min(whole):.1f} to {max(whole):.1f} CPU minutes"
        ),
        f"the same against {RUNS} runs of Neural Cleanse ({COMPARED})": (
            f"{ratio:.1f} times less CPU time"
        ),
    }
    record("scans_speed", "python benchmarks/scans.py", figures, table)


if __name__ == "__main__":
    main()
