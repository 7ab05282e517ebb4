"""Mitigations on the development zoo, on which their default settings were chosen."""

from collections.abc import Mapping
from typing import Any, ClassVar

from keras_backdoor.defenses._recovered_triggers import Refinement, hold_out
from keras_backdoor.defenses.input_filter import InputFilter
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neuron_pruning import NeuronPruning
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import CLEAN_SHARE, SMOKE, mitigate
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import DIGITS, SIGNS, DevelopmentZoo

NETS = (
    *(f"digits, backdoored {number}" for number in range(6)),
    *(f"digits, strong {number}" for number in range(3)),
    "signs, backdoored 0",
    "signs, backdoored 3",
)
"""Networks whose backdoor maps all classes to the target."""


class MitigationRules(Study):
    """Evaluate mitigations on backdoored networks of the development zoo.

    Unlearning and neuron pruning are also run with the trigger of the scan alone, without further
    trigger searches. The evaluation studies use other networks.
    """

    title: ClassVar[str] = "Mitigations on the development zoo"
    paper: ClassVar[str] = "Wang et al., Neural Cleanse, S&P 2019 (the methods)"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "flagged": "flagged",
        "attack_before": "attack %",
        "accuracy_before": "accuracy %",
        "attack_alone": "attack, the scan's trigger unlearned",
        "accuracy_alone": "accuracy, the scan's trigger unlearned",
        "attack_unlearning": "attack, unlearned",
        "accuracy_unlearning": "accuracy, unlearned",
        "attack_pruning_alone": "attack, pruned for the scan's trigger",
        "accuracy_pruning_alone": "accuracy, pruned for the scan's trigger",
        "attack_pruning": "attack, pruned",
        "accuracy_pruning": "accuracy, pruned",
        "attack_filter": "attack, filtered",
        "rejected_clean": "clean images rejected",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        quick = self.scale != "full"
        short = SMOKE[Unlearning] if quick else {}
        alone = Refinement(searches=0)
        given = {
            "scan": NeuralCleanse(**(SMOKE[NeuralCleanse] if quick else {"runs": 1})),
            "alone": Unlearning(**{**short, "rounds": 1, "refinement": alone}),
            "unlearning": Unlearning(**short),
            "pruning_alone": NeuronPruning(refinement=alone),
            "pruning": NeuronPruning(**(SMOKE[NeuronPruning] if quick else {})),
            "filter": InputFilter(),
        }
        nets = DevelopmentZoo(self.scale).nets()
        return [Cell(name, {"net": nets[name], **given}) for name in NETS]

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        methods = dict(cell.given)
        net: Net = methods.pop("net")
        scan = methods.pop("scan")
        train, _ = net.clean_data(workspace)
        _, clean = hold_out(train, CLEAN_SHARE, 0)
        assert net.attack is not None
        attack = net.attack.stamp, net.attack.target
        model = obtain(net, workspace).classifier
        return mitigate(model, scan, methods, clean, net.open(workspace, "test"), attack)
