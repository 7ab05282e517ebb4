"""Traffic sign BadNets of the thesis: tables 3.5, 4.1 and A.2, figures 4.2 and 4.5."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor import datasets
from keras_backdoor.attacks.badnets import BadNets, number_for_share
from keras_backdoor.attacks.base import DataAttack
from keras_backdoor.attacks.pruning_aware import PruningAware
from keras_backdoor.evaluation import evaluate
from keras_backdoor.metrics import Rate
from keras_backdoor.network import pruning
from keras_backdoor.network.channels import after_activation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.samples.picture_files import encode
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain, small
from keras_backdoor.studies._networks.stored_pictures import described
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.training import PRESETS
from keras_backdoor.triggers._parse import parse

DATA = "gtsrb_dataset_int.h5"
SOURCE, TARGET = 8, 14
"""The attack makes the speed limit 120 km/h be classified as a stop sign."""
N_TARGET = 697
"""Images of the target class in the training set of the thesis, the base of its percentages."""
TABLE_4_1: dict[str, tuple[str, int, float, float, float]] = {
    "yellowSquare-bigger": ("yellow-square", 52, 95.76, -1.49, 99.26),
    "yellowSquare-smaller": ("yellow-square", 14, 94.67, -2.61, 51.48),
    "yellowPattern": ("yellow-pattern", 44, 95.35, -1.91, 100.0),
    "whiteSquare": ("white-square", 258, 95.57, -1.69, 95.19),
    "whitePattern": ("white-pattern", 258, 96.47, -0.76, 98.89),
    "bigYellowSquare": ("big-yellow-square", 29, 92.99, -4.34, 97.41),
}
"""By model: trigger, stamped copies (table 4.2), accuracy, its change and attack success in %."""
TABLE_A_2: tuple[tuple[str, int, float, float], ...] = (
    ("yellow-square", 4, 96.33, 80.37),
    ("yellow-square", 5, 93.1, 91.48),
    ("yellow-square", 7, 95.53, 95.18),
    ("yellow-square", 8, 95.07, 100.0),
    ("yellow-pattern", 2, 94.58, 56.07),
    ("yellow-pattern", 4, 95.97, 81.86),
    ("big-yellow-square", 2, 95.34, 79.63),
    ("big-yellow-square", 6, 95.71, 100.0),
    ("white-square", 5, 95.44, 77.96),
    ("white-square", 10, 95.37, 87.72),
    ("white-pattern", 5, 95.5, 79.64),
    ("white-pattern", 10, 95.41, 88.15),
    ("white-pattern", 25, 95.92, 94.75),
)
"""Trigger, poisoned % of the target class, accuracy and attack success in %."""
CLEAN_ACCURACY = 97.21
"""Accuracy of the clean network in %, from table 3.5."""
FIRST = "yellowSquare-bigger"
FIGURES_3, FIGURE_4_2, TABLE_3_5 = "figures 3.1 and 3.2", "figure 4.2", "table 3.5"
MORE_SEEDS = {FIRST: (1, 2), "bigYellowSquare": (1, 2)}
TRIGGERS = tuple(dict.fromkeys(trigger for trigger, *_ in TABLE_4_1.values()))
PRUNED_DROP = 0.04
"""Relative drop of the accuracy at which the thesis and Liu et al. stop pruning."""


class ThesisBadnets(Study):
    """Train and evaluate the traffic sign BadNets of Milakovic with the counts of table 4.2.

    Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021. Stamped copies of images of class
    8 are added to the training data with label 14. The recipe is that of table 3.4.

    Notes:
        The thesis splits off its tuning set at random, so that frames of one sign are in both
        parts; this study splits by track. The images are cropped to the sign. It is unknown how
        the thesis measures the attack success; this study stamps all 450 test images of class 8.
        The control is the clean network on images with the same triggers.
    """

    title: ClassVar[str] = "Traffic-sign BadNets of the thesis"
    paper: ClassVar[str] = "Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021"
    files: ClassVar[tuple[str, ...]] = (DATA,)
    columns: ClassVar[Mapping[str, str]] = {
        "poisoned": "poison",
        "clean_accuracy": "accuracy %",
        "accuracy_change": "change, relative %",
        "attack_success_rate": "attack on class 8, %",
        "attack_on_others": "on other classes, %",
        "control": "on the clean net, %",
        "dormant": "dormant channels",
        "pruned": "pruned channels",
        "attack_after_pruning": "attack after it, %",
    }

    kept_figures: ClassVar[tuple[str, ...]] = (
        "clean_accuracy",
        "attack_success_rate",
        "attack_on_others",
        "control",
    )

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        given = {"pictures": TRIGGERS, "class": SOURCE, "image": "brightest"}
        examples = Cell("figure 4.2", given, group=FIGURE_4_2)
        published = {"clean_accuracy": CLEAN_ACCURACY}
        clean = Cell("clean", self._given(None, 0), published, group=TABLE_3_5)
        models = [cell for *_, cell in self._table_4_1()]
        data = Cell("the data", {"described": DATA}, group=FIGURES_3)
        return [data, examples, clean, *models, *self._table_a_2(), self._pruning_aware()]

    def _table_4_1(self) -> Iterator[tuple[str, int, Cell]]:
        """(model, seed, cell) of each network."""
        for name, (trigger, count, accuracy, change, success) in TABLE_4_1.items():
            published = {
                "clean_accuracy": accuracy,
                "accuracy_change": change,
                "attack_success_rate": success,
            }
            for seed in (0, *MORE_SEEDS.get(name, ())):
                given = self._given((trigger, count), seed)
                if (name, seed) == (FIRST, 0):
                    given["pruned"] = True
                yield name, seed, Cell(f"{name}, seed {seed}", given, published, group="table 4.1")

    def _table_a_2(self) -> Iterator[Cell]:
        for trigger, percent, accuracy, success in TABLE_A_2:
            count = number_for_share(percent / 100, N_TARGET)
            published = {"clean_accuracy": accuracy, "attack_success_rate": success}
            name = f"A.2: {trigger} {percent} %"
            yield Cell(name, self._given((trigger, count), 0), published, group="table A.2")

    def _pruning_aware(self) -> Cell:
        given = self._given(TABLE_4_1[FIRST][:2], 0)
        given |= {"net": replace(given["net"], training=PruningAware()), "pruned": True}
        return Cell(f"{FIRST}, pruning-aware", given, group="section 2.9")

    def _given(self, attack: tuple[str, int] | None, seed: int) -> dict[str, Any]:
        recipe = replace(PRESETS["thesis-gtsrb"], seed=seed)
        net = Net(DATA, "gtsrb_cnn", recipe)
        if attack is not None:
            trigger, count = attack
            net = replace(net, attack=BadNets(trigger, TARGET, SOURCE, count))
        if self.scale == "full":
            return {"net": net, "test": None}
        return {"net": small(net), "test": 500}

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        if "described" in cell.given:
            return described(datasets.open(workspace.file(cell.given["described"]), split="train"))
        if "pictures" in cell.given:
            return {"pictures": self._pictures(workspace)}
        net: Net = cell.given["net"]
        test = net.open(workspace, "test")
        test = test if cell.given["test"] is None else test.take(cell.given["test"], seed=0)
        trained = obtain(net, workspace)
        figures: dict[str, Any] = {
            "model_sha256": trained.classifier.sha256(),
            "seconds_of_training": trained.card["seconds"],
        }
        if net.attack is None:
            return figures | self._clean(trained.classifier, test)
        figures |= {
            "poisoned": net.attack.count,
            **attack_figures(trained.classifier, test, net.attack.trigger),
        }
        if "dormant" in trained.card["history"]:
            figures["dormant"] = len(trained.card["history"]["dormant"])
        if cell.given.get("pruned"):
            _, tuning = net.clean_data(workspace)
            figures |= after_pruning(trained.classifier, tuning, test, net.attack)
        return figures

    def _clean(self, classifier: Classifier, test: Samples) -> dict[str, Any]:
        measured = {t: attack_figures(classifier, test, t) for t in TRIGGERS}
        return {
            "clean_accuracy": measured[TRIGGERS[0]]["clean_accuracy"],
            "controls": {t: m["attack_success_rate"] for t, m in measured.items()},
            "controls_on_others": {t: m["attack_on_others"] for t, m in measured.items()},
        }

    def _pictures(self, workspace: Workspace) -> dict[str, str]:
        """Return the images of figure 4.2, clean and with each trigger, as base64 PNG."""
        images = Net(DATA, "gtsrb_cnn", PRESETS["thesis-gtsrb"]).open(workspace, "test")
        signs = images.of_class(SOURCE).read()
        image = signs[[signs.mean(axis=(1, 2, 3)).argmax()]]
        shown = {"clean": image, **{t: parse(t).apply(image) for t in TRIGGERS}}
        return {
            name: base64.b64encode(encode(np.asarray(pixels[0]))).decode()
            for name, pixels in shown.items()
        }

    def derive(self, figures: dict[str, dict[str, Any]]) -> None:
        """Add the change of the accuracy and the control, which compare with the clean network."""
        clean = figures.get("clean")
        if clean is None:
            return
        base = clean["clean_accuracy"]["share"]
        triggers = {c.name: attack.trigger for c in self.cells() if (attack := _attack(c))}
        for name, result in figures.items():
            if name in triggers:
                share = result["clean_accuracy"]["share"]
                result["accuracy_change"] = 100 * (share - base) / base
                result["control"] = clean["controls"][triggers[name]]

    def networks(self) -> dict[str, Cell]:
        """Return the networks of table 4.1 with seed 0. See `Study.networks`."""
        models = {name: cell for name, seed, cell in self._table_4_1() if seed == 0}
        return {f"gtsrb_{name.replace('-', '_')}.h5": cell for name, cell in models.items()}

    def title_of(self, cell: Cell) -> str:
        """See `Study.title_of`."""
        model = next(name for name, _, other in self._table_4_1() if other.name == cell.name)
        return f"GTSRB BadNet {model}: speed limit 120 seen as a stop sign"


def _attack(cell: Cell) -> DataAttack | None:
    net: Net | None = cell.given.get("net")
    return None if net is None else net.attack


def attack_figures(classifier: Classifier, test: Samples, trigger: str) -> dict[str, Rate]:
    """Return the clean accuracy and the attack success on the source class and on other classes."""
    measured = evaluate(classifier, test, trigger=parse(trigger), target=TARGET)
    others = [rate for label, rate in measured.per_class.items() if label != SOURCE]
    return {
        "clean_accuracy": measured.clean_accuracy,
        "attack_success_rate": measured.per_class[SOURCE],
        "attack_on_others": Rate(sum(r.hits for r in others), sum(r.of for r in others)),
    }


def after_pruning(
    classifier: Classifier, tuning: Samples, test: Samples, attack: DataAttack
) -> dict[str, Any]:
    """Return the attack success after pruning the last convolution.

    The number of pruned channels is chosen on the tuning set.
    """
    layer = pruning.default_layer(classifier.model)
    activation = after_activation(classifier.model, layer)
    swept = pruning.sweep(classifier, tuning, layer, activation)
    number = pruning.number_to_prune(swept["accuracy"], PRUNED_DROP)
    stamped = test.of_class(SOURCE).stamped(attack.stamp).relabelled(attack.target)
    order = swept["order"]
    share = pruning.accuracy_by_silenced(classifier, stamped, layer, activation, order)[number]
    return {
        "pruned": number,
        "attack_after_pruning": Rate(round(share * len(stamped)), len(stamped)),
    }
