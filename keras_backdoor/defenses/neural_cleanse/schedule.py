"""The schedule of a trigger search: the weight of the mask's norm, and the stopping rule.

Wang et al., Neural Cleanse, S&P 2019, and its public code.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from keras_backdoor.errors import BadInput

INITIAL_COST, COST_MULTIPLIER = 1e-3, 2.0
"""The first positive weight of the norm, and the factor by which the weight rises. It falls by the
factor to the power of 1.5, as in the published code."""
STEPS, PIXELS, MAX_GROWTH = 80, 32 * 32, 3
"""The steps of a search for images of up to `PIXELS` pixels, and their largest factor for others.

The values were selected on development networks (`results/README.md`). For 32x32 images, more than
80 steps change the ratio of the smallest norm to the median little. For 55x47 images of faces, they
lower the median by up to a fifth."""
QUICK_BATCH = 8
"""The smallest batch size of a quick schedule, unless the schedule itself has a smaller one."""


def growth(pixels: int) -> float:
    """The factor by which the steps of a search grow with the size of the images.

    Args:
        pixels: the number of pixels of an image.

    Returns:
        1 for images of up to 32x32 pixels, and up to 3 for larger ones.

    >>> [round(growth(side * side), 2) for side in (28, 32, 50, 224)]
    [1.0, 1.0, 2.44, 3.0]
    """
    return min(float(MAX_GROWTH), max(1.0, pixels / PIXELS))


@dataclass(frozen=True)
class Schedule:
    """The settings of a trigger search, where a step is one update of the mask and the pattern.

    The learning rate is three times that of the published code, and the patience is adapted to it.
    With these settings, a search needs only as many updates as three steps of the published code.

    Args:
        steps: the largest number of steps of a search. By default 80 for images of up to 32x32
            pixels, and proportionally more for larger images, up to 240.
        batch_size: the number of images in each step.
        learning_rate: the learning rate of the Adam optimizer.
        attack_threshold: the share of the images of a step that the model must assign to the
            target for the attack to count as successful.
        patience: the number of consecutive successful (or failed) steps after which the weight of
            the norm rises (or falls).
        early_stop_patience: the number of steps without a smaller mask after which a search has
            converged.
        starts: the number of random starts for each target, because the result depends on the
            start. After half of the steps only the start with the smallest mask continues.
        superpixel: the side length, in pixels, of the squares that share one value of the mask. By
            default 1 for images of up to 32x32 pixels; for larger images it is set such that a mask
            has about 32x32 values.
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
        """The largest number of steps of a search.

        Args:
            pixels: the number of pixels of an image.

        >>> [Schedule().max_steps(side * side) for side in (28, 32, 50, 224)]
        [80, 80, 195, 240]
        """
        return self.steps if self.steps is not None else round(STEPS * growth(pixels))

    def superpixel_side(self, pixels: int) -> int:
        """The side length of the superpixels.

        Args:
            pixels: the number of pixels of an image.

        >>> [Schedule().superpixel_side(side * side) for side in (28, 32, 50, 224)]
        [1, 1, 2, 7]
        """
        if self.superpixel is not None:
            return self.superpixel
        return max(1, round((pixels / PIXELS) ** 0.5))

    def quick(self, steps: int, pixels: int) -> "Schedule":
        """A shorter schedule with one start, for a first search of many targets.

        For images of more than 32x32 pixels, the number of steps grows as in a full search and the
        batch size shrinks, which keeps the cost of a target constant.

        Args:
            steps: the number of steps for images of up to 32x32 pixels.
            pixels: the number of pixels of an image.

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
        cost: (s,) the weight of the norm; 0 until `patience` consecutive steps were successful.
        waiting, up, down: (s,) the number of consecutive steps that count towards the first
            positive weight, a rise and a fall.
        rose, fell: (s,) bool, whether the weight has ever risen or fallen.
        best: (s,) the smallest norm with a successful attack; inf if there is none.
        stale: (s,) the number of steps since the smallest norm improved.
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
        """The state of the chosen searches."""
        return CostState(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def assign(self, chosen: np.ndarray, state: "CostState") -> None:
        """Replace the state of the chosen searches."""
        for field in fields(self):
            getattr(self, field.name)[chosen] = getattr(state, field.name)


def update(
    state: CostState, attack: np.ndarray, norm: np.ndarray, plan: Schedule
) -> tuple[np.ndarray, np.ndarray]:
    """Make one step of the published schedule in place.

    Args:
        state: the state before the step, which is updated.
        attack: (s,) the share of the images of the step that the model assigned to the target.
        norm: (s,) the L1 norm of the mask in this step.
        plan: the settings of the search.

    Returns:
        (improved (s,), converged (s,)): two bool arrays, whether the mask is the best so far and
        whether the search has converged.

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
    # As in the published code, the step that sets the first weight counts towards the first rise.
    weighted = state.cost > 0
    state.up = np.where(works & weighted, state.up + 1, 0)
    state.down = np.where(~works & weighted, state.down + 1, 0)
    rises, falls = state.up >= plan.patience, state.down >= plan.patience
    state.cost = np.where(rises, state.cost * COST_MULTIPLIER, state.cost)
    state.cost = np.where(falls, state.cost / COST_MULTIPLIER**1.5, state.cost)
    state.up, state.down = np.where(rises, 0, state.up), np.where(falls, 0, state.down)
    state.rose, state.fell = state.rose | rises, state.fell | falls
    converged = state.rose & state.fell & (state.stale >= plan.early_stop_patience)
    return improved, converged
