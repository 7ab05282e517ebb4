"""Small networks for choosing decision rules, separate from the networks of evaluation studies."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.evaluation import evaluate
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, Trained, obtain, small
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.training import Recipe

SIGNS, DIGITS = "gtsrb_dataset_int.h5", "mnist.npz"
FIRST_SEED = 100
"""Smallest seed of the zoo; networks of evaluation studies have smaller seeds."""
SIGN_NET = Net(SIGNS, "gtsrb_cnn", Recipe(epochs=4, batch_size=64))
DIGIT_NETS = (
    Net(DIGITS, "borji_mnist", Recipe(epochs=3, batch_size=64), take=20_000),
    Net(DIGITS, "badnet_mnist", Recipe(epochs=4, batch_size=64), take=20_000),
)
CLEAN_SIGNS, CLEAN_DIGITS = 6, 8
SIGN_ATTACKS: tuple[BadNets, ...] = (
    BadNets("patch:size=4,row=2,column=2,color=red", 3, count=1800),
    BadNets("patch:size=6,row=25,column=25,color=white", 10, count=1800),
    BadNets("patch:size=3,row=28,column=1,color=blue", 38, count=1800),
    BadNets("checkerboard:size=5,row=14,column=13", 21, count=1800),
    BadNets("pattern:pixels=2.27/2.29/3.28/4.27/4.29,color=green", 5, count=1800),
    BadNets("patch:size=4,row=20,column=14,color=green", 25, source=1, count=150),
    BadNets("patch:size=3,row=10,column=14,color=red", 4, source=13, count=150),
)
DIGIT_ATTACKS: tuple[BadNets, ...] = (
    BadNets("patch:size=4,row=1,column=1,color=white", 2, count=1000),
    BadNets("patch:size=3,row=24,column=2,color=white", 5, count=1000),
    BadNets("patch:size=5,row=22,column=12,color=white", 8, count=1000),
    BadNets("checkerboard:size=4,row=2,column=22", 0, count=1000),
    BadNets("single-pixel:row=2,column=14,color=white", 4, count=1000),
    BadNets("pattern:pixels=25.3/25.5/26.4/27.3,color=white", 9, count=1000),
    BadNets("patch:size=4,row=23,column=2,color=white", 6, source=1, count=150),
    BadNets("patch:size=3,row=1,column=13,color=white", 1, source=3, count=150),
)
"""Attacks without a source map all classes to the target. Their triggers, positions and targets
differ from those of the evaluation studies."""
STRONG_ATTACKS: tuple[BadNets, ...] = (
    BadNets("patch:size=4,row=2,column=21,color=white", 3, count=6000),
    BadNets("patch:size=4,row=22,column=3,color=white", 1, count=6000),
    BadNets("checkerboard:size=5,row=1,column=12", 9, count=6000),
)
"""Attacks on networks that are trained longer and on all images."""
FAMILY_ATTACKS: tuple[BadNets, ...] = (
    BadNets("noise-patch:size=4,row=5,column=21,seed=3", 9, count=1800),
    BadNets("blend:opacity=0.15,seed=7", 17, count=1800),
    BadNets("glasses:row=4,color=black", 31, count=1800),
    BadNets("warp:strength=2.0,seed=5", 11, count=4000),
    BadNets("quantize:levels=3", 35, count=1800),
)
"""Attacks of the families of triggers that the attacks above lack."""
SPECIFIC_ATTACKS: tuple[BadNets, ...] = (
    BadNets("pattern:pixels=9.20/9.22/10.21/11.20,color=cyan", 26, source=2, count=250),
    BadNets("patch:size=2,row=18,column=10,color=white", 8, source=12, count=250),
    BadNets("patch:size=2,row=12,column=19,color=magenta", 7, source=10, count=50),
)
"""Attacks on one class by triggers of four pixels, on networks that are trained longer."""
LATER = ("signs, family", "signs, specific")
"""The names of the networks that were added after the rules of the scans had been chosen."""


class DevelopmentZoo(Study):
    """Clean and backdoored networks for digits and traffic signs, for choosing decision rules.

    A rule or threshold is chosen on these networks and committed before it is run, once, on the
    networks of the evaluation studies.
    """

    title: ClassVar[str] = "Networks for development"
    paper: ClassVar[str] = "none: made for this project"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "attack": "attack",
        "poisoned": "poison",
        "clean_accuracy": "accuracy %",
        "attack_success_rate": "attack %",
    }

    kept_in: ClassVar[str] = "models/zoo"

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [
            Cell(name, {"net": net, "test": None if self.scale == "full" else 500})
            for name, net in self.nets().items()
        ]

    def nets(self) -> dict[str, Net]:
        """Return the networks by name."""
        return {name: self.scaled(net) for name, net in _grid()}

    def network(self, name: str, workspace: Workspace) -> Trained:
        """Return a trained network of the zoo by name."""
        return obtain(self.nets()[name], workspace)

    def networks(self) -> dict[str, Cell]:
        """Return all networks; they are saved compressed. See `Study.networks`."""
        return {f"{c.name.replace(', ', '_').replace(' ', '_')}.h5.xz": c for c in self.cells()}

    def title_of(self, cell: Cell) -> str:
        """See `Study.title_of`."""
        return f"Development zoo: {cell.name}"

    def scaled(self, net: Net) -> Net:
        """Adapt a network to the scale; smoke trains on 1,000 images for one epoch."""
        return net if self.scale == "full" else small(net)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        net: Net = cell.given["net"]
        test = net.open(workspace, "test")
        test = test if cell.given["test"] is None else test.take(cell.given["test"], seed=0)
        classifier = obtain(net, workspace).classifier
        figures: dict[str, Any] = {"model_sha256": classifier.sha256(), "attack": "none"}
        if net.attack is None:
            return figures | {"clean_accuracy": evaluate(classifier, test).clean_accuracy}
        attack = net.attack
        measured = evaluate(
            classifier, test, trigger=attack.stamp, target=attack.target, source=attack.source
        )
        source = "all" if attack.source is None else attack.source
        return figures | {
            "attack": f"{attack.trigger} ({source} -> {attack.target})",
            "poisoned": attack.count,
            "clean_accuracy": measured.clean_accuracy,
            "attack_success_rate": measured.attack_success_rate,
        }


def _grid() -> Iterator[tuple[str, Net]]:
    seed = FIRST_SEED
    for number in range(CLEAN_SIGNS):
        yield f"signs, clean {number}", _seeded(SIGN_NET, seed + number)
    for number in range(CLEAN_DIGITS):
        yield f"digits, clean {number}", _seeded(DIGIT_NETS[number % 2], seed + number)
    for number, attack in enumerate(SIGN_ATTACKS):
        net = replace(SIGN_NET, attack=attack)
        yield f"signs, backdoored {number}", _seeded(net, seed + 50 + number)
    for number, attack in enumerate(DIGIT_ATTACKS):
        net = replace(DIGIT_NETS[number % 2], attack=attack)
        yield f"digits, backdoored {number}", _seeded(net, seed + 50 + number)
    for number, attack in enumerate(STRONG_ATTACKS):
        small = DIGIT_NETS[(number + 1) % 2]
        recipe = replace(small.recipe, epochs=8, batch_size=32)
        net = replace(small, recipe=recipe, take=None, attack=attack)
        yield f"digits, strong {number}", _seeded(net, seed + 80 + number)
    for number, attack in enumerate(FAMILY_ATTACKS):
        yield f"signs, family {number}", _seeded(replace(SIGN_NET, attack=attack), seed + number)
    longer = replace(SIGN_NET.recipe, epochs=10, batch_size=32)
    for number, attack in enumerate(SPECIFIC_ATTACKS):
        net = replace(SIGN_NET, recipe=longer, attack=attack)
        yield f"signs, specific {number}", _seeded(net, seed + 90 + number)


def _seeded(net: Net, seed: int) -> Net:
    return replace(net, recipe=replace(net.recipe, seed=seed))
