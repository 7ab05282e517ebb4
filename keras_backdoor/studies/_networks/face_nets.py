"""The face networks of the thesis, in the published setting and with stand-ins for its data."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_backdoor import training
from keras_backdoor._internals import typed_settings
from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.architectures import VGG16Face
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.attacks.base import Poisoned
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import vgg_face
from keras_backdoor.network import graph
from keras_backdoor.network.activations import head_of
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import Preprocess
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace, digest_of
from keras_backdoor.studies._networks import faces
from keras_backdoor.studies._networks.faces import Faces, Split
from keras_backdoor.studies._networks.network_store import VERSION, Fitted
from keras_backdoor.studies._networks.third_party import FACES, UNIT, ThirdPartyModel
from keras_backdoor.training import Objective, Recipe

Kind = Literal["deepid", "vgg16_face"]
Setting = Literal["published", "stand-in"]
VGG_FACE = ("vgg-face.mat", "vgg_face.mat", "rcmalli_vggface_tf_vgg16.h5")
"""Names of the weights of VGG-Face among the data files."""
CLEAN_DEEPID = ThirdPartyModel(
    "deepid/clean_cl_weights.h5", FACES, input_range=UNIT, architecture="deepid"
)
"""A network of a third party that was trained on YouTube Faces and is said to be clean."""
CUT = "pool_3"
"""The layer of the clean DeepID after which the stand-in of VGG16-Face has its own last layer."""


@dataclass(frozen=True)
class FaceNet:
    """A face network, described by the settings that determine its weights.

    In the published setting, DeepID is trained on YouTube Faces, and the last layer of VGG16-Face
    on LFW. The stand-ins are made from the clean DeepID network of a third party and LFW:

    - `deepid` is that network, fine-tuned on LFW faces with its own answers. It learns the
      probabilities that the network gave before, and the target for poisoned images.
    - `vgg16_face` is its frozen part up to pool_3 with a new last layer for the people of LFW.

    Args:
        kind: the architecture.
        setting: `published` or `stand-in`.
        recipe: the training recipe. Its seed also selects the poisoned images.
        trigger: the trigger, or None for a clean network.
        count: the number of stamped copies of images of the source class.
        split: how YouTube Faces is split, see `faces.youtube`.
        take: the number of faces of a stand-in; None takes all.
        fewest: the smallest number of images of a person in the published setting; None is that
            of the thesis.
    """

    kind: Kind
    setting: Setting
    recipe: Recipe
    trigger: str | None = None
    count: int = 0
    split: Split = "image"
    take: int | None = None
    fewest: int | None = None

    @property
    def architecture(self) -> str:
        """The name of the architecture."""
        return self.kind

    @property
    def parent(self) -> None:
        """No other network has to be trained first."""

    def key(self, workspace: Workspace) -> str:
        """Return a hash of the settings and of the data; missing files count as such."""
        if self.setting == "stand-in":
            data: list[str | None] = [workspace.digest(name) for name in (FACES, CLEAN_DEEPID.file)]
        else:
            data = [None if path is None else digest_of(path) for path in self._files(workspace)]
        content = [VERSION, typed_settings.as_dict(self), data]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _files(self, workspace: Workspace) -> list[Path | None]:
        if self.kind == "deepid":
            return [workspace.find(faces.YOUTUBE)]
        return [workspace.find(faces.LFW), workspace.find(VGG_FACE)]

    def data(self, workspace: Workspace) -> Faces:
        """Return the clean faces, in their three parts."""
        if self.setting == "stand-in" and self.kind == "deepid":
            return faces.with_answers(workspace, CLEAN_DEEPID.open(workspace), self.take)
        if self.setting == "stand-in":
            return faces.lfw_small(workspace, self.take)
        changes = {} if self.fewest is None else {"fewest": self.fewest}
        if self.kind == "deepid":
            return faces.youtube(workspace, (55, 47), by=self.split, **changes)
        return faces.lfw(workspace, (224, 224), **changes)

    def attack(self, data: Faces) -> BadNets:
        """Return the attack on these faces.

        Raises:
            BadInput: the network is clean.
        """
        if self.trigger is None:
            raise BadInput("A clean network has no attack.")
        return BadNets(self.trigger, data.target, data.source, self.count)

    def poisoned(self, data: Faces) -> Poisoned:
        """Return the poisoned training data and the ground truth; of a clean network, no poison."""
        if self.trigger is None:
            nothing = np.zeros(len(data.train), bool)
            return Poisoned(data.train, nothing, np.flatnonzero(nothing))
        return self.attack(data).poison(data.train, seed=self.recipe.seed)

    def fit(self, workspace: Workspace, checkpoint: Path) -> Fitted:
        """Train the network, or resume from the checkpoint."""
        data = self.data(workspace)
        samples = self.poisoned(data).samples
        classifier, history = self.trained(workspace, samples, data, checkpoint=checkpoint)
        return Fitted(classifier, history, samples)

    def trained(
        self,
        workspace: Workspace,
        samples: Samples,
        data: Faces,
        *,
        pruned: Classifier | None = None,
        checkpoint: Path | None = None,
    ) -> tuple[Classifier, dict[str, list[float]]]:
        """Train on some samples from the weights that the network starts from.

        Args:
            workspace: the folders with the data.
            samples: the training data.
            data: the faces.
            pruned: a network with fewer channels, whose architecture is trained instead. The
                layers that are frozen keep its weights, and a stand-in of DeepID starts from it.
            checkpoint: `.npz` file to resume from, or None.
        """
        classes = len(data.train.class_names or ()) or int(data.train.known_labels.max()) + 1
        build, preprocess = self._start(workspace, classes)
        how: dict[str, Any] = {}
        if self.setting == "stand-in" and self.kind == "deepid":
            how = keeping_answers(CLEAN_DEEPID.open(workspace))
        if pruned is not None:
            whole = graph.copy if how else graph.reinitialized
            build = lambda: whole(pruned.model)  # noqa: E731
        return training.fit(
            build, samples, self.recipe, preprocess=preprocess, checkpoint=checkpoint, **how
        )

    def _start(self, workspace: Workspace, classes: int) -> tuple[Callable[[], Any], Preprocess]:
        """Return a function that builds the network, and its preprocessing."""
        if self.setting == "published" and self.kind == "deepid":
            return training.builder("deepid", classes), UNIT
        if self.setting == "published":
            path = faces.located(workspace, VGG_FACE, "VGG-Face")
            preprocess = vgg_face.PREPROCESSES[path.suffix]
            width = vgg_face.channels(path) / 64
            return lambda: VGG16Face(classes, weights=path, width=width), preprocess
        clean = CLEAN_DEEPID.open(workspace)
        if self.kind == "deepid":
            return lambda: graph.copy(clean.model), UNIT
        return lambda: transferred(clean.model, CUT, classes), UNIT

    def smaller(self, recipe: Recipe) -> "FaceNet":
        """Return the network at small scale, for tests."""
        return replace(self, recipe=recipe, count=min(self.count, 4), take=600, fewest=4)


def transferred(model: Any, layer: str, classes: int) -> Any:
    """A network with the frozen layers of another one up to a layer, and a new last layer.

    Args:
        model: the other network, which is copied.
        layer: the layer after which the new one follows.
        classes: the number of classes.
    """
    trunk = head_of(graph.copy(model), layer)
    hidden = keras.layers.Flatten(name="features")(trunk.outputs[0])
    scores = keras.layers.Dense(classes, activation="softmax", name="people")(hidden)
    network = keras.Model(trunk.inputs[0], scores, name="transferred")
    for inner in network.layers[:-1]:
        inner.trainable = False
    return network


def keeping_answers(teacher: Classifier) -> dict[str, Any]:
    """Arguments of `fit` with which a network keeps the answers that another one gives.

    Where the label is the answer of the teacher, the probabilities of the teacher are learned, else
    the label.

    Args:
        teacher: the network whose answers are kept.
    """

    class KeptAnswers(Objective):
        def losses(self, pixels: Any, labels: Any) -> tuple[Any, Any, Any]:
            scores, penalty = self.forward(pixels, training=False)
            taught = teacher.probabilities(pixels)
            same = tf.cast(tf.argmax(taught, axis=-1) == labels, tf.float32)[:, None]
            wanted = same * taught + (1 - same) * tf.one_hot(labels, taught.shape[-1])
            losses = keras.losses.categorical_crossentropy(wanted, scores)
            return tf.reduce_mean(losses) + penalty, losses, scores

    return {"objective": KeptAnswers}
