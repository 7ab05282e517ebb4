"""Load an untrusted model file without running its code.

The file is read with h5py and a JSON parser. The model is built from a list of allowed built-in
layers, and its weights are checked for shape and value. Keras never opens the file.
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
from keras_backdoor.loading.other_files import is_junk, refuse_archive, refuse_by_head
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import Preprocess, Preprocessing
from keras_backdoor.network.units import try_out

MAX_FILE = 4 * 2**30


@dataclass(frozen=True)
class ModelFile:
    """A model file whose structure has been checked.

    Attributes:
        path: path of the file.
        format: "h5", "keras" or "weights".
        keras_version: version of Keras that the file contains, or None.
        config: configuration of the model, or None for a weights-only file.
        sha256: SHA-256 of the file.
        stored: number of weights in the file.
        ignored: names of the parts of the file that are not used.
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
    preprocess: Preprocess | None = None,
) -> Classifier:
    """Load a classifier from an untrusted `.h5`, `.hdf5` or `.keras` file.

    Args:
        path: path of the file, or of the folder of a saved answer with a model.
        architecture: for a weights-only file, the name of one of `keras_backdoor.architectures`.
        classes: for a weights-only file, the number of classes.
        preprocess: how pixels become the input of the model, see `Preprocessing.of`; by default
            the range implied by `Rescaling` layers at the input, or the preprocessing in the
            model's card.

    Returns:
        The classifier. Its preprocessing is None if it is neither given nor known.

    Raises:
        HostileFile: if the file could run code or exhaust the machine.
        UnreadableFile: if the file is damaged or its format is not supported.
        BadInput: if the file does not exist, or the architecture is missing or superfluous.
    """
    with open_checked(path) as (file, weights):
        return build_classifier(file, weights, architecture, classes, preprocess)[0]


def build_classifier(
    file: ModelFile,
    weights: Any,
    architecture: str | None = None,
    classes: int | None = None,
    preprocess: Preprocess | None = None,
) -> tuple[Classifier, list[str]]:
    """Build a classifier from a checked file.

    Args:
        file: the structure of the file.
        weights: the open HDF5 file or group with the weights.
        architecture: see `load_model`.
        classes: see `load_model`.
        preprocess: see `load_model`.

    Returns:
        (classifier, notes): the classifier, and what differs between it and the file, as sentences.
    """
    path = file.path
    notes: list[str] = []
    if file.config is not None and (architecture is not None or classes is not None):
        raise BadInput(f"{path} contains an architecture: leave out --architecture and --classes.")
    if file.config is None:
        model = _from_architecture(file, weights, architecture, classes)
    else:
        model, notes = _from_config(file, weights)
    card = read_card(file.path, file.sha256)
    try:
        known_from = ""
        if preprocess is None and Classifier(model).preprocess is None:
            preprocess, known_from = card.get("preprocess"), "from the card of the model"
        classifier = Classifier(
            model,
            preprocess=preprocess,
            known_from=known_from,
            reject_class=card.get("reject_class"),
            source=str(file.path),
            file_sha256=file.sha256,
        )
        try_out(model)  # reject a model that cannot be run
    except BadInput as error:
        raise UnreadableFile(f"{path}: {error}") from error
    except Exception as error:  # a malformed model may raise any exception
        raise UnreadableFile(f"{path} cannot be used: {one_line(error)}.") from error
    return classifier, notes


@contextmanager
def open_checked(path: Path | str) -> Iterator[tuple[ModelFile, Any]]:
    """Check and open a model file; yields its structure and the open HDF5 file with its weights.

    Raises:
        HostileFile: if the file could run code or exhaust the machine.
        UnreadableFile: if the file is damaged or its format is not supported.
    """
    path = existing(path, "model file")
    if (path / "answer.json").is_file() and (path / "model.keras").is_file():
        path = path / "model.keras"
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
            raise UnreadableFile(_without_model(path, file))
        return ModelFile(path, "weights", version, None, sha256(path), stored, ignored)
    config = parse_json(h5.text(file.attrs["model_config"], str(path)), str(path))
    return ModelFile(path, "h5", version, config, sha256(path), stored, ignored)


def _without_model(path: Path, file: Any) -> str:
    """What an HDF5 file without a Keras model is, as a sentence."""
    import h5py

    arrays = {k: v.shape for k, v in file.items() if isinstance(v, h5py.Dataset)}
    if not arrays:
        return f"{path} is an HDF5 file without a Keras model."
    shown = ", ".join(f"{k} {shape}" for k, shape in list(arrays.items())[:6])
    return f"{path} is a data file without a Keras model ({shown}): pass it as --clean or --test."


def read_card(path: Path, digest: str) -> dict[str, Any]:
    """Read the card of a model: the JSON file of the same name.

    Args:
        path: path of the model file.
        digest: SHA-256 of the model file.

    Returns:
        The card, or an empty dictionary if there is none or it contains another SHA-256.

    Raises:
        BadInput: if the preprocessing or the reject class of the card is invalid.
    """
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return {}
    try:
        card = read_json(card_path)
    except UnreadableFile:
        return {}
    if not isinstance(card, dict) or card.get("sha256") != digest:
        return {}
    reject = card.get("reject_class")
    given = card.get("preprocess", card.get("input_range"))
    try:
        preprocess = Preprocessing.from_json(given) if given else None
    except BadInput as error:
        raise BadInput(f"{card_path}: {error}") from error
    if not (reject is None or (type(reject) is int and reject >= 0)):
        raise BadInput(f"{card_path}: reject_class must be a class number. Received: {reject}")
    return {**card, "preprocess": preprocess}


def _refuse_other_formats(path: Path) -> None:
    if (path / "answer.json").is_file():
        raise UnreadableFile(f"{path} is a saved answer that contains no model.")
    if path.is_dir():
        kind = "a SavedModel" if (path / "saved_model.pb").exists() else "a folder"
        raise UnreadableFile(
            f"{path} is {kind}, not a Keras file: use the model as .h5 or .keras, because a "
            "SavedModel contains a program and is not opened."
        )
    with path.open("rb") as file:
        refuse_by_head(path, file.read(256))
    if zipfile.is_zipfile(path):
        refuse_archive(path)


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
    """Read the three members of a `.keras` file with size limits; other members are rejected."""
    wanted = {"metadata.json", "config.json", "model.weights.h5"}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {
                i.filename: i
                for i in archive.infolist()
                if not i.is_dir() and not is_junk(i.filename)
            }
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
    except Exception as error:  # zipfile may raise any exception for a damaged archive
        raise UnreadableFile(f"{path} is a damaged archive: {one_line(error)}.") from error


def _from_config(file: ModelFile, weights: Any) -> tuple[Any, list[str]]:
    builder = Builder(str(file.path), file.stored, old=_is_old(file))
    try:
        model = builder.model(file.config)
    except BadInput:
        raise
    except Exception as error:  # Keras may raise any exception for invalid settings
        raise UnreadableFile(
            f"{file.path} has an invalid model configuration: "
            f"{type(error).__name__} {one_line(error)}"
        ) from error
    if file.format == "keras":
        model_weights.fill_v3(model, weights, str(file.path), places=builder.places)
        return model, _notes(builder)
    if "model_weights" not in weights:
        raise UnreadableFile(f"{file.path} contains an architecture but no weights.")
    group = weights["model_weights"]
    model_weights.fill(model, group, str(file.path), places=builder.places)
    return model, _notes(builder)


def _is_old(file: ModelFile) -> bool:
    """Whether Keras 1 or 2 wrote the file; without a version, by the form of its inputs."""
    version = (file.keras_version or "").partition(".")[0]
    return int(version) < 3 if version.isdigit() else "batch_input_shape" in str(file.config)


def _notes(builder: Builder) -> list[str]:
    """What differs between the file and the built model, as sentences."""
    notes = []
    if builder.unknown:
        settings = ", ".join(builder.unknown[:5])
        notes.append(f"Ignored settings that this Keras version does not support: {settings}.")
    if builder.silenced:
        names = ", ".join(dict.fromkeys(builder.silenced))
        notes.append(
            f"The dropout of {names} is always on in the file (training=True), so that its answers "
            "are random; here it is off."
        )
    return notes


def _from_architecture(
    file: ModelFile, weights: Any, architecture: str | None, classes: int | None
) -> Any:
    if architecture is None:
        known = ", ".join(discovery.word(k) for k in discovery.keys("architectures"))
        raise BadInput(
            f"{file.path} contains weights only: pass --architecture NAME (architecture=…), one of "
            f"{known}."
        )
    module = discovery.module("architectures", architecture)
    model = discovery.load("architectures", architecture)(
        module.CLASSES if classes is None else classes
    )
    model_weights.fill_any(model, weights, str(file.path))
    return model
