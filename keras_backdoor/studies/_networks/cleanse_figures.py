"""Results that studies store of a scan and of the mitigations that follow it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from keras_backdoor.answers import FlaggedClasses, RepairedModel
from keras_backdoor.defenses._recovered_triggers import Refinement
from keras_backdoor.defenses.base import Defense
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule
from keras_backdoor.defenses.neuron_pruning import NeuronPruning
from keras_backdoor.defenses.source_specific_scan import SourceSpecificScan
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.metrics import Rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger

CLEAN_SHARE = 0.1
"""Fraction of the training images that the mitigations receive; the split is by track."""
SMOKE: dict[type, dict[str, Any]] = {
    NeuralCleanse: {"runs": 1, "images": 100, "schedule": Schedule(steps=20, starts=1)},
    SourceSpecificScan: {"runs": 1, "schedule": Schedule(steps=20, starts=1, batch_size=8)},
    Unlearning: {
        "max_epochs": 1,
        "averaged": 0,
        "rounds": 1,
        "refinement": Refinement(steps=20, searches=2),
    },
    NeuronPruning: {"refinement": Refinement(steps=20, searches=2)},
}
"""Settings at smoke scale, which run every step; the results are meaningless."""
SMOKE_IMAGES = 1500
"""Number of clean images, and of test images, at smoke scale."""
SMALLEST = 8
"""Number of smallest norms that are stored of a scan."""


def scan_figures(
    answer: FlaggedClasses, target: int | None, mask: np.ndarray | None
) -> dict[str, Any]:
    """Return the results of a scan: the verdict, and anomaly index, norm and rank of the target.

    Args:
        answer: the answer of the scan.
        target: the target class of the planted backdoor; None uses the class of the smallest norm.
        mask: (h, w) bool, the location of the planted trigger, or None.

    Returns:
        The results by key; `inside` is the fraction of the recovered mask inside `mask`.
    """
    norms, index = answer.measures["l1_norm"], answer.measures["anomaly_index"]
    shown = int(np.argmin(np.nan_to_num(norms, nan=np.inf))) if target is None else target
    examined = bool(np.isfinite(norms[shown]))
    smallest = np.argsort(norms)[:SMALLEST]
    figures: dict[str, Any] = {
        "verdict": answer.verdict,
        "flagged": classes(answer.flagged),
        "further": classes(answer.suspects),
        "pairs": "pair_norms" in answer.measures,
        "low_cost": "reference_norms" in answer.about,
        "index": float(index[shown]),
        "l1": float(norms[shown]),
        "rank": 1 + int((norms < norms[shown]).sum()) if examined else None,
        "ahead": classes(norms < norms[shown]) if examined else None,
        "smallest": [{"class": int(c), "value": float(norms[c])} for c in smallest],
        "median": answer.about["median_norm"],
        "seconds_of_scan": answer.about["seconds"],
        "model_sha256": answer.about["model_sha256"],
    }
    if figures["pairs"]:
        pairs = answer.measures["pair_norms"]
        order = np.argsort(pairs, axis=None)[:SMALLEST]
        indices = (np.unravel_index(position, pairs.shape) for position in order)
        figures["smallest_pairs"] = [[int(s), int(t), float(pairs[s, t])] for s, t in indices]
        suspects = answer.flagged | answer.suspects
        figures["source"] = {str(c): s for c, s in answer.source.items() if suspects[c]}
    if mask is not None and shown in answer.triggers:
        recovered = answer.triggers[shown].mask[..., 0]
        figures["inside"] = float(recovered[mask].sum() / recovered.sum())
    return figures


def classes(chosen: np.ndarray) -> list[int]:
    """Return the numbers of the selected classes.

    >>> classes(np.array([False, True, True]))
    [1, 2]
    """
    numbers: list[int] = np.flatnonzero(chosen).tolist()
    return numbers


def mitigate(
    model: Classifier,
    scan: NeuralCleanse,
    methods: Mapping[str, Defense[RepairedModel]],
    clean: Samples,
    test: Samples,
    attack: tuple[Trigger, int],
) -> dict[str, Any]:
    """Scan a network and apply each mitigation; return the results before and after.

    Args:
        model: the network.
        scan: the scan; it receives the clean images without labels.
        methods: the mitigations by name.
        clean: labeled clean images.
        test: labeled test images for the evaluation.
        attack: (planted trigger, target class).

    Returns:
        The results by key, see `mitigation_figures`.
    """
    stamp, target = attack
    clean = clean.in_memory()
    answer = scan(model, clean=clean.unlabelled())

    def measured(tested: Classifier) -> Evaluation:
        return evaluate(tested, test, trigger=stamp, target=target)

    repairs: dict[str, RepairedModel] = {}
    if answer.flagged.any():
        repairs = {name: m(model, clean=clean, found=answer) for name, m in methods.items()}
    after = {name: measured(repair.classifier) for name, repair in repairs.items()}
    return mitigation_figures(answer, measured(model), repairs, after, target)


def mitigation_figures(
    scan: FlaggedClasses,
    before: Evaluation,
    repairs: Mapping[str, RepairedModel],
    after: Mapping[str, Evaluation],
    target: int,
) -> dict[str, Any]:
    """Return attack success and accuracy before and after each mitigation.

    Args:
        scan: the answer of the scan.
        before: the evaluation of the original network.
        repairs: the repaired models by name of the mitigation; empty if the scan flagged nothing.
        after: the evaluations of the repaired models by name.
        target: the target class of the planted backdoor.

    Returns:
        The results by key, with the rejection rates of the input filter. If `repairs` is empty, the
        key `unmitigated` contains the reason.
    """
    figures: dict[str, Any] = {
        "flagged": classes(scan.flagged),
        "further": classes(scan.suspects),
        "model_sha256": scan.about["model_sha256"],
        "attack_before": before.attack_success_rate,
        "accuracy_before": before.clean_accuracy,
    }
    if not repairs:
        figures["unmitigated"] = "the scan flagged nothing"
    for name, evaluation in after.items():
        figures[f"attack_{name}"] = evaluation.attack_success_rate
        figures[f"accuracy_{name}"] = evaluation.clean_accuracy
        history = repairs[name].history
        success = history.get("worst_success", history.get("recovered_success"))
        if success is not None:
            last = int(history.get("pruned", np.array(len(success) - 1)))
            figures[f"recovered_{name}"] = [float(success[0]), float(success[last])]
    if "filter" in after:
        row, guard = after["filter"].confusion[target], after["filter"]
        figures |= {
            "rejected_stamped": guard.rejected_stamped,
            "rejected_clean": guard.rejected_clean,
            "rejected_target": Rate(int(row[-1]), int(row.sum())),
        }
    return figures


def true_mask(trigger: str | None, shape: Sequence[int | None]) -> np.ndarray | None:
    """Return the pixels of a planted trigger and their neighbors, as (h, w) bool.

    Returns None if there is no trigger or if its location is not fixed.

    Args:
        trigger: the specification of the trigger, or None.
        shape: (height, width, channels) of the images.
    """
    if trigger is None:
        return None
    height, width = (int(n or 0) for n in shape[:2])
    support = parse(trigger).support(height, width)
    if support is None:
        return None
    grown: np.ndarray = binary_dilation(support, np.ones((3, 3)))
    return grown
