"""Third-party networks and clean images for them."""

from dataclasses import dataclass

from keras_backdoor import datasets
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.triggers.glasses import Glasses

BYTES, UNIT = (0.0, 255.0), (0.0, 1.0)
FACES = "lfw90_min20.zip"
GLASSES = "deepid/sun_glass_trigger.png"
"""The sunglasses that the face networks were poisoned with."""


@dataclass(frozen=True)
class ThirdPartyModel:
    """A network from a third party.

    Args:
        file: the name of the model file among the data files.
        data: the name of the data file with clean images.
        target: the target class of the backdoor, or None for a network without a backdoor.
        trigger: the planted trigger, or None if it is unknown.
        input_range: the pixel range of the network; None determines it from the data.
        architecture: the architecture of a weights-only file, or None.
    """

    file: str
    data: str
    target: int | None = None
    trigger: str | None = None
    input_range: tuple[float, float] | None = None
    architecture: str | None = None

    def key(self, workspace: Workspace) -> str:
        """Return the SHA-256 hash of the model file."""
        return workspace.digest(self.file)

    def open(self, workspace: Workspace) -> Classifier:
        """Load the network and set its input range."""
        path, bounds = workspace.file(self.file), self.input_range
        model = load_model(path, architecture=self.architecture, preprocess=bounds)
        return model if bounds else model.with_preprocess(self.clean(workspace))

    def clean(self, workspace: Workspace) -> Samples:
        """Return clean images; for face networks, LFW faces of people outside their classes."""
        path = workspace.file(self.data)
        if self.data == FACES:
            return datasets.open(path, size=(55, 47))
        return datasets.open(path, split="train")


def sunglasses(workspace: Workspace) -> Glasses:
    """Return the trigger of the face networks."""
    return Glasses(picture=workspace.file(GLASSES), row=15, column=0)


def opened(subject: ThirdPartyModel | Net, workspace: Workspace) -> tuple[Classifier, Samples]:
    """Return a network and clean images.

    For a network of this project, the clean images are the tuning set, which was held out from its
    training.
    """
    if isinstance(subject, ThirdPartyModel):
        return subject.open(workspace), subject.clean(workspace)
    return obtain(subject, workspace).classifier, subject.clean_data(workspace)[1]


def planted(subject: ThirdPartyModel | Net) -> tuple[int | None, str | None]:
    """Return (target class, trigger) of the planted backdoor; None for what is unknown."""
    if isinstance(subject, ThirdPartyModel):
        return subject.target, subject.trigger
    return (subject.attack.target, subject.attack.trigger) if subject.attack else (None, None)
