"""The training data of networks."""

import numpy as np

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
