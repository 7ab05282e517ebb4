"""What a study writes down of a scan and of the mitigations that follow it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from keras_backdoor.answers import FlaggedClasses, RepairedModel
from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.defenses.base import Defense
from keras_backdoor.defenses.neural_cleanse.method import NeuralCleanse
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.metrics import Rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger

CLEAN_SHARE = 0.1
"""Share of the training images, by track, that the mitigations are given."""


def scan_figures(
    answer: FlaggedClasses, target: int | None, mask: np.ndarray | None
) -> dict[str, Any]:
    """What a scan says: flagged classes, and index, norm, rank and mask of the target.

    Args:
        answer: of the scan.
        target: of the planted backdoor; None takes the most suspicious class.
        mask: (h, w) bool, where the planted trigger is, or None.
    """
    norms, index = answer.measures["l1_norm"], answer.measures["anomaly_index"]
    shown = int(np.argmin(np.nan_to_num(norms, nan=np.inf))) if target is None else target
    examined = bool(np.isfinite(norms[shown]))
    ahead = listed(norms < norms[shown]) if examined else None
    figures: dict[str, Any] = {
        "flagged": listed(answer.flagged),
        "further": "none" if answer.further is None else listed(answer.further),
        "mode": mode(answer),
        "index": float(index[shown]),
        "l1": float(norms[shown]),
        "rank": 1 + int((norms < norms[shown]).sum()) if examined else None,
        "ahead": ahead,
        "smallest": [int(c) for c in np.argsort(norms)[:8]],
        "smallest_l1": [float(norms[c]) for c in np.argsort(norms)[:8]],
        "median": answer.about["median_norm"],
        "seconds_of_scan": answer.about["seconds"],
        "model_sha256": answer.about["model_sha256"],
    }
    if "pair_norms" in answer.measures:
        pairs = answer.measures["pair_norms"]
        order = np.argsort(pairs, axis=None)[:8]
        found = (np.unravel_index(place, pairs.shape) for place in order)
        figures["smallest_pairs"] = [[int(s), int(t), float(pairs[s, t])] for s, t in found]
        suspects = answer.flagged if answer.further is None else answer.flagged | answer.further
        figures["source"] = {str(c): s for c, s in answer.source.items() if suspects[c]}
    if mask is not None and shown in answer.triggers:
        found_mask = answer.triggers[shown].mask[..., 0]
        figures["inside"] = float(found_mask[mask].sum() / found_mask.sum())
    return figures


def verdict(figures: Mapping[str, Any], method: NeuralCleanse) -> str:
    """The verdict of a scan of one run, from what is written of it.

    See `NeuralCleanse.judge`: found where a class is flagged; of classes inconclusive where the
    smallest norm is below `ratio` of the median all the same, of pairs where one is suspect; and
    where most have no trigger.
    """
    if figures["flagged"] != "none":
        return "found"
    median = figures["median"]
    if median is None:
        return "inconclusive"
    if figures["mode"].startswith("pairs"):
        return "inconclusive" if figures["further"] != "none" else "nothing"
    return "inconclusive" if figures["smallest_l1"][0] < method.ratio * median else "nothing"


def mode(answer: FlaggedClasses) -> str:
    """What a scan went through: classes or pairs, all of them to the end or at low cost."""
    rows = "pairs" if "pair_norms" in answer.measures else "classes"
    return f"{rows}, low-cost" if "yardsticks" in answer.about else rows


def mitigate(
    model: Classifier,
    scan: NeuralCleanse,
    methods: Mapping[str, Defense],
    clean: Samples,
    test: Samples,
    attack: tuple[Trigger, int],
) -> dict[str, Any]:
    """Scan, then every mitigation of what is flagged; figures of the attack before and after.

    Args:
        model: the network.
        scan: gets the clean images without labels.
        methods: name -> mitigation.
        clean: labelled images.
        test: what is measured on.
        attack: (planted trigger, its target).
    """
    stamp, target = attack
    clean = clean.in_memory()
    found = scan(model, clean=clean.unlabelled())

    def measured(answer: RepairedModel | None = None) -> Evaluation:
        tested = model
        if answer is not None:
            tested = Classifier(answer.model, answer.input_range, answer.reject_class)
        return evaluate(tested, test, trigger=stamp, target=target)

    made: dict[str, RepairedModel] = {}
    if found.flagged.any():
        made = {name: m(model, clean=clean, found=found) for name, m in methods.items()}
    after = {name: measured(answer) for name, answer in made.items()}
    return mitigation_figures(found, measured(), made, after, target)


def mitigation_figures(
    found: FlaggedClasses,
    before: Evaluation,
    made: Mapping[str, RepairedModel],
    after: Mapping[str, Evaluation],
    target: int,
) -> dict[str, Any]:
    """Attack and accuracy before and after each mitigation; of the filter what it rejects.

    Where nothing was flagged there is nothing to work on: `made` is empty and the row says so.
    """
    figures: dict[str, Any] = {
        "flagged": listed(found.flagged),
        "further": "none" if found.further is None else listed(found.further),
        "model_sha256": found.about["model_sha256"],
        "attack_before": before.attack_success_rate,
        "accuracy_before": before.clean_accuracy,
    }
    if not made:
        figures["unmitigated"] = "the scan flagged nothing"
    for name, evaluation in after.items():
        figures[f"attack_{name}"] = evaluation.attack_success_rate
        figures[f"accuracy_{name}"] = evaluation.clean_accuracy
        history = made[name].history
        works = history.get("worst_success", history.get("recovered_success"))
        if works is not None:
            last = int(history.get("pruned", np.array(len(works) - 1)))
            figures[f"recovered_{name}"] = [float(works[0]), float(works[last])]
    if "filter" in after:
        row, guard = after["filter"].confusion[target], after["filter"]
        figures |= {
            "rejected_stamped": guard.rejected_stamped,
            "rejected_clean": guard.rejected_clean,
            "rejected_target": Rate(int(row[-1]), int(row.sum())),
        }
    return figures


def true_mask(trigger: str | None, shape: Sequence[int | None]) -> np.ndarray | None:
    """(h, w) bool, the pixels of a planted trigger and their neighbours, or None."""
    if trigger is None:
        return None
    height, width = (int(n or 0) for n in shape[:2])
    mask = parse(trigger).stamp_for(height, width).mask[..., 0] > 0  # type: ignore[attr-defined]
    grown: np.ndarray = binary_dilation(mask, np.ones((3, 3)))
    return grown
