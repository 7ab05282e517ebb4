"""Neural Cleanse with further runs only where they can change the verdict."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from keras_backdoor.defenses.base import Evidence
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse.verdict import Run, suspicion_of

UNSURE = 1.5
"""A norm within this factor of the limit is searched again.

On the development zoo (`results/neural_cleanse_rules.json`) the largest score is at most 0.74 in
clean networks and at least 1.49 where a target is flagged."""


@dataclass(frozen=True)
class RepeatedSearch(NeuralCleanse):
    """Neural Cleanse whose further runs search the uncertain classes alone.

    The first run searches all classes. If its smallest norm is within a factor of 1.5 of the limit,
    the classes below 1.5 times the limit are searched again with other starts and other images, in
    up to `runs` runs in all, until two runs agree. The norms of the other classes stay, and the
    majority of the runs decides.
    """

    @classmethod
    def like(cls, search: NeuralCleanse) -> Self:
        """The method with the settings of a search."""
        return cls(**{f.name: getattr(search, f.name) for f in fields(search)})

    def make_runs(self, evidence: Evidence) -> list[Run]:
        """See `InversionScan.make_runs`."""
        first = self.one_run(evidence, self.seed)
        runs, scores = [first], self._scores(first)
        if not 1 / UNSURE < np.nanmax(np.append(scores, 0.0)) < UNSURE:
            return runs
        uncertain = np.flatnonzero(scores > 1 / UNSURE)
        for seed in range(self.seed + 1, self.seed + self.runs):
            runs.append(self.one_run(evidence, seed, first, uncertain))
            if len(runs) == 2 and np.array_equal(self._scores(runs[1]) > 1, scores > 1):
                break
        return runs

    def _scores(self, run: Run) -> np.ndarray:
        """(s,) limit / norm of each search; NaN if it was not made in full."""
        limit = next(iter(self.limits().values()))(run.reference_norms, len(run.norms))
        scores: np.ndarray = suspicion_of(run.norms[None], np.array([limit]))[0]
        return scores
