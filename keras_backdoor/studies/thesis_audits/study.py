"""Data defenses of the thesis: tables 4.2 to 4.4 and 4.7 to 4.9, figures 4.10 and 4.11, 4.2.3."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.badnets import BadNets, number_for_share
from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.activation_clustering import ActivationClustering
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.provenance import Provenance
from keras_backdoor.defenses.spectral_signatures import SpectralSignatures
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net
from keras_backdoor.studies._networks.thesis_defenses import (
    Subject,
    anew,
    clustered,
    of_origins,
    removed,
    subject_of,
)
from keras_backdoor.studies.audits.study import audit_at
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.thesis_badnets.study import DATA, SOURCE, TARGET, ThesisBadnets
from keras_backdoor.training import PRESETS, builder, fit

TABLE_4_2: dict[str, tuple[int, int]] = {
    "yellowSquare-bigger": (35, 11238),
    "yellowSquare-smaller": (0, 11578),
    "yellowPattern": (39, 11310),
    "whiteSquare": (194, 11163),
    "whitePattern": (197, 11140),
    "bigYellowSquare": (0, 10489),
}
"""By network: removed poisoned images, removed images in all."""
TABLE_4_3: dict[str, tuple[float, float]] = {
    "yellowSquare-bigger": (99.63, 100.0),
    "yellowSquare-smaller": (96.36, 60.0),
    "yellowPattern": (95.46, 99.26),
    "whiteSquare": (95.19, 93.7),
    "whitePattern": (94.47, 100.0),
    "bigYellowSquare": (96.52, 100.0),
}
"""By network: accuracy and attack success in %, trained again on what was left."""
TABLE_4_7: dict[str, tuple[int, float, float]] = {
    "yellowSquare-bigger": (98, 95.96, 62.96),
    "yellowSquare-smaller": (106, 96.34, 48.15),
    "yellowPattern": (96, 94.06, 89.26),
    "whiteSquare": (99, 96.17, 78.89),
    "whitePattern": (100, 96.0, 97.04),
    "bigYellowSquare": (101, 95.82, 100.0),
}
"""By network: removed channels of 128, accuracy and attack success in %."""
TABLE_4_8: dict[str, tuple[int, int]] = {
    "yellowSquare-bigger": (0, 10873),
    "yellowSquare-smaller": (0, 11578),
    "yellowPattern": (38, 11267),
    "whiteSquare": (0, 11110),
    "whitePattern": (163, 11488),
    "bigYellowSquare": (0, 10933),
}
TABLE_4_9: dict[str, tuple[float, float]] = {
    "yellowSquare-bigger": (96.53, 97.78),
    "yellowSquare-smaller": (95.57, 52.29),
    "yellowPattern": (95.76, 99.26),
    "whiteSquare": (95.71, 94.07),
    "whitePattern": (97.11, 98.52),
    "bigYellowSquare": (96.3, 100.0),
}
CURVES = {
    "yellow square": (
        "yellowSquare-smaller",
        "A.2: yellow-square 4 %",
        "A.2: yellow-square 5 %",
        "yellowSquare-bigger",
        "A.2: yellow-square 8 %",
    ),
    "big yellow square": (
        "A.2: big-yellow-square 2 %",
        "bigYellowSquare",
        "A.2: big-yellow-square 6 %",
    ),
}
"""The networks of figures 4.10 and 4.11, by increasing number of poisoned images."""
SHARES = (0.06, 0.6)
"""Poisoned shares of the target class in section 4.2.3."""
SHOWN = "yellowSquare-bigger"
"""The network whose clusters are shown in figure 4.7."""
FIRST_CLUSTERING, FIRST_PRUNING = "clustering first", "pruning first"
CURVE, PROVENANCE, SPECTRAL = "figures 4.10 and 4.11", "section 4.2.3", "table 4.4"


class ThesisAudits(Study):
    """Activation clustering, spectral signatures and provenance as the thesis ran them.

    Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021. Activation clustering removes the
    smaller of two clusters of every class, and the network is trained again on what is left. Then
    its last convolution is pruned (table 4.7); or it is pruned first (tables 4.8 and 4.9).

    Notes:
        The thesis does not say from which weights it trains again; here they are new. After
        fine-pruning, the pruned architecture is trained. The attack success is that on the 450 test
        images of the source class. Table 4.8 says that 44 images were poisoned in the first
        network, where table 4.2 says 52. Section 4.2.3 uses images of the source and the target
        class only; the thesis does not say which images it poisoned.
    """

    title: ClassVar[str] = "Data defenses on the thesis's traffic-sign BadNets"
    paper: ClassVar[str] = "Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021"
    files: ClassVar[tuple[str, ...]] = (DATA,)
    columns: ClassVar[Mapping[str, str]] = {
        "removed_poison": "removed poison",
        "removed": "removed in all",
        "retrained_accuracy": "accuracy, trained again",
        "retrained_attack": "attack, trained again",
        "pruned": "pruned channels",
        "pruned_accuracy": "accuracy, pruned",
        "pruned_attack": "attack, pruned",
        "flagged": "flagged origins",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [
            *self._combined(),
            *self._spectral(),
            *self._curves(),
            *self._provenance(),
        ]

    def _combined(self) -> Iterator[Cell]:
        for name in TABLE_4_2:
            published = combined_figures(TABLE_4_2[name], TABLE_4_3[name], TABLE_4_7[name])
            given = {**self._given(name), "then": self._pruning()}
            if name == SHOWN:
                given["shown"] = True
            yield Cell(f"{name}, {FIRST_CLUSTERING}", given, published, group=FIRST_CLUSTERING)
        for name in TABLE_4_8:
            published = combined_figures(TABLE_4_8[name], TABLE_4_9[name])
            given = {**self._given(name, curves=False), "before": self._pruning()}
            yield Cell(f"{name}, {FIRST_PRUNING}", given, published, group=FIRST_PRUNING)

    def _spectral(self) -> Iterator[Cell]:
        for name in TABLE_4_2:
            given = {"net": self._net(name), "method": SpectralSignatures.preset("thesis")}
            yield Cell(f"{name}, spectral signatures", given, group=SPECTRAL)

    def _curves(self) -> Iterator[Cell]:
        """The networks of the figures that are in no table."""
        for names in CURVES.values():
            for name in names:
                if name not in TABLE_4_2:
                    yield Cell(f"{name}, {FIRST_CLUSTERING}", self._given(name), group=CURVE)

    def _provenance(self) -> Iterator[Cell]:
        recipe = PRESETS["thesis-gtsrb"]
        recipe = recipe if self.scale == "full" else replace(recipe, epochs=1)
        for share in SHARES:
            for trusted in (True, False):
                given = {
                    "net": self._net("yellowSquare-bigger"),
                    "share": share,
                    "trusted": trusted,
                    "method": Provenance.preset("paper", recipe=recipe),
                }
                kind = "trusted" if trusted else "untrusted"
                yield Cell(
                    f"provenance, {share:.0%}, {kind}", given, {"flagged": 0}, group=PROVENANCE
                )

    def _net(self, name: str) -> Net:
        cells = {c.name.removesuffix(", seed 0"): c for c in ThesisBadnets(self.scale).cells()}
        net: Net = cells[name].given["net"]
        return net

    def _given(self, name: str, curves: bool = True) -> dict[str, Any]:
        given = {"net": self._net(name), "method": ActivationClustering.preset("thesis")}
        if curves and any(name in names for names in CURVES.values()):
            given["ours"] = audit_at(self.scale)
        return given

    def _pruning(self) -> FinePruning:
        if self.scale == "full":
            return FinePruning(layer="last", max_drop=0.04)
        return FinePruning(layer="last", max_drop=0.04, tuning=Tuning(steps=5, averaged=0.0))

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        given, net = cell.given, cell.given["net"]
        if "share" in given:
            return self._of_origins(given, workspace)
        subject = subject_of(net, workspace, small=self.scale == "smoke")
        if given["method"] != ActivationClustering.preset("thesis"):
            return removed(given["method"](subject.model, train=subject.train), subject)
        options = {name: given.get(name) for name in ("ours", "before", "then")}
        shown = bool(given.get("shown"))
        return clustered(subject, given["method"], shown=shown, **options)

    def _of_origins(self, given: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
        """Images of the source and the target class only; the network is trained on them."""
        net: Net = given["net"]
        clean, tuning = net.clean_data(workspace)
        two, trusted = (
            s.subset(np.isin(s.known_labels, (SOURCE, TARGET))) for s in (clean, tuning)
        )
        assert net.attack is not None
        targets, sources = (int((two.known_labels == c).sum()) for c in (TARGET, SOURCE))
        number = min(number_for_share(given["share"], targets), sources)
        attack = BadNets(net.attack.trigger, TARGET, SOURCE, number)
        poisoned = attack.poison(two, seed=net.recipe.seed)
        method: Provenance = given["method"]
        assert method.recipe is not None
        model, _ = fit(builder(net.architecture), poisoned.samples, method.recipe)
        subject = Subject(
            model,
            poisoned.samples,
            poisoned.is_poison,
            trusted,
            net.open(workspace, "test"),
            attack,
            SOURCE,
            anew(net.recipe),
        )
        return of_origins(subject, method, trusted=given["trusted"])


def combined_figures(
    removed: tuple[int, int],
    retrained: tuple[float, float],
    pruned: tuple[int, float, float] | None = None,
) -> dict[str, float]:
    """The published figures of activation clustering, by column.

    Args:
        removed: removed poisoned images, and removed images in all.
        retrained: accuracy and attack success in %, trained again.
        pruned: pruned channels, accuracy and attack success in %, if pruning follows.
    """
    names: tuple[str, ...] = ("removed_poison", "removed", "retrained_accuracy", "retrained_attack")
    figures = dict(zip(names, (*removed, *retrained), strict=True))
    if pruned is not None:
        names = ("pruned", "pruned_accuracy", "pruned_attack")
        figures |= dict(zip(names, pruned, strict=True))
    return figures
