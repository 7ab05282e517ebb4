"""Inspect a model file without running its code."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor._safe.files import sha256
from keras_backdoor.errors import HostileFile, UnreadableFile, UnsupportedFile
from keras_backdoor.loading import model_files
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier

Severity = Literal["info", "warning", "hostile", "unsupported", "unreadable"]


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a model file.

    Attributes:
        path: path of the file.
        sha256: SHA-256 of the file, or None if it cannot be read.
        verdict: "safe" (no code in the file can run), "hostile", "unsupported" (a layer or an
            operation of Keras is not supported yet) or "unreadable".
        findings: (severity, sentence) pairs.
        format: "h5", "keras" or "weights".
        keras_version: version of Keras that wrote the file.
        layers: (path, class, output shape, parameters) of each layer.
        parameters: number of weights.
        image_shape: (height, width, channels).
        classes: number of classes.
        output: kind of output: probabilities, logits or sigmoid.
        preprocess: the preprocessing from the file or its card as text, or None if unknown.
    """

    path: str
    sha256: str | None
    verdict: Literal["safe", "hostile", "unsupported", "unreadable"]
    findings: tuple[tuple[Severity, str], ...]
    format: str | None = None
    keras_version: str | None = None
    layers: tuple[tuple[str, str, tuple, int], ...] = ()
    parameters: int | None = None
    image_shape: tuple | None = None
    classes: int | None = None
    output: str | None = None
    preprocess: str | None = None

    HEADER: ClassVar[tuple[str, ...]] = ("layer", "class", "output", "weights")

    @property
    def meaning(self) -> str:
        """A sentence that explains the verdict."""
        return {
            "safe": "safe to open: no code in the file can run (the network may have a backdoor)",
            "hostile": "hostile: the file could run code or exhaust the machine",
            "unsupported": "not supported yet: nothing in the file is hostile, but this version "
            "cannot build it",
            "unreadable": "unreadable: the file is damaged or its format is not supported",
        }[self.verdict]

    def rows(self) -> list[tuple[str, str]]:
        """The properties and findings as (name, value) pairs, one for each printed row."""
        rows = [("verdict", self.meaning), ("SHA-256", str(self.sha256))]
        if self.format is not None:
            rows.append(("format", f"{self.format}, Keras {self.keras_version}"))
        if self.image_shape is not None:
            size = "x".join("?" if n is None else str(n) for n in self.image_shape)
            rows.append(("input", f"{size}, pixels as {self.preprocess or 'unknown'}"))
            rows.append(("output", f"{self.classes} classes, {self.output}"))
        if self.parameters is not None:
            rows.append(("weights", f"{self.parameters:,}"))
        return [*rows, *self.findings]

    def layer_rows(self) -> list[tuple[str, ...]]:
        """The architecture as (layer, class, output shape, weights) rows."""
        return [(p, kind, str(shape), f"{n:,}") for p, kind, shape, n in self.layers]

    def as_dict(self) -> dict[str, Any]:
        """All attributes as a dictionary for JSON."""
        return asdict(self)


def inspect_model(
    path: Path | str, *, architecture: str | None = None, classes: int | None = None
) -> Inspection:
    """Check a model file and describe its contents.

    Args:
        path: path of the file.
        architecture: name of the architecture of a weights-only file, see `load_model`.
        classes: number of classes of a weights-only file, see `load_model`.

    Returns:
        The inspection. A hostile or unreadable file is reported by its verdict, not by an error.
    """
    digest = sha256(path) if Path(path).is_file() else None
    try:
        with model_files.open_checked(path) as (file, weights):
            if file.config is None and architecture is None:
                return _weights_only(file)
            built = model_files.build_classifier(file, weights, architecture, classes)
        return _describe(file, *built)
    except HostileFile as error:
        return Inspection(str(path), digest, "hostile", (("hostile", str(error)),))
    except UnsupportedFile as error:
        return Inspection(str(path), digest, "unsupported", (("unsupported", str(error)),))
    except UnreadableFile as error:
        return Inspection(str(path), digest, "unreadable", (("unreadable", str(error)),))


def _describe(file: model_files.ModelFile, classifier: Classifier, notes: list[str]) -> Inspection:
    model = classifier.model
    return Inspection(
        path=str(file.path),
        sha256=file.sha256,
        verdict="safe",
        findings=_findings(file, classifier, notes),
        format=file.format,
        keras_version=file.keras_version,
        layers=tuple(
            (p, type(x).__name__, tuple(x.output.shape[1:]), x.count_params())
            for p, x in graph.walk(model)
        ),
        parameters=model.count_params(),
        image_shape=classifier.image_shape,
        classes=classifier.classes,
        output=classifier.output,
        preprocess=None if classifier.preprocess is None else classifier.pixels,
    )


def _findings(
    file: model_files.ModelFile, classifier: Classifier | None, notes: list[str]
) -> tuple[tuple[Severity, str], ...]:
    findings: list[tuple[Severity, str]] = []
    if file.ignored:
        findings.append(("info", f"Unused parts of the file: {', '.join(file.ignored)}."))
    findings += [("warning", note) for note in notes]
    if classifier is not None and classifier.preprocess is None:
        findings.append(
            ("warning", "The preprocessing is unknown: pass --preprocess or labeled images.")
        )
    return tuple(findings)


def _weights_only(file: model_files.ModelFile) -> Inspection:
    from keras_backdoor._safe import h5

    layers = []
    with h5.checked(file.path, str(file.path)) as opened:
        group = opened.get("model_weights", opened)
        for name in h5.names(group, "layer_names") or list(group):
            shapes: list[tuple] = []
            if name in group:
                group[name].visititems(
                    lambda _, x, shapes=shapes: (
                        shapes.append(x.shape) if hasattr(x, "shape") else None
                    )
                )
            count = sum(int(np.prod(s)) for s in shapes)
            layers.append((name, "weights", tuple(shapes), count))
    text = "The file contains weights only: pass --architecture NAME to load them."
    return Inspection(
        path=str(file.path),
        sha256=file.sha256,
        verdict="safe",
        findings=(("warning", text), *_findings(file, None, [])),
        format=file.format,
        keras_version=file.keras_version,
        layers=tuple(layers),
        parameters=sum(count for *_, count in layers),
    )
