"""STRIP as a guard: reject images whose predictions stay the same under blending."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses._strip import Limit, calibrated, check_settings
from keras_backdoor.defenses.base import Evidence, Need, repaired


@dataclass(frozen=True)
class STRIPGuard(Repair):
    """Reject images whose predictions stay the same when clean images are blended over them.

    Gao et al., STRIP, ACSAC 2019; see `STRIP`. The guard contains the overlays and the limit, and
    runs the network once for each overlay.

    Args:
        overlays: the number of clean images that each image is blended with.
        opacity: their opacity.
        rejected_clean: the share of the clean images that is rejected.
        limit: how the limit is set, see `STRIP`.
        seed: the seed of the overlays and of the held-out images.
    """

    overlays: int = 20
    opacity: float = 0.5
    rejected_clean: float = 0.01
    limit: Limit = "quantile"
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    measured_on: ClassVar[Any] = "all"
    commands: ClassVar[tuple[str, ...]] = ("guard",)
    paper: ClassVar[str] = "Gao et al., STRIP, ACSAC 2019 (arXiv 1902.06531)"
    caveats: ClassVar[tuple[str, ...]] = (
        "A trigger that works on one class only, or that a blend hides, is missed.",
    )

    def __post_init__(self) -> None:
        check_settings(self.overlays, self.opacity, self.rejected_clean, self.limit)

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        model = evidence.model
        found = calibrated(
            evidence, self.overlays, self.opacity, self.rejected_clean, self.limit, self.seed
        )
        return repaired(
            evidence,
            found.blending.guard(model, found.limit),
            reject_class=model.classes,
            history={"entropies": found.clean, "limit": np.array(found.limit)},
            summary=found.summary,
            inconclusive=found.lacking,
        )
