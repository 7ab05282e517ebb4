"""Name files that are not Keras models, from their first bytes."""

import zipfile
from pathlib import Path, PurePosixPath

from keras_backdoor.errors import UnreadableFile

SAVE = "open it with the program that wrote it and save the model as .h5 or .keras"
STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the real file was not downloaded (git lfs "
     "pull)"),
    (b"\x80\x02", f"a pickle file, which can run code and is not opened: {SAVE}"),
    (b"\x80\x03", f"a pickle file, which can run code and is not opened: {SAVE}"),
    (b"\x80\x04", f"a pickle file, which can run code and is not opened: {SAVE}"),
    (b"\x80\x05", f"a pickle file, which can run code and is not opened: {SAVE}"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x93NUMPY", "a NumPy array, which is data: pass it as --clean or --test"),
    (b"\x89PNG", "a picture, which is data: pass it as data"),
    (b"\xff\xd8\xff", "a picture, which is data: pass it as data"),
    (b"%PDF", "a PDF document"),
)  # fmt: skip
"""First bytes of a file -> what the file is."""
JUNK = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Names of files that operating systems add to archives."""


def is_junk(member: str) -> bool:
    """Whether an operating system added the member to an archive, as `__MACOSX/` or `.DS_Store`."""
    path = PurePosixPath(member)
    return "__MACOSX" in path.parts or path.name in JUNK


def refuse_by_head(path: Path, head: bytes) -> None:
    """Raise if the first bytes of a file are those of another kind of file.

    Args:
        path: the file.
        head: its first 256 bytes.

    Raises:
        UnreadableFile: the message names the kind and what to do.
    """
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    kind = next((what for start, what in STARTS if head.startswith(start)), None)
    if not head:
        kind = "empty: the download or the copy was interrupted"
    elif head[4:8] == b"TFL3":
        kind = (
            "a TFLite file: use the model as .h5 or .keras, because the layers of a TFLite file "
            "cannot be inspected or repaired"
        )
    elif text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        kind = "a web page: the link led to a page instead of the file itself"
    elif text.startswith((b"{", b"[")):
        kind = "a JSON text, which has no weights: use the .h5 or .keras file of the model"
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27:
        kind = f"a safetensors file, which has no architecture: {SAVE}"
    elif _is_onnx(head) or path.suffix.lower() == ".onnx":
        kind = f"an ONNX file: {SAVE}"
    elif path.suffix.lower() in (".pt", ".pth", ".ckpt"):
        kind = f"a PyTorch file: {SAVE}"
    elif path.suffix.lower() in (".pb", ".meta", ".index"):
        kind = f"a part of a TensorFlow model, which contains a program: {SAVE}"
    if kind is not None:
        raise UnreadableFile(f"{path} is {kind}.")


def _is_onnx(head: bytes) -> bool:
    """Whether a file starts with the version and the producer of ONNX."""
    return head[:1] == b"\x08" and head[2:3] == b"\x12" and head[1:2] < b"\x20"


def refuse_archive(path: Path) -> None:
    """Raise if a zip archive is known and is not a `.keras` file.

    Raises:
        UnreadableFile: the message names the kind and what to do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/") and not is_junk(n)]
    except Exception:  # a damaged archive is named by the caller
        return
    if {"metadata.json", "config.json", "model.weights.h5"} & set(names):
        return
    models = [n for n in names if n.lower().endswith((".h5", ".hdf5", ".keras"))]
    if models:
        kind = f"a zip archive that holds {PurePosixPath(models[0]).name}: unpack it"
    elif any(n.endswith("data.pkl") for n in names):
        kind = f"a PyTorch file: {SAVE}"
    elif any(n.endswith("saved_model.pb") for n in names):
        kind = f"a zip archive with a SavedModel, which contains a program: {SAVE}"
    elif names and all(n.endswith(".npy") for n in names):
        kind = "an .npz file, which is data: pass it as --clean or --test"
    elif any(n.lower().endswith((".png", ".jpg", ".jpeg")) for n in names):
        kind = "a zip archive with pictures, which is data: pass it as --clean or --test"
    else:
        return
    raise UnreadableFile(f"{path} is {kind}.")
