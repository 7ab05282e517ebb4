"""The schedule of a search for triggers: how much the norm of the mask counts, and when to stop.

Wang et al., Neural Cleanse, S&P 2019, and its public code.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from keras_backdoor.errors import BadInput

INITIAL_COST, COST_MULTIPLIER = 1e-3, 2.0
"""Weight of the norm when it first counts, and the factor by which it rises; it falls by the factor
to the power of 1.5. As in the published code."""
STEPS, PIXELS, MAX_GROWTH = 80, 32 * 32, 3
"""Steps of a search on images of up to so many pixels; larger images get up to three times as many.

Fixed on development networks (`results/README.md`): for 32x32 images more than 80 steps change
little in the ratio of the smallest norm to the median; for 55x47 faces the median falls by up to a
fifth."""
QUICK_BATCH = 8
"""Fewest images of a step of the quick schedule, unless the schedule itself has fewer."""


def growth(pixels: int) -> float:
    """The factor by which images of so many pixels get more steps than small images.

    >>> [round(growth(side * side), 2) for side in (28, 32, 50, 224)]
    [1.0, 1.0, 2.44, 3.0]
    """
    return min(float(MAX_GROWTH), max(1.0, pixels / PIXELS))


@dataclass(frozen=True)
class Schedule:
    """The settings of a search; every update of the mask and the pattern is one step.

    With three times the learning rate of the published code, and a patience to match, as many
    updates as the published code makes in three steps are enough.

    Args:
        steps: the largest number of steps of a search. By default 80 for images of up to 32x32
            pixels, and in proportion more for larger images, up to 240.
        batch_size: the number of images in each step.
        learning_rate: the learning rate of the Adam optimizer.
        attack_threshold: the share of the images of a step that must reach the target for the
            attack to count as working.
        patience: the number of steps in a row after which the weight of the norm changes.
        early_stop_patience: the number of steps without a smaller mask after which a search has
            converged.
        starts: the number of searches of each target from different starts, because the place
            where a mask settles depends on its start. Half way the one with the smallest mask
            goes on alone.
        superpixel: the side of the squares of pixels that share one value of the mask. By default
            1 for images of up to 32x32 pixels; larger images get about as many values.
    """

    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 0.3
    attack_threshold: float = 0.99
    patience: int = 3
    early_stop_patience: int = 15
    starts: int = 3
    superpixel: int | None = None

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "patience", "early_stop_patience", "starts", "superpixel")
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"{name} must be 1 or more. Received: {name}={getattr(self, name)}")
        if not 0 < self.attack_threshold <= 1:
            raise BadInput(
                "attack_threshold must lie in 0..1. "
                f"Received: attack_threshold={self.attack_threshold}"
            )
        if self.learning_rate <= 0:
            raise BadInput(
                f"learning_rate must be above 0. Received: learning_rate={self.learning_rate}"
            )

    def max_steps(self, pixels: int) -> int:
        """The largest number of steps for images of so many pixels.

        >>> [Schedule().max_steps(side * side) for side in (28, 32, 50, 224)]
        [80, 80, 195, 240]
        """
        return self.steps if self.steps is not None else round(STEPS * growth(pixels))

    def superpixel_side(self, pixels: int) -> int:
        """The side of the squares for images of so many pixels.

        >>> [Schedule().superpixel_side(side * side) for side in (28, 32, 50, 224)]
        [1, 1, 2, 7]
        """
        if self.superpixel is not None:
            return self.superpixel
        return max(1, round((pixels / PIXELS) ** 0.5))

    def quick(self, steps: int, pixels: int) -> "Schedule":
        """The schedule of a first look at many targets, with one start each.

        Small images get so many steps. Larger ones get more steps, as in a whole search, over
        fewer images, so that the cost of each target stays the same.

        >>> [(p.steps, p.batch_size) for p in (Schedule().quick(30, n * n) for n in (32, 50, 224))]
        [(30, 32), (73, 13), (90, 11)]
        """
        times = growth(pixels)
        fewer = max(min(self.batch_size, QUICK_BATCH), round(self.batch_size / times))
        return replace(self, steps=round(steps * times), batch_size=fewer, starts=1)


@dataclass
class CostState:
    """The state of the published schedule for s searches.

    Attributes:
        cost: (s,) weight of the norm; 0 until the attack has worked for a while.
        waiting, up, down: (s,) steps in a row that count towards a start, a rise, a fall.
        rose, fell: (s,) whether the weight ever did.
        best: (s,) smallest norm with a working attack.
        stale: (s,) steps without a smaller one.
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
    def start(cls, searches: int) -> "CostState":
        """The state before the first step."""

        def zeros() -> np.ndarray:
            return np.zeros(searches, np.int64)

        never, best = np.zeros(searches, bool), np.full(searches, np.inf)
        return cls(
            np.zeros(searches), zeros(), zeros(), zeros(), never, never.copy(), best, zeros()
        )

    def select(self, chosen: np.ndarray) -> "CostState":
        """The state of some searches."""
        return CostState(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def assign(self, chosen: np.ndarray, state: "CostState") -> None:
        """Write the state of some searches back."""
        for field in fields(self):
            getattr(self, field.name)[chosen] = getattr(state, field.name)


def update(
    state: CostState, attack: np.ndarray, norm: np.ndarray, plan: Schedule
) -> tuple[np.ndarray, np.ndarray]:
    """One step of the published schedule, in place.

    Args:
        state: before the step.
        attack: (s,) share of the images of the step that reached the target.
        norm: (s,) L1 norm of the mask in this step.
        plan: the settings.

    Returns:
        (improved (s,), converged (s,)): whether the mask is the best so far, and whether the
        search ends.

    >>> state, plan = CostState.start(1), Schedule(patience=2)
    >>> for _ in range(4):
    ...     _ = update(state, np.array([1.0]), np.array([9.0]), plan)
    >>> float(state.cost[0])
    0.002
    """
    works = attack >= plan.attack_threshold
    improved = works & (norm < state.best)
    state.best = np.where(improved, norm, state.best)
    state.stale = np.where(improved | np.isinf(state.best), 0, state.stale + 1)
    state.waiting = np.where(works & (state.cost == 0), state.waiting + 1, 0)
    begins = state.waiting >= plan.patience
    state.cost = np.where(begins, INITIAL_COST, state.cost)
    state.up, state.down = np.where(begins, 0, state.up), np.where(begins, 0, state.down)
    # As in the public code, the step that begins counts towards the first rise.
    begun = state.cost > 0
    state.up = np.where(works & begun, state.up + 1, 0)
    state.down = np.where(~works & begun, state.down + 1, 0)
    rises, falls = state.up >= plan.patience, state.down >= plan.patience
    state.cost = np.where(rises, state.cost * COST_MULTIPLIER, state.cost)
    state.cost = np.where(falls, state.cost / COST_MULTIPLIER**1.5, state.cost)
    state.up, state.down = np.where(rises, 0, state.up), np.where(falls, 0, state.down)
    state.rose, state.fell = state.rose | rises, state.fell | falls
    converged = state.rose & state.fell & (state.stale >= plan.early_stop_patience)
    return improved, converged
