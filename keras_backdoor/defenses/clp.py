"""Channel Lipschitz pruning: silence the channels that are most sensitive to their input."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import RepairedModel
from keras_backdoor.defenses._repair import Repair
from keras_backdoor.defenses.base import Evidence, Need, repaired
from keras_backdoor.errors import BadInput
from keras_backdoor.network import channels, graph


def channel_bounds(kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The upper bound of the Lipschitz constant of each channel of a convolution.

    It is the largest singular value of the kernel of the channel, reshaped to (h w, inputs), times
    |gamma| / sqrt(variance + epsilon) of the batch normalization that follows.

    Args:
        kernel: (h, w, inputs, channels) float32.
        scale: (channels,) the factors of the batch normalization.

    Returns:
        (channels,) float.

    >>> kernel = np.zeros((1, 2, 1, 2), np.float32)
    >>> kernel[0, :, 0, 0] = 3, 4
    >>> channel_bounds(kernel, np.array([-2.0, 1.0])).tolist()
    [10.0, 0.0]
    """
    matrices = np.moveaxis(kernel.reshape(-1, *kernel.shape[2:]), -1, 0)
    bounds: np.ndarray = np.linalg.norm(matrices, ord=2, axis=(1, 2)) * np.abs(scale)
    return bounds


@dataclass(frozen=True)
class CLP(Repair):
    """Silence channels whose Lipschitz bound is far above that of the others of their layer.

    Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022: a channel is
    pruned if its bound exceeds the mean of its layer by more than `deviations` standard deviations.
    The clean images are used to measure the repair only.

    Args:
        deviations: the accepted number of standard deviations, u in the paper.

    Notes:
        The paper prunes convolutions that batch normalization follows. Without it, the factor of
        the batch normalization is 1 here.
    """

    deviations: float = 3.0

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    measured_on: ClassVar[Any] = "all"
    commands: ClassVar[tuple[str, ...]] = ("repair",)
    paper: ClassVar[str] = "Zheng et al., Channel Lipschitz Pruning, ECCV 2022"
    baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.deviations <= 0:
            raise BadInput(f"deviations must be above 0. Received: deviations={self.deviations}")

    def compute(self, evidence: Evidence) -> RepairedModel:
        """See `Repair.compute`."""
        model = evidence.model.model
        layers = [p for p in channels.channel_layers(model) if _is_convolution(model, p)]
        if not layers:
            raise BadInput("CLP prunes convolutions, and the model has none: use another method.")
        pruned, number, total = graph.copy(model), 0, 0
        for path in layers:
            kernel = graph.get_layer(model, path).get_weights()[0]
            bounds = channel_bounds(kernel, _scale(model, path, kernel.shape[-1]))
            chosen = np.flatnonzero(bounds > bounds.mean() + self.deviations * bounds.std())
            channels.silence(pruned, path, chosen)
            number, total = number + len(chosen), total + len(bounds)
        summary = {"silenced channels": f"{number} of {total} in {len(layers)} layers"}
        return repaired(evidence, pruned, summary=summary)


def _is_convolution(model: Any, layer: str) -> bool:
    return type(graph.get_layer(model, layer)).__name__ == "Conv2D"


def _scale(model: Any, layer: str, width: int) -> np.ndarray:
    """(channels,) gamma / sqrt(variance + epsilon) of the batch normalization after a layer."""
    followers = channels.following(model, layer)
    if not followers or type(followers[0][1]).__name__ != "BatchNormalization":
        return np.ones(width)
    norm = followers[0][1]
    variance = np.asarray(norm.moving_variance)
    gamma = np.asarray(norm.gamma) if norm.scale else np.ones(width)
    scale: np.ndarray = gamma / np.sqrt(variance + norm.epsilon)
    return scale
