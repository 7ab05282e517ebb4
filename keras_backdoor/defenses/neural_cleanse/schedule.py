"""The schedule of a search for triggers: when the mask's norm counts more, and when to stop.

Wang et al., Neural Cleanse, S&P 2019, and its public code.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from keras_backdoor.errors import BadInput

STEPS, PIXELS, MOST = 80, 32 * 32, 3
"""Most steps of a label where images have so many pixels; larger ones have up to three times as
many.

Fixed on development networks (`results/README.md`): for 32x32 images more than 80 steps change
little in the ratio of the smallest norm to the median; for 55x47 faces the median falls by up to a
fifth."""
LEAST = 8
"""Fewest images of a step in a first look, unless the schedule itself has fewer."""


def growth(pixels: int) -> float:
    """How many times the steps that small images are given, for images of so many pixels.

    >>> [round(growth(side * side), 2) for side in (28, 32, 50, 224)]
    [1.0, 1.0, 2.44, 3.0]
    """
    return min(float(MOST), max(1.0, pixels / PIXELS))


@dataclass(frozen=True)
class CostSchedule:
    """What every way of searching has.

    Args:
        steps: most steps a label is given; none means 80 for images of up to 32x32 pixels, and
            in proportion more for larger ones, up to 240.
        batch_size: images of an update.
        learning_rate: of Adam.
        init_cost: weight of the mask's norm when it first counts.
        cost_multiplier: the weight is multiplied by this, or divided by its power 1.5.
        attack_threshold: share of a step's images from which on the attack counts as working.
        patience: steps in a row after which the weight changes.
        early_stop_patience: steps without a smaller mask after which a label has converged.
    """

    steps: int | None = 1000
    batch_size: int = 32
    learning_rate: float = 0.1
    init_cost: float = 1e-3
    cost_multiplier: float = 2.0
    attack_threshold: float = 0.99
    patience: int = 5
    early_stop_patience: int = 25

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "patience", "early_stop_patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {getattr(self, name)}")
        if not 0 < self.attack_threshold <= 1:
            raise BadInput(f"attack_threshold must lie in 0..1: {self.attack_threshold}")
        if self.init_cost <= 0 or self.cost_multiplier <= 1 or self.learning_rate <= 0:
            raise BadInput(
                "learning_rate and init_cost must be above 0 and cost_multiplier above 1."
            )

    def most_steps(self, pixels: int) -> int:
        """Most steps of a label for images of so many pixels.

        >>> [Schedule().most_steps(side * side) for side in (28, 32, 50, 224)]
        [80, 80, 195, 240]
        """
        if self.steps is not None:
            return self.steps
        return round(STEPS * growth(pixels))


@dataclass(frozen=True)
class Schedule(CostSchedule):
    """All labels at once, every update a step.

    With three times the published learning rate and patience to match, as many updates as three
    of the published steps are enough.

    Args:
        starts: searches of a label from other starts, as the place where a mask settles depends
            on its start; the one with the smallest mask half way goes on.
        superpixel: side of the squares that share one value of the mask; none means 1 for images
            of up to 32x32 pixels, and for larger ones what leaves about as many values.
    """

    steps: int | None = None
    learning_rate: float = 0.3
    patience: int = 3
    early_stop_patience: int = 15
    starts: int = 3
    superpixel: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("starts", "superpixel"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {getattr(self, name)}")

    def side(self, pixels: int) -> int:
        """Side of the squares for images of so many pixels.

        >>> [Schedule().side(side * side) for side in (28, 32, 50, 224)]
        [1, 1, 2, 7]
        """
        if self.superpixel is not None:
            return self.superpixel
        return max(1, round((pixels / PIXELS) ** 0.5))

    def glance(self, steps: int, pixels: int) -> "Schedule":
        """For a first look at many labels, with one start each.

        A label has so many steps where images are small. Larger ones have more steps, as in a
        whole search, over fewer images, so that a look at a label costs the same.

        >>> [(p.steps, p.batch_size) for p in (Schedule().glance(30, n * n) for n in (32, 50, 224))]
        [(30, 32), (73, 13), (90, 11)]
        """
        times = growth(pixels)
        fewer = max(min(self.batch_size, LEAST), round(self.batch_size / times))
        return replace(self, steps=round(steps * times), batch_size=fewer, starts=1)


@dataclass(frozen=True)
class Published(CostSchedule):
    """As the public code has it: one label after the other, a step of many updates.

    Args:
        samples: images of a step, in batches of `batch_size`, each batch one update.
        early_stop_threshold: share of the best norm below which a norm counts as smaller.
    """

    samples: int = 1000
    early_stop_threshold: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size > self.samples:
            raise BadInput(f"samples must be at least a batch. Received: {self.samples}")


@dataclass
class Costs:
    """The paper's schedule of the mask's weight, for rows of labels.

    Attributes:
        cost: (r,) weight of the mask's norm; 0 until the attack has worked for a while.
        waiting, up, down: (r,) steps in a row that speak for a start, a rise, a fall.
        rose, fell: (r,) whether the weight ever did.
        best: (r,) smallest norm with a working attack.
        stale: (r,) steps without a smaller one.
    """

    cost: np.ndarray
    waiting: np.ndarray
    up: np.ndarray
    down: np.ndarray
    rose: np.ndarray
    fell: np.ndarray
    best: np.ndarray
    stale: np.ndarray

    @classmethod
    def start(cls, rows: int) -> "Costs":
        """Before the first step."""

        def none() -> np.ndarray:
            return np.zeros(rows, np.int64)

        never, best = np.zeros(rows, bool), np.full(rows, np.inf)
        return cls(np.zeros(rows), none(), none(), none(), never, never.copy(), best, none())

    def part(self, rows: np.ndarray) -> "Costs":
        """The state of some rows."""
        return Costs(*(getattr(self, f.name)[rows] for f in fields(self)))

    def put(self, rows: np.ndarray, part: "Costs") -> None:
        """Write the state of some rows back."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)


def advance(state: Costs, attack: np.ndarray, norm: np.ndarray, plan: CostSchedule) -> Any:
    """One step of the paper's schedule, in place.

    Args:
        state: before the step.
        attack: (r,) share of the step's images that went to the label.
        norm: (r,) L1 norm of the mask that did it.
        plan: the settings.

    Returns:
        (improved (r,), converged (r,)): rows whose mask is the best so far, and rows that stop.

    >>> state, plan = Costs.start(1), Schedule(patience=2)
    >>> for _ in range(4):
    ...     _ = advance(state, np.array([1.0]), np.array([9.0]), plan)
    >>> float(state.cost[0])
    0.002
    """
    works = attack >= plan.attack_threshold
    improved = works & (norm < state.best)
    state.best = np.where(improved, norm, state.best)
    state.stale = np.where(improved | np.isinf(state.best), 0, state.stale + 1)
    state.waiting = np.where(works & (state.cost == 0), state.waiting + 1, 0)
    begins = state.waiting >= plan.patience
    state.cost = np.where(begins, plan.init_cost, state.cost)
    state.up, state.down = np.where(begins, 0, state.up), np.where(begins, 0, state.down)
    # As in the public code, the step that begins counts towards the first rise.
    begun = state.cost > 0
    state.up = np.where(works & begun, state.up + 1, 0)
    state.down = np.where(~works & begun, state.down + 1, 0)
    rises, falls = state.up >= plan.patience, state.down >= plan.patience
    state.cost = np.where(rises, state.cost * plan.cost_multiplier, state.cost)
    state.cost = np.where(falls, state.cost / plan.cost_multiplier**1.5, state.cost)
    state.up, state.down = np.where(rises, 0, state.up), np.where(falls, 0, state.down)
    state.rose, state.fell = state.rose | rises, state.fell | falls
    converged = state.rose & state.fell & (state.stale >= plan.early_stop_patience)
    return improved, converged
