"""Defense: settings outside, `run(evidence)` inside, everything else here once."""

import dataclasses
import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor._internals import typed_settings
from keras_backdoor._safe.files import write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.answers import Answer, RepairedModel, load_answer
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier, Range
from keras_backdoor.samples import Samples

EVIDENCE = ("train", "clean", "incoming", "found", "reference")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a defense is shown, checked and in one form.

    Attributes:
        model: the examined model, its range known.
        train: training data that another party touched.
        clean: images that are trusted.
        incoming: images that are to be judged.
        found: an earlier answer.
        reference: another model to compare with.
        workdir: folder of finished parts of this very run, or None.
    """

    model: Classifier
    train: Samples | None = None
    clean: Samples | None = None
    incoming: Samples | None = None
    found: Answer | None = None
    reference: Classifier | None = None
    workdir: Path | None = None

    def part(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, Any]:
        """Arrays of a finished part of the work: read where they are, else computed and written."""
        if self.workdir is None:
            return compute()
        path = self.workdir / f"{name}.npz"
        if not path.exists():
            write_npz(path, compute())
        return dict(Npz(path))


@dataclass(frozen=True)
class Defense(ABC):
    """A method that finds, removes or guards against a backdoor.

    A subclass is a frozen dataclass of settings in a file of its own and writes `run`.

    Attributes:
        needs: the evidence without which it cannot run.
        commands: words of the command line that it answers to (scan, audit, repair, guard,
            explain); the first method of a command that lists it in `default_for` is its default.
        paper: where it is published.
        revision: raise it when `run` changes: parts that an earlier one finished do not count.
        quick: settings under which it runs in seconds, for a first try; its answer means little.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    commands: ClassVar[tuple[str, ...]] = ()
    default_for: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    quick: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def run(self, evidence: Evidence) -> Answer:
        """Answer from checked evidence; neither model nor evidence may be changed."""

    def __call__(
        self,
        model: Any,
        *,
        train: Any = None,
        clean: Any = None,
        incoming: Any = None,
        found: Answer | None = None,
        reference: Any = None,
        workdir: Path | str | None = None,
        input_range: Range | None = None,
    ) -> Any:
        """Check the evidence, run, check the answer.

        Args:
            model: a Classifier or a built `keras.Model`.
            train, clean, incoming: Samples, an array, (images, labels) or a `tf.data.Dataset`.
            found: an earlier answer.
            reference: a second model.
            workdir: folder where finished parts are kept, so that a killed run goes on.
            input_range: of the model's pixels, where it is not known.

        Raises:
            BadInput: evidence is missing or does not fit the model.
        """
        start = time.perf_counter()
        given = {"train": train, "clean": clean, "incoming": incoming}
        samples = {k: None if v is None else Samples.wrap(v) for k, v in given.items()}
        self._check_needs({**samples, "found": found, "reference": reference})
        classifier = Classifier.wrap(model, input_range=input_range)
        for part in samples.values():
            if part is not None:
                classifier.check(part)
        shown = next((s for s in samples.values() if s is not None and s.labels is not None), None)
        classifier = classifier.with_range(shown)
        other = None if reference is None else Classifier.wrap(reference).with_range(shown)
        about = self._about(classifier, samples)
        if other is not None:
            about["reference_sha256"] = other.sha256()
        if found is not None:
            about["found"] = found.fingerprint()
        key = _key({**about, "revision": self.revision, "package": version("keras_backdoor")})
        folder = None if workdir is None else Path(workdir) / key
        if folder is not None and (folder / "answer" / "answer.json").exists():
            return load_answer(folder / "answer")
        evidence = Evidence(
            model=classifier, found=found, reference=other, workdir=folder, **samples
        )
        answer = self.run(evidence)
        if not isinstance(answer, Answer):
            raise TypeError(f"{type(self).__name__}.run must return an Answer, not {answer!r}")
        seconds = {"seconds": round(time.perf_counter() - start, 3)}
        answer = dataclasses.replace(answer, about={**about, **answer.about, **seconds})
        if folder is not None:
            answer.save(folder / "answer")
        return answer

    def _check_needs(self, evidence: dict[str, Any]) -> None:
        missing = [name for name in self.needs if evidence.get(name) is None]
        if missing:
            raise BadInput(
                f"{type(self).__name__} needs {' and '.join(missing)} "
                f"(--{' and --'.join(missing)} on the command line)."
            )

    def _about(self, model: Classifier, samples: dict[str, Samples | None]) -> dict[str, Any]:
        packages = ("keras", "tensorflow", "numpy")
        return {
            "settings": {"method": type(self).__name__, **typed_settings.as_dict(self)},
            "model_sha256": model.sha256(),
            "input_range": list(model.input_range or ()),
            "data": {k: s.fingerprint() for k, s in samples.items() if s is not None},
            "versions": {name: version(name) for name in packages},
        }


def check_no_guard(model: Classifier) -> None:
    """Raise where a guard would be made of a guard."""
    if model.reject_class is not None:
        raise BadInput("The model is a guard already: its last class means rejected.")


def repaired(evidence: Evidence, model: Any, **parts: Any) -> RepairedModel:
    """A RepairedModel in the units of the examined model; a guard stays a guard."""
    parts = {"reject_class": evidence.model.reject_class, **parts}
    return RepairedModel(model=model, input_range=evidence.model.input_range or (0.0, 1.0), **parts)


def _key(about: dict[str, Any]) -> str:
    content = json.dumps(about, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
