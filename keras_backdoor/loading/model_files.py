"""Open a model file that is not trusted: nothing in it runs.

The file is read with h5py and as JSON; the model is built from a list of built-in layers and
filled with weights whose shapes and values have been checked. Keras is never handed the file.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_backdoor._internals import discovery
from keras_backdoor._safe import h5
from keras_backdoor._safe.archives import read_member
from keras_backdoor._safe.files import existing, parse_json, read_json, sha256
from keras_backdoor.errors import BadInput, HostileFile, UnreadableFile, one_line
from keras_backdoor.loading import model_weights
from keras_backdoor.loading.model_config import Builder
from keras_backdoor.network.classifier import Classifier, Range
from keras_backdoor.network.units import try_out

MAX_FILE = 4 * 2**30


@dataclass(frozen=True)
class ModelFile:
    """A model file whose structure has been checked.

    Attributes:
        path: the file.
        format: "h5", "keras" or "weights".
        keras_version: as the file says it, or None.
        config: the model's configuration, or None for a weights-only file.
        sha256: of the file.
        stored: numbers that it holds as weights.
        ignored: what is in the file and not used.
    """

    path: Path
    format: str
    keras_version: str | None
    config: dict[str, Any] | None
    sha256: str
    stored: int
    ignored: tuple[str, ...] = field(default=())


def load_model(
    path: Path | str,
    *,
    architecture: str | None = None,
    classes: int | None = None,
    input_range: Range | None = None,
) -> Classifier:
    """A classifier from a `.h5`, `.hdf5` or `.keras` file that need not be trusted.

    Args:
        path: the file.
        architecture: for a weights-only file, the name of one of `keras_backdoor.architectures`.
        classes: for a weights-only file, the number of classes.
        input_range: lowest and highest pixel value that the model expects; otherwise it is taken
            from a `Rescaling` first layer or from the model's card beside the file.

    Raises:
        HostileFile: the file could run code or exhaust the machine.
        UnreadableFile: it is damaged or of another kind.
    """
    with open_checked(path) as (file, weights):
        return build_classifier(file, weights, architecture, classes, input_range)[0]


def build_classifier(
    file: ModelFile,
    weights: Any,
    architecture: str | None = None,
    classes: int | None = None,
    input_range: Range | None = None,
) -> tuple[Classifier, list[str]]:
    """A classifier from a checked file, and the settings that were left out as unknown.

    Args:
        file: its structure.
        weights: its open HDF5 file or group with the weights.
        architecture, classes, input_range: see `load_model`.
    """
    path = file.path
    unknown: list[str] = []
    if file.config is not None and (architecture or classes):
        raise BadInput(
            f"{path} has an architecture of its own: leave out --architecture, --classes."
        )
    if file.config is None:
        model = _from_architecture(file, weights, architecture, classes)
    else:
        model, unknown = _from_config(file, weights)
    card = read_card(file.path, file.sha256)
    try:
        own_range = Classifier(model).input_range
        if input_range is None and own_range is None and card.get("input_range"):
            low, high = card["input_range"]
            input_range = (float(low), float(high))
        classifier = Classifier(
            model,
            input_range=input_range,
            reject_class=card.get("reject_class"),
            source=str(file.path),
            file_sha256=file.sha256,
        )
        try_out(model)  # a model that cannot be run is no classifier
    except BadInput as error:
        raise UnreadableFile(f"{path}: {error}") from error
    except Exception as error:  # whatever a malformed model raises when it is examined
        raise UnreadableFile(f"{path} cannot be used: {one_line(error)}.") from error
    return classifier, unknown


@contextmanager
def open_checked(path: Path | str) -> Iterator[tuple[ModelFile, Any]]:
    """A model file, checked and read once: its structure, and its open HDF5 file with weights."""
    path = existing(path, "model file")
    _refuse_other_formats(path)
    if path.stat().st_size > MAX_FILE:
        raise HostileFile(f"{path} is larger than 4 GiB.")
    if zipfile.is_zipfile(path):
        with _open_keras(path) as opened:
            yield opened
        return
    with h5.checked(path, str(path)) as file:
        yield _structure_of_h5(path, file), file


def _structure_of_h5(path: Path, file: Any) -> ModelFile:
    version = file.attrs.get("keras_version")
    if version is None and "model_weights" in file:
        version = file["model_weights"].attrs.get("keras_version")
    version = None if version is None else h5.text(version, str(path))
    stored = h5.numbers(file.get("model_weights", file))
    ignored = tuple(
        k for k in ("training_config", "optimizer_weights") if k in file.attrs or k in file
    )
    if "model_config" not in file.attrs:
        if "layer_names" not in file.attrs and "layers" not in file:
            raise UnreadableFile(f"{path} is an HDF5 file without a Keras model.")
        return ModelFile(path, "weights", version, None, sha256(path), stored, ignored)
    config = parse_json(h5.text(file.attrs["model_config"], str(path)), str(path))
    return ModelFile(path, "h5", version, config, sha256(path), stored, ignored)


def read_card(path: Path, digest: str) -> dict[str, Any]:
    """The model's card: the JSON beside the file, where its SHA-256 is the file's."""
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return {}
    try:
        card = read_json(card_path)
    except UnreadableFile:
        return {}
    if not isinstance(card, dict) or card.get("sha256") != digest:
        return {}
    bounds, reject = card.get("input_range"), card.get("reject_class")
    plain_range = (
        isinstance(bounds, list)
        and len(bounds) == 2
        and all(
            isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e6 for n in bounds
        )
    )
    if not (bounds is None or (plain_range and bounds[0] < bounds[1])):
        raise BadInput(f"{card_path}: input_range must be two numbers. Received: {bounds}")
    if not (reject is None or (type(reject) is int and reject >= 0)):
        raise BadInput(f"{card_path}: reject_class must be a class. Received: {reject}")
    return card


def _refuse_other_formats(path: Path) -> None:
    if path.is_dir():
        what = "a SavedModel" if (path / "saved_model.pb").exists() else "a folder"
        raise UnreadableFile(
            f"{path} is {what}, not a Keras file: a SavedModel holds a program, so it is not "
            "opened; ask for the model as .h5 or .keras."
        )
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] == b"TFL3":
        raise UnreadableFile(
            f"{path} is a TFLite file: its layers cannot be examined or repaired; ask for the "
            "model as .h5 or .keras."
        )


@contextmanager
def _open_keras(path: Path) -> Iterator[tuple[ModelFile, Any]]:
    members = _members(path)
    try:
        metadata = parse_json(members["metadata.json"].decode(), str(path))
        config = parse_json(members["config.json"].decode(), str(path))
    except (KeyError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{path} is an archive without a Keras model.") from error
    if "model.weights.h5" not in members:
        raise UnreadableFile(f"{path} has no model.weights.h5.")
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    ignored = ("compile_config",) if isinstance(config, dict) and "compile_config" in config else ()
    with h5.checked(members["model.weights.h5"], str(path)) as file:
        stored = h5.numbers(file)
        yield ModelFile(path, "keras", str(version), config, sha256(path), stored, ignored), file


def _members(path: Path) -> dict[str, bytes]:
    """The three members of a `.keras` file, read within bounds; others are refused."""
    wanted = {"metadata.json", "config.json", "model.weights.h5"}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {i.filename: i for i in archive.infolist() if not i.is_dir()}
            foreign = sorted(n for n in infos if n not in wanted and not n.startswith("assets"))
            if foreign or ".." in "".join(infos):
                raise HostileFile(f"{path} has the member {(foreign or list(infos))[0]!r}.")
            size = sum(infos[n].file_size for n in wanted & set(infos))
            packed = sum(infos[n].compress_size for n in wanted & set(infos))
            if size > MAX_FILE or size > 2**24 + h5.MAX_EXPANSION * packed:
                raise HostileFile(f"{path} expands from {packed} to {size} bytes (a zip bomb).")
            return {n: read_member(archive, infos[n]) for n in wanted & set(infos)}
    except BadInput:
        raise
    except Exception as error:  # whatever zipfile makes of a damaged archive
        raise UnreadableFile(f"{path} is a damaged archive: {one_line(error)}.") from error


def _from_config(file: ModelFile, weights: Any) -> tuple[Any, list[str]]:
    builder = Builder(str(file.path), file.stored)
    try:
        model = builder.model(file.config)
    except BadInput:
        raise
    except Exception as error:  # whatever Keras raises for settings that make no sense
        raise UnreadableFile(
            f"{file.path} has a model configuration that makes no sense: "
            f"{type(error).__name__} {one_line(error)}"
        ) from error
    if file.format == "keras":
        model_weights.fill_v3(model, weights, str(file.path))
        return model, builder.unknown
    if "model_weights" not in weights:
        raise UnreadableFile(f"{file.path} has an architecture and no weights.")
    group = weights["model_weights"]
    model_weights.fill(model, group, str(file.path), original=builder.original)
    return model, builder.unknown


def _from_architecture(
    file: ModelFile, weights: Any, architecture: str | None, classes: int | None
) -> Any:
    if architecture is None:
        known = ", ".join(discovery.word(k) for k in discovery.keys("architectures"))
        raise BadInput(
            f"{file.path} holds weights only: pass --architecture NAME (architecture=…), one of "
            f"{known}."
        )
    module = discovery.module("architectures", architecture)
    model = discovery.load("architectures", architecture)(classes or module.CLASSES)
    model_weights.fill_any(model, weights, str(file.path))
    return model
