"""The training data of networks, and what audits remove of it."""

from typing import Any

import numpy as np

from keras_backdoor.metrics import Rate, removed_clean, removed_poison
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net


def poisoned_data(net: Net, workspace: Workspace) -> tuple[Samples, np.ndarray]:
    """The training data of a network, and which of its images are poison."""
    clean, _ = net.clean_data(workspace)
    if net.attack is None:
        return clean, np.zeros(len(clean), bool)
    poisoned = net.poisoned(clean)
    return poisoned.samples, np.asarray(poisoned.is_poison)


def audit_rates(flagged: Any, is_poison: np.ndarray) -> dict[str, Rate]:
    """The removed shares of the poison and of the clean images, by name."""
    return {
        "removed_poison": removed_poison(flagged, is_poison),
        "removed_clean": removed_clean(flagged, is_poison),
    }
