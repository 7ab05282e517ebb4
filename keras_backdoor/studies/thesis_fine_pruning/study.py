"""Fine-pruning of the thesis's traffic-sign BadNets: tables 4.5 and 4.6, figure 4.19."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net
from keras_backdoor.studies._networks.thesis_defenses import fine_pruned, subject_of
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.thesis_badnets.study import DATA, FIRST, ThesisBadnets

TABLE_4_5: dict[str, tuple[int, float, float]] = {
    "yellowSquare-bigger": (76, 96.36, 92.96),
    "yellowSquare-smaller": (101, 95.07, 45.13),
    "yellowPattern": (98, 95.68, 95.92),
    "whiteSquare": (101, 94.24, 91.19),
    "whitePattern": (96, 95.91, 85.83),
    "bigYellowSquare": (79, 95.26, 72.96),
}
"""Second to last convolution: removed channels, accuracy and attack success in %."""
TABLE_4_6: dict[str, tuple[int, float, float]] = {
    "yellowSquare-bigger": (105, 95.78, 86.67),
    "yellowSquare-smaller": (91, 96.84, 35.19),
    "yellowPattern": (98, 95.15, 92.96),
    "whiteSquare": (99, 96.0, 90.74),
    "whitePattern": (105, 95.52, 74.44),
    "bigYellowSquare": (99, 95.57, 68.15),
}
"""Last convolution."""
FIGURE_4_19 = ("yellowSquare-bigger", "yellowSquare-smaller")
DROPS = (0.02, 0.06)
"""Further drops of figure 4.19, beside 4 %."""


class ThesisFinePruning(Study):
    """Prune the last or the second to last convolution, then fine-tune on the tuning set.

    Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021: channels are removed until the
    accuracy on the tuning set has fallen by more than 4 %, then the network is fine-tuned.

    Notes:
        The thesis does not give the length and the rate of the fine-tuning; they are those of
        `FinePruning`. Its attack success is measured on an unknown selection of images, here on the
        450 test images of the source class.
    """

    title: ClassVar[str] = "Fine-pruning of the thesis's traffic-sign BadNets"
    paper: ClassVar[str] = "Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021"
    files: ClassVar[tuple[str, ...]] = (DATA,)
    columns: ClassVar[Mapping[str, str]] = {
        "removed": "removed",
        "of": "of",
        "accuracy_before": "accuracy before",
        "accuracy_pruned": "accuracy, pruned",
        "clean_accuracy": "accuracy, fine-tuned",
        "attack_before": "attack before",
        "attack_pruned": "attack, pruned",
        "attack_success_rate": "attack, fine-tuned",
        "parameters": "parameters left",
        "operations": "multiplications left",
        "latency": "time of a batch of 256, share",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [*self._grid()]

    def _grid(self) -> Iterator[Cell]:
        badnets = {c.name: c for c in ThesisBadnets(self.scale).cells()}
        for layer, table in (("second-last", TABLE_4_5), ("last", TABLE_4_6)):
            group = "table 4.5" if layer == "second-last" else "table 4.6"
            for name, (removed, accuracy, success) in table.items():
                published = {
                    "removed": removed,
                    "of": 128,
                    "clean_accuracy": accuracy,
                    "attack_success_rate": success,
                }
                net = badnets[f"{name}, seed 0"].given["net"]
                cell = self._cell(f"{name}, {layer}", net, layer, 0.04, group, published)
                if name == FIRST:
                    cell.given["activity"] = True  # type: ignore[index]
                yield cell
        for name in FIGURE_4_19:
            for drop in DROPS:
                net = badnets[f"{name}, seed 0"].given["net"]
                yield self._cell(f"{name}, last, {drop:.0%}", net, "last", drop, "figure 4.19", {})
        aware = next(c for name, c in badnets.items() if name.endswith("pruning-aware"))
        yield self._cell(f"{aware.name}, last", aware.given["net"], "last", 0.04, "section 2.9", {})

    def _cell(
        self, name: str, net: Net, layer: str, drop: float, group: str, published: dict[str, Any]
    ) -> Cell:
        short = {} if self.scale == "full" else {"tuning": Tuning(steps=5, averaged=0.0)}
        method = FinePruning(layer=layer, max_drop=drop, **short)  # type: ignore[arg-type]
        return Cell(name, {"net": net, "method": method}, published, group=group)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        net: Net = cell.given["net"]
        subject = subject_of(net, workspace, small=self.scale == "smoke")
        activity = bool(cell.given.get("activity"))
        return fine_pruned(subject, cell.given["method"], activity=activity)
