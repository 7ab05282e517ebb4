"""What the mitigations of Neural Cleanse share: recovered triggers and how well they still work."""

from collections.abc import Sequence

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses
from keras_backdoor.classifier import Classifier
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate, attack_success_rate
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp


def recovered(found: Answer | None, classes: Sequence[int] = ()) -> dict[int, Stamp]:
    """Class -> trigger of a scan: of the flagged classes, or of those that are named.

    Raises:
        BadInput: not a scan, no class flagged, or no trigger for a named class.
    """
    if not isinstance(found, FlaggedClasses):
        raise BadInput(f"A saved scan is needed here (found). Received: {type(found).__name__}")
    wanted = list(classes) or [int(c) for c in np.flatnonzero(found.flagged)]
    if not wanted:
        raise BadInput("The scan flags no class: name those to work on with --set classes=A:B.")
    without = [c for c in wanted if c not in found.triggers]
    if without:
        raise BadInput(f"The scan has no trigger for class {', '.join(map(str, without))}.")
    return {c: found.triggers[c] for c in wanted}


def success(model: Classifier, samples: Samples, triggers: dict[int, Stamp]) -> Rate:
    """The largest success of the triggers; images of the target class are left out.

    Without labels, images that the model itself gives to the target are.
    """
    labels = model.predict(samples) if samples.labels is None else samples.labels
    rates = [
        attack_success_rate(model.predict(samples.stamped(stamp)), labels, target)
        for target, stamp in triggers.items()
    ]
    return max(rates, key=float)


def hold_out(clean: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """(working part, held-out part), by track where the images have tracks."""
    parts: tuple[Samples, Samples] = clean.split(
        share, seed=seed, by_track=clean.track is not None and clean.labels is not None
    )
    return parts
