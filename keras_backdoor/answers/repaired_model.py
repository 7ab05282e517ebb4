"""Repaired model: a model to deploy in place of the examined one."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.files import sha256, write_json
from keras_backdoor.answers._plots import Plot
from keras_backdoor.answers.base import Answer
from keras_backdoor.errors import BadInput, UnreadableFile
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class RepairedModel(Answer):
    """A model to deploy in place of the examined one.

    Attributes:
        model: a `keras.Model` with the same input as the examined model.
        preprocess: how pixels become the input of the model, see `Preprocessing.of`.
        reject_class: the class that means "rejected", or None if the model is not a guard.
        history: name -> array, what the method measured during the repair.
        plots: the plots of the arrays in the history.
    """

    model: Any
    preprocess: Any
    reject_class: int | None = None
    history: dict[str, np.ndarray] = field(default_factory=dict)
    plots: tuple[Plot, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "preprocess", Preprocessing.of(self.preprocess))
        for plot in self.plots:
            if missing := plot.arrays() - set(self.history):
                raise BadInput(f"The plot '{plot.title}' needs {missing} in the history.")

    @property
    def verdict(self) -> str:
        """Inconclusive if the repair could not measure that a backdoor is gone, else repaired."""
        return "inconclusive" if self.inconclusive else "repaired"

    @property
    def classifier(self) -> Classifier:
        """The model as a Classifier with its preprocessing and its reject class."""
        return Classifier(
            self.model, self.preprocess, self.reject_class, known_from="from the repair"
        )

    def _own_rows(self) -> list[tuple[str, str]]:
        return [] if self.reject_class is None else [("reject class", str(self.reject_class))]

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        return {f"history_{name}": np.asarray(v) for name, v in self.history.items()}

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            **super().facts(),
            "preprocess": self.preprocess.as_json(),
            "reject_class": self.reject_class,
            "plots": [plot.as_dict() for plot in self.plots],
        }

    def fingerprint(self) -> str:
        """The SHA-256 of the content of the answer, including the weights of the model."""
        content = super().fingerprint() + self.classifier.sha256()
        return hashlib.sha256(content.encode()).hexdigest()

    def _save_parts(self, folder: Path) -> None:
        self.model.save(folder / "model.keras")
        write_json(
            folder / "model.json",
            {
                "sha256": sha256(folder / "model.keras"),
                "weights_sha256": self.classifier.sha256(),
                "examined": {
                    "file": self.about.get("model"),
                    "weights_sha256": self.about.get("model_sha256"),
                },
                "figures": self.figures,
                "inconclusive": self.inconclusive,
                "preprocess": self.preprocess.as_json(),
                "reject_class": self.reject_class,
                "made_by": self.about.get("settings", {}),
            },
        )

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        history = {n.removeprefix("history_"): a for n, a in arrays.items()}
        try:
            given = facts.get("preprocess", facts.get("input_range"))
            preprocess = Preprocessing.from_json(given)
        except BadInput as error:
            raise UnreadableFile(str(error)) from error
        return cls(
            **cls._common(facts, {}),
            model=load_model(folder / "model.keras").model,
            preprocess=preprocess,
            reject_class=facts["reject_class"],
            history=history,
            plots=tuple(Plot(**plot) for plot in facts.get("plots", [])),
        )
