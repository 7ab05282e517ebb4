"""A model to deploy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.files import sha256, write_json
from keras_backdoor.answers.base import Answer
from keras_backdoor.loading import load_model


@dataclass(frozen=True, eq=False, kw_only=True)
class RepairedModel(Answer):
    """A model to deploy in place of the examined one.

    Attributes:
        model: a `keras.Model` in the units of the original.
        input_range: of the model's pixels.
        reject_class: the class that means "rejected" in a guard, or None.
        history: what the repair did, as arrays.
    """

    model: Any
    input_range: tuple[float, float]
    reject_class: int | None = None
    history: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Always repaired; how well is what `evaluate` measures."""
        return "repaired"

    def rows(self) -> list[tuple[str, str]]:
        """See `Answer.rows`."""
        rows = [("verdict", self.verdict)]
        rows += [(k, str(v)) for k, v in self.about.get("summary", {}).items()]
        if self.reject_class is not None:
            rows.append(("reject class", str(self.reject_class)))
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Answer.arrays`."""
        return {f"history_{name}": np.asarray(v) for name, v in self.history.items()}

    def facts(self) -> dict[str, Any]:
        """See `Answer.facts`."""
        return {
            "verdict": self.verdict,
            "input_range": list(self.input_range),
            "reject_class": self.reject_class,
        }

    def _save_parts(self, folder: Path) -> None:
        self.model.save(folder / "model.keras")
        write_json(
            folder / "model.json",
            {
                "sha256": sha256(folder / "model.keras"),
                "input_range": list(self.input_range),
                "reject_class": self.reject_class,
                "made_by": self.about.get("settings", {}),
            },
        )

    @classmethod
    def _load(cls, folder: Path, facts: dict, arrays: dict[str, np.ndarray]) -> "Answer":
        low, high = facts["input_range"]
        history = {n.removeprefix("history_"): a for n, a in arrays.items()}
        return cls(
            model=load_model(folder / "model.keras").model,
            input_range=(float(low), float(high)),
            reject_class=facts["reject_class"],
            history=history,
            about=facts.get("about", {}),
        )
