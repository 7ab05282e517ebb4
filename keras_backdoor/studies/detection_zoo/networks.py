"""The networks of the detection zoo: two halves of 30 clean and 32 backdoored networks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from keras_backdoor.attacks.all_to_all import AllToAll
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.attacks.base import DataAttack
from keras_backdoor.attacks.clean_label import CleanLabel
from keras_backdoor.attacks.wanet import WaNet
from keras_backdoor.studies._networks.network_store import Net
from keras_backdoor.training import Recipe

SIGNS, DIGITS = "gtsrb_dataset_int.h5", "mnist.npz"
DEVELOPMENT, JUDGED = "development", "judged"
HALVES = {DEVELOPMENT: 300, JUDGED: 500}
"""The first seed of each half."""
IMAGES = 12_000
"""The number of images of a network; the defender gets a tenth of them, which is held out."""
CLEAN = {"signs": 16, "digits": 14}
"""The number of clean networks of each half."""
NETS: dict[str, tuple[Net, ...]] = {
    "signs": (
        Net(SIGNS, "gtsrb_cnn", Recipe(epochs=6, batch_size=32), take=IMAGES),
        Net(SIGNS, "resnet_8", Recipe(epochs=6, batch_size=32), take=IMAGES),
    ),
    "digits": (
        Net(DIGITS, "borji_mnist", Recipe(epochs=3, batch_size=32), take=IMAGES),
        Net(DIGITS, "resnet_8", Recipe(epochs=3, batch_size=32), take=IMAGES),
        Net(DIGITS, "badnet_mnist", Recipe(epochs=6, batch_size=32), take=IMAGES),
    ),
}
CLASSES = {"signs": 43, "digits": 10}
SIDE = {"signs": 32, "digits": 28}
"""The side of the images; residual networks get digits with 32x32 pixels."""
ALL_TO_ONE, ONE_TO_ONE, NEXT = "all to one", "one class to one", "all to all"
BLEND, WARP, SINUSOID, CLEAN_LABEL = "blend", "warp", "sinusoid", "clean label"
COLORS = ("white", "black", "yellow", "green", "red", "blue", "cyan", "magenta")
RATES = {"signs": (0.1, 0.03, 0.01, 0.003), "digits": (0.1, 0.03, 0.01, 0.001)}
"""The shares of poisoned images of the patches that lead from all classes to one."""


@dataclass(frozen=True)
class Member:
    """A network of the zoo.

    Attributes:
        half: `DEVELOPMENT` or `JUDGED`.
        data: signs or digits.
        family: the family of the attack, or "clean".
        net: the network.
    """

    half: str
    data: str
    family: str
    net: Net


def members() -> dict[str, Member]:
    """All networks by name."""
    return {name: member for half in HALVES for name, member in _half(half)}


def _half(half: str) -> Iterator[tuple[str, Member]]:
    seed = HALVES[half]
    for data, number in CLEAN.items():
        for position in range(number):
            net = _seeded(data, position, seed)
            yield f"{half}, {data}, clean {position}", Member(half, data, "clean", net)
            seed += 1
    for data in NETS:
        rng = np.random.default_rng([HALVES[half], len(data)])
        counted: dict[str, int] = {}
        for position, (family, attack) in enumerate(_attacks(data, rng)):
            number = counted[family] = counted.get(family, -1) + 1
            net = replace(_seeded(data, position, seed), attack=attack)
            yield f"{half}, {data}, {family} {number}", Member(half, data, family, net)
            seed += 1


def _seeded(data: str, position: int, seed: int) -> Net:
    net = NETS[data][position % len(NETS[data])]
    return replace(net, recipe=replace(net.recipe, seed=seed))


def _attacks(data: str, rng: np.random.Generator) -> Iterator[tuple[str, DataAttack]]:
    """The attacks of a half, with drawn triggers, positions, colors and targets."""
    draw = _Draw(data, rng)
    for rate in RATES[data]:
        yield ALL_TO_ONE, BadNets(draw.patch(), draw.target(), fraction=rate)
    yield ALL_TO_ONE, BadNets(draw.checkerboard(), draw.target(), fraction=0.03)
    yield ALL_TO_ONE, BadNets(draw.pattern(), draw.target(), fraction=0.03)
    yield ALL_TO_ONE, BadNets(draw.noise(), draw.target(), fraction=0.03)
    for opacity, rate in ((0.2, 0.05), (0.1, 0.1))[: 2 if data == "signs" else 1]:
        blend = f"blend:opacity={opacity},seed={draw.number()}"
        yield BLEND, BadNets(blend, draw.target(), fraction=rate)
    for strength in (1.5, 2.5)[-2 if data == "signs" else -1 :]:
        warp = WaNet(draw.target(), fraction=0.1, noisy=1.0, strength=strength, field=draw.number())
        yield WARP, warp
    wave = f"sinusoid:delta=0.08,frequency={draw.rng.integers(4, 9)}"
    yield SINUSOID, BadNets(wave, draw.target(), fraction=0.05)
    for share in (0.5, 0.2):
        source, target = draw.pair()
        yield ONE_TO_ONE, BadNets(draw.patch(), target, source=source, fraction=share)
    yield NEXT, AllToAll(draw.patch(), fraction=0.1)
    delta = 0.2 if data == "signs" else 0.4
    wave = f"sinusoid:delta={delta},frequency={draw.rng.integers(4, 9)}"
    yield CLEAN_LABEL, CleanLabel(wave, draw.frequent(), fraction=0.7)
    yield CLEAN_LABEL, CleanLabel(draw.patch(), draw.frequent(), fraction=0.7)


@dataclass(frozen=True)
class _Draw:
    """Draws triggers and classes.

    Attributes:
        data: signs or digits.
        rng: the random generator.
    """

    data: str
    rng: np.random.Generator

    def number(self) -> int:
        """A seed."""
        return int(self.rng.integers(1000))

    def target(self) -> int:
        """A class."""
        return int(self.rng.integers(CLASSES[self.data]))

    def frequent(self) -> int:
        """A class with many images: of the signs, the speed limits and the next ones."""
        return int(self.rng.integers(1, 15 if self.data == "signs" else 10))

    def pair(self) -> tuple[int, int]:
        """Two different classes, the first with many images."""
        source, target = self.frequent(), self.target()
        return source, target if target != source else (target + 1) % CLASSES[self.data]

    def patch(self) -> str:
        """A square of 2 to 5 pixels, of a color."""
        size = int(self.rng.integers(2, 6))
        row, column = self._corner(size)
        return f"patch:size={size},row={row},column={column},color={self._color()}"

    def checkerboard(self) -> str:
        """A checkerboard of 3 to 5 pixels."""
        size = int(self.rng.integers(3, 6))
        row, column = self._corner(size)
        return f"checkerboard:size={size},row={row},column={column}"

    def pattern(self) -> str:
        """Five of the pixels of a square of 4 pixels."""
        row, column = self._corner(4)
        chosen = np.sort(self.rng.choice(16, 5, replace=False))
        pixels = "/".join(f"{row + p // 4}.{column + p % 4}" for p in chosen)
        return f"pattern:pixels={pixels},color={self._color()}"

    def noise(self) -> str:
        """A square of noise of 3 or 4 pixels."""
        size = int(self.rng.integers(3, 5))
        row, column = self._corner(size)
        return f"noise-patch:size={size},row={row},column={column},seed={self.number()}"

    def _corner(self, size: int) -> tuple[int, int]:
        row, column = self.rng.integers(0, SIDE[self.data] - size + 1, 2)
        return int(row), int(column)

    def _color(self) -> str:
        return "white" if self.data == "digits" else str(self.rng.choice(COLORS))
