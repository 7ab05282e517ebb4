"""STRIP: find triggered images among incoming ones by blending them with clean images."""

from dataclasses import dataclass, replace
from typing import ClassVar

from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.defenses._strip import Limit, calibrated, check_settings
from keras_backdoor.defenses.base import Defense, Evidence, Need


@dataclass(frozen=True)
class STRIP(Defense[FlaggedSamples]):
    """Flag incoming images whose predictions stay the same when other images are blended over them.

    Gao et al., STRIP: A Defence Against Trojan Attacks on Deep Neural Networks, ACSAC 2019: an
    image is blended with clean images of several classes. The predictions for the blends vary if
    the image is clean, and stay at the target class if it has a trigger that works on all classes.
    The image is flagged if the mean entropy of the predictions is below a limit. The limit is set
    on held-out clean images, such that a share `rejected_clean` of them is below it.

    Args:
        overlays: the number of clean images that each image is blended with.
        opacity: their opacity. The blend is (1 - opacity) x + opacity o.
        rejected_clean: the share of the clean images that is flagged.
        limit: `quantile` is the empirical quantile of the entropies of clean images. `normal` is
            that of a normal distribution that is fitted to them, as in the paper; it may be
            negative, and then nothing is flagged.
        seed: the seed of the overlays and of the held-out images.

    Notes:
        The paper draws new overlays for each image and adds them with saturation; here all images
        have the same overlays, as a guard needs, and the entropy is divided by their number. The
        answer says found if more images are flagged than of clean images would be.
    """

    overlays: int = 50
    opacity: float = 0.5
    rejected_clean: float = 0.01
    limit: Limit = "quantile"
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("incoming"), Need("clean"))
    commands: ClassVar[tuple[str, ...]] = ("audit",)
    paper: ClassVar[str] = "Gao et al., STRIP, ACSAC 2019 (arXiv 1902.06531)"
    caveats: ClassVar[tuple[str, ...]] = (
        "A trigger that works on one class only, or that a blend hides, is missed.",
    )

    def __post_init__(self) -> None:
        check_settings(self.overlays, self.opacity, self.rejected_clean, self.limit)

    def run(self, evidence: Evidence) -> FlaggedSamples:
        """See `Method.run`."""
        model, incoming = evidence.model, evidence.incoming
        found = calibrated(
            evidence, self.overlays, self.opacity, self.rejected_clean, self.limit, self.seed
        )

        def measured() -> dict:
            return {"entropies": found.blending.entropies(model, incoming)}

        entropies = evidence.part("incoming", measured)["entropies"]
        answer = FlaggedSamples(
            scores=-entropies,
            flagged=entropies < found.limit,
            false_alarms=self.rejected_clean,
            summary=found.summary,
            figures={"limits": found.limits},
        )
        if found.lacking or answer.verdict == "nothing":
            return replace(answer, inconclusive=found.lacking)
        return answer
