"""Networks that third parties made, and clean images for them."""

from dataclasses import dataclass

from keras_backdoor import datasets
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain

BYTES, UNIT = (0.0, 255.0), (0.0, 1.0)
FACES = "lfw90_min20.zip"


@dataclass(frozen=True)
class ThirdPartyModel:
    """A network that a third party made.

    Args:
        file: name of its file among the data.
        data: the data file that clean images are from.
        target: the class that its backdoor serves; None where it has none.
        trigger: the planted trigger, where it is known.
        input_range: of its pixels; None takes that of the data.
        architecture: where the file holds weights alone.
    """

    file: str
    data: str
    target: int | None = None
    trigger: str | None = None
    input_range: tuple[float, float] | None = None
    architecture: str | None = None

    def key(self, workspace: Workspace) -> str:
        """What is in the file, as a hash."""
        return workspace.digest(self.file)

    def open(self, workspace: Workspace) -> Classifier:
        """The network, its range known."""
        path, known = workspace.file(self.file), self.input_range
        model = load_model(path, architecture=self.architecture, input_range=known)
        return model if known else model.with_range(self.clean(workspace))

    def clean(self, workspace: Workspace) -> Samples:
        """Training images without poison; faces of people that the network has no class for."""
        path = workspace.file(self.data)
        if self.data == FACES:
            return datasets.open(path, size=(55, 47))
        return datasets.open(path, split="train")


def opened(subject: ThirdPartyModel | Net, workspace: Workspace) -> tuple[Classifier, Samples]:
    """A network and clean images: of a net of our own those that its training left out."""
    if isinstance(subject, ThirdPartyModel):
        return subject.open(workspace), subject.clean(workspace)
    return obtain(subject, workspace).classifier, subject.clean_data(workspace)[1]


def planted(subject: ThirdPartyModel | Net) -> tuple[int | None, str | None]:
    """(target, trigger) of its backdoor, as far as they are known."""
    if isinstance(subject, ThirdPartyModel):
        return subject.target, subject.trigger
    return (subject.attack.target, subject.attack.trigger) if subject.attack else (None, None)
