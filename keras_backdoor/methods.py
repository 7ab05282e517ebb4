"""The base class of all methods, and the evidence that they need.

A method is a frozen dataclass of settings. A call validates the evidence, runs the method and
checks the type of its answer. Finished parts are saved in a work folder, so an interrupted run can
resume.
"""

import dataclasses
import functools
import json
import time
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from keras_backdoor._internals import identity, typed_settings
from keras_backdoor._safe.files import write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.answers import Answer, load_answer
from keras_backdoor.errors import BadInput, UnreadableFile, one_line
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import Preprocess
from keras_backdoor.progress import tell
from keras_backdoor.samples import Samples

A = TypeVar("A", bound=Answer)
T = TypeVar("T")
IMAGES = ("train", "clean", "incoming")
EVIDENCE = (*IMAGES, "found", "reference")


@dataclass(frozen=True)
class Need:
    """A piece of evidence that a method requires or can use.

    Args:
        name: the name of the evidence: train, clean, incoming, found or reference.
        labelled: whether the images must have labels.
        with_origin: whether each image must have an origin.
        answer: the required type of the earlier answer, for `found`.
        optional: whether the method also runs without it.
    """

    name: str
    labelled: bool = False
    with_origin: bool = False
    answer: type[Answer] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if self.name not in EVIDENCE:
            raise TypeError(f"There is no evidence {self.name!r}: use {', '.join(EVIDENCE)}")
        if self.name not in IMAGES and (self.labelled or self.with_origin):
            raise TypeError(f"{self.name} has no labels and no origins: only images have them")

    def __str__(self) -> str:
        notes = ["labeled"] if self.labelled else []
        notes += ["with the origin of each image"] if self.with_origin else []
        notes += [f"a saved {self.answer.__name__}"] if self.answer else []
        notes += ["optional"] if self.optional else []
        return f"--{self.name}" + (f" ({', '.join(notes)})" if notes else "")

    def check(self, value: Any, method: str) -> None:
        """Raise `BadInput` if the evidence is missing or does not meet the requirements.

        Args:
            value: the evidence, or None.
            method: the name of the method, for the message.
        """
        if value is None and self.optional:
            return
        if value is None:
            kind = f": a saved {self.answer.__name__}" if self.answer else ""
            raise BadInput(f"{method} needs {self.name} (--{self.name} on the command line){kind}.")
        if self.labelled and value.labels is None:
            raise BadInput(f"{method} needs labeled images, and {self.name} has no labels.")
        if self.with_origin and value.origin is None:
            raise BadInput(
                f"{method} needs the origin of each image, and {self.name} has none: give data "
                "with origins (see data/README.md)."
            )
        if self.answer is not None and not isinstance(value, self.answer):
            raise BadInput(
                f"{method} needs a saved {self.answer.__name__} as {self.name}. "
                f"Received: {type(value).__name__}"
            )


@dataclass(frozen=True, eq=False)
class Evidence:
    """The validated inputs of one run of a method.

    The evidence that the method declares in `needs` is present. Use `get` for optional evidence.

    Attributes:
        model: the examined model, with a known preprocessing.
        method: the method that the evidence was validated for.
        given: name -> Samples, Answer or Classifier.
        folder: the folder in which the finished parts of this run are saved, or None.
        nested: whether another method runs this one.
    """

    model: Classifier
    method: "Method[Any]"
    given: Mapping[str, Any]
    folder: Path | None = None
    nested: bool = False
    _parts: set[str] = field(default_factory=set)

    @property
    def train(self) -> Samples:
        """The training data, which an attacker may have poisoned."""
        return self._needed("train")

    @property
    def clean(self) -> Samples:
        """The trusted images."""
        return self._needed("clean")

    @property
    def incoming(self) -> Samples:
        """The images to be examined."""
        return self._needed("incoming")

    @property
    def reference(self) -> Classifier:
        """The model to compare with."""
        return self._needed("reference")

    def found(self, kind: type[A]) -> A:
        """The earlier answer.

        Args:
            kind: the type of the answer.
        """
        answer = self._needed("found")
        if not isinstance(answer, kind):
            raise TypeError(f"{type(self.method).__name__} must declare Need('found', answer=…)")
        return answer

    def replaced(self, name: str, value: Any) -> "Evidence":
        """This evidence with another value of one kind, for the same run."""
        return dataclasses.replace(self, given={**self.given, name: value})

    def get(self, name: str) -> Any:
        """Optional evidence by name; None if it was not given."""
        return self.given.get(name)

    def _needed(self, name: str) -> Any:
        value = self.given.get(name)
        if value is None:
            raise TypeError(
                f"{type(self.method).__name__}.run uses {name}, which it does not declare in needs"
            )
        return value

    def part(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, Any]:
        """Compute a part of the work, or load it if it was saved by an earlier run.

        Args:
            name: the name of the part, which is unique in the run.
            compute: the function that computes the arrays of the part by name.

        Returns:
            The arrays by name.

        Raises:
            TypeError: the run has already used this name.
        """
        if name in self._parts:
            raise TypeError(f"{type(self.method).__name__}.run uses the part {name!r} twice")
        self._parts.add(name)
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.npz"
        saved = _undamaged(path, lambda: dict(Npz(path)))
        if saved is None:
            write_npz(path, compute(), force=True)
            path.with_name(f"{name}.unfinished.npz").unlink(missing_ok=True)
            saved = dict(Npz(path))
        return saved

    def checkpoint(self, name: str) -> Path | None:
        """A file for the state of unfinished work, or None if nothing is saved.

        Args:
            name: the name of the part that is being computed.
        """
        return None if self.folder is None else self.folder / f"{name}.unfinished.npz"

    def run(self, method: "Method[A]", *, model: Any = None, **changes: Any) -> A:
        """Run another method on this evidence, with a separate folder for finished parts.

        Args:
            method: the other method, whose needs are checked.
            model: the model to examine, a Classifier or a `keras.Model` with the preprocessing of
                the examined model; None uses the examined model.
            **changes: evidence that replaces or extends this evidence, for example `found`, in the
                formats of a call.

        Returns:
            The answer of the other method.
        """
        examined = self.model if model is None else Classifier.wrap(model)
        if model is not None and examined.preprocess is None:
            examined = examined.using(self.model.to_input, self.model.known_from)
        given = {**self.given, **changes}
        if model is None and set(changes) <= {"found"}:
            method._check_needs(given)
        else:
            examined, given = method._validated(examined, given)
        folder = None if self.folder is None else self.folder / "nested"
        return method._answer(examined, given, folder, nested=True)


@dataclass(frozen=True)
class Method(ABC, Generic[A]):
    """The base class of methods, which examine a model or its data and return an answer.

    A subclass declares the type of its answer, as in `class Pruning(Defense[RepairedModel])`, and
    implements `run`. It has no state, and changes neither the model nor the evidence.

    Attributes:
        answer: the type of the answer.
        needs: the evidence that the method requires. Flagged samples and heatmaps are about the
            first of train and incoming in this order, see `examined`.
        commands: the commands of the command line that offer the method: scan, audit, repair, guard
            or explain.
        default_for: the commands that use the method by default.
        caveats: sentences about what the method cannot see and its measured errors.
        paper: the publication of the method.
        revision: a number to raise when `run` changes, which invalidates saved parts of earlier
            revisions.
        baseline: whether the method is there to be compared with; many backdoors are not found by
            it, or survive it.
        presets: name -> settings of a publication or of another implementation.
        quick: settings with which the method runs in seconds and still meets the minimum
            requirements of `tests/test_methods.py`.
    """

    answer: ClassVar[type[Answer]]
    needs: ClassVar[tuple[Need, ...]] = ()
    commands: ClassVar[tuple[str, ...]] = ()
    default_for: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    baseline: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    quick: ClassVar[dict[str, Any]] = {}
    caveats: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in getattr(cls, "__orig_bases__", ()):
            for kind in typing.get_args(base):
                if isinstance(kind, type) and issubclass(kind, Answer):
                    cls.answer = kind
        if "run" in vars(cls) and not hasattr(cls, "answer"):
            raise TypeError(f"{cls.__name__} must name its answer: Defense[FlaggedClasses], …")
        if "run" in vars(cls):
            cls.run = _with_evidence_check(vars(cls)["run"])  # type: ignore[method-assign]

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The method with the settings of a preset.

        Args:
            name: a key of `presets`.
            **changes: settings that differ from the preset.

        Raises:
            BadInput: the method has no such preset.
        """
        if name not in cls.presets:
            known = f"has {', '.join(cls.presets)}" if cls.presets else "has none"
            raise BadInput(f"{cls.__name__} has no preset '{name}'; it {known}.")
        return cls(**{**cls.presets[name], **changes})

    @classmethod
    def examined(cls) -> str | None:
        """The data that the answer is about: the first of train and incoming in `needs`."""
        return next((n.name for n in cls.needs if n.name in ("train", "incoming")), None)

    @abstractmethod
    def run(self, evidence: Evidence) -> A:
        """Compute the answer from validated evidence. Only the base class calls this method."""

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
        preprocess: Preprocess | None = None,
    ) -> A:
        """Validate the evidence, run the method and check its answer.

        Args:
            model: the model to examine, a Classifier or a built `keras.Model`.
            train: the training data, which an attacker may have poisoned: Samples, an array,
                (images, labels) or a `tf.data.Dataset`.
            clean: the trusted images, in the same formats.
            incoming: the images to be examined, in the same formats.
            found: the answer of an earlier method.
            reference: a model to compare with, a Classifier or a built `keras.Model`.
            workdir: the folder in which finished parts are saved, so an interrupted run can resume.
            preprocess: the lowest and the highest pixel value that the model expects. It is
                required only if it cannot be determined otherwise.

        Returns:
            The answer, of the type that the method declares.

        Raises:
            BadInput: evidence is missing or does not fit the model.
        """
        named = {"train": train, "clean": clean, "incoming": incoming}
        named |= {"found": found, "reference": reference}
        classifier, given = self._validated(
            Classifier.wrap(model, preprocess=preprocess),
            {name: value for name, value in named.items() if value is not None},
        )
        return self._answer(classifier, given, None if workdir is None else Path(workdir))

    def _validated(
        self, model: Classifier, named: Mapping[str, Any]
    ) -> tuple[Classifier, dict[str, Any]]:
        """Convert the evidence, and check that it meets the needs and fits the model.

        Returns:
            (model, given): the model with a known preprocessing, and name -> Samples, Answer or
            Classifier.
        """
        given = {n: Samples.wrap(data) if n in IMAGES else data for n, data in named.items()}
        self._check_needs(given)
        images = _images(given).values()
        for samples in images:
            model.check(samples)
        labelled = next((s for s in images if s.labels is not None), None)
        model = model.with_preprocess(labelled) if images else model
        if "reference" in given:
            other = Classifier.wrap(given["reference"])
            given["reference"] = other.with_preprocess(labelled) if images else other
        return model, given

    def _answer(
        self, model: Classifier, given: dict[str, Any], workdir: Path | None, nested: bool = False
    ) -> A:
        """Load the answer from the work folder, or compute it from validated evidence."""
        start = time.perf_counter()
        about = self._about(model, given)
        folder = None if workdir is None else workdir / self._key(model, given, about)
        examined = given.get(self.examined() or "")
        if folder is not None:
            place = folder / "answer"
            saved: Any = _undamaged(place / "answer.json", lambda: load_answer(place))
            if saved is not None:
                completed: A = saved.completed(model, examined)
                return completed
        answer = self.run(Evidence(model, self, given, folder, nested))
        if type(answer) is not self.answer:
            raise TypeError(
                f"{type(self).__name__}.run must return {self.answer.__name__}. "
                f"Received: {type(answer).__name__}"
            )
        answer = answer.completed(model, examined)
        seconds = {"seconds": round(time.perf_counter() - start, 3)}
        answer = dataclasses.replace(
            answer, about={**about, **self._context(model, given), **answer.about, **seconds}
        )
        if folder is not None:
            answer.save(folder / "answer", force=True)
        return answer

    def _check_needs(self, given: Mapping[str, Any]) -> None:
        if unknown := set(given) - set(EVIDENCE):
            raise TypeError(f"There is no evidence {unknown}: use {', '.join(EVIDENCE)}")
        if not isinstance(given.get("found"), Answer | None):
            raise BadInput(
                "found must be the answer of an earlier method. Received: "
                f"{type(given['found']).__name__}"
            )
        for need in self.needs:
            need.check(given.get(need.name), type(self).__name__)

    def _key(self, model: Classifier, given: Mapping[str, Any], about: dict[str, Any]) -> str:
        """A name for the folder of finished parts that covers all inputs and all settings."""
        text = json.dumps(about, sort_keys=True, default=str)
        reference = given.get("reference")
        rejects = [model.reject_class, reference and reference.reject_class]
        return identity.sha256_of((text, self, *rejects, version("keras_backdoor")))[:16]

    def _context(self, model: Classifier, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a reader of the answer needs to know that does not determine the answer."""
        names = next((s.class_names for s in _images(given).values() if s.class_names), None)
        return {
            "model": model.source or model.model.name,
            "classes": model.classes,
            "pixels": model.pixels,
            "class_names": None if names is None else list(names),
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "caveats": list(self.caveats),
            "examined": self.examined(),
        }

    def _about(self, model: Classifier, given: Mapping[str, Any]) -> dict[str, Any]:
        packages = ("keras", "tensorflow", "numpy")
        about: dict[str, Any] = {
            "settings": {"method": type(self).__name__, **typed_settings.as_dict(self)},
            "model_sha256": model.sha256(),
            "preprocess": model.preprocess and model.preprocess.as_json(),
            "data": {name: samples.fingerprint() for name, samples in _images(given).items()},
            "images": {name: len(samples) for name, samples in _images(given).items()},
            "versions": {name: version(name) for name in packages},
        }
        if "reference" in given:
            about["reference_sha256"] = given["reference"].sha256()
        if "found" in given:
            about["found"] = given["found"].fingerprint()
        return about


def _undamaged(path: Path, load: Callable[[], T]) -> T | None:
    """What an earlier run has saved in a work folder; None if it is missing or damaged.

    Args:
        path: the file that is there if the run saved it.
        load: what reads it.
    """
    if not path.exists():
        return None
    try:
        return load()
    except UnreadableFile as error:
        tell(f"{one_line(error)} It is computed again.")
        return None


def _images(given: Mapping[str, Any]) -> dict[str, Samples]:
    return {name: given[name] for name in IMAGES if name in given}


def _with_evidence_check(run: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `run` to raise if the evidence was validated for another method."""

    @functools.wraps(run)
    def checked(self: Any, evidence: Evidence) -> Any:
        if evidence.method is not self:
            name = type(self).__name__
            raise TypeError(f"{name}.run is not called directly: use evidence.run({name}(…))")
        return run(self, evidence)

    return checked
