"""Data files and saved answers meet the same care as model files."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from memory import peak_kilobytes

from keras_backdoor import datasets
from keras_backdoor._safe.npz import Npz
from keras_backdoor.answers import FlaggedSamples, RepairedModel, load_answer
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples, picture_files


def npy(shape: tuple, content: bytes, dtype: str = "<f4") -> bytes:
    """An .npy file whose header says what it likes."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((2**40,), bytes(16)), "does not fit its"),
        (npy((4,), bytes(12)), "does not fit its"),
        (npy((-4,), bytes(16)), "does not fit|cannot be read"),
        (npy((2,), bytes(16), "|O"), "neither numbers nor text|cannot be read"),
        (npy((1,), bytes(16), "V16"), "neither numbers nor text"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "cannot be read"),
        (b"nothing", "cannot be read"),
        (npy(("__import__('os').abort()",), bytes(4)), "cannot be read"),  # type: ignore[arg-type]
    ],
)
def test_an_array_is_what_its_header_says(content: bytes, message: str, tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=content)
    with pytest.raises(BadInput, match=message):
        Npz(path)["x"]
    with pytest.raises(BadInput, match=message):
        datasets.open(path)


def test_declared_bytes_are_bounded(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=npy((2**20,), bytes(2**22)))
    assert path.stat().st_size < 2**14
    with pytest.raises(BadInput, match="at most 1000 are read"):
        Npz(path, max_bytes=1000)


def test_reading_equals_numpy(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "b": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        "c": np.array("text"),
        "d": np.zeros((0, 3)),
        "e": np.array(True),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    read = Npz(tmp_path / "a.npz")
    assert set(read) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(read[name], values)
        assert read[name].dtype == values.dtype
    read["a"][0, 0] = 9


def png(width: int, height: int) -> bytes:
    """A small file that says it is a large picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")  # fmt: skip


def test_a_picture_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png(60_000, 60_000))
    with pytest.raises(BadInput, match="can be decoded"):
        datasets.open(tmp_path, size=(4, 4)).read()
    for content in (b"", b"\x89PNG\r\n\x1a\n", png(0, 5)):
        with pytest.raises(BadInput, match="can be decoded"):
            picture_files.decode(content, 3)


@pytest.mark.parametrize(
    "put",
    [
        lambda f: f.__setitem__("X_test", h5py.SoftLink("/Y_test")),
        lambda f: f.__setitem__("X_test", h5py.ExternalLink("/etc/passwd", "/")),
        lambda f: f.create_dataset("X_test", (4,), "f4", external=[("/etc/passwd", 0, 16)]),
        lambda f: f.create_dataset("X_test", (2,), h5py.string_dtype()),
        lambda f: f.create_group("X_test"),
    ],
)
def test_images_are_numbers_in_the_file(put, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["Y_test"] = np.zeros(4)
        put(file)
    with pytest.raises(BadInput, match="link|outside the file|not an array of numbers"):
        datasets.open(tmp_path / "a.h5")


def test_a_damaged_hdf5_is_met_by_the_helper(tmp_path: Path, noise: Samples) -> None:
    datasets.save(tmp_path / "a.h5", noise)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    rng = np.random.default_rng(0)
    for number in range(60):
        damaged = content.copy()
        for place in rng.integers(0, 3000, 6):
            damaged[place] = rng.integers(256)
        (tmp_path / f"d{number}.h5").write_bytes(damaged)
        try:
            datasets.open(tmp_path / f"d{number}.h5")
        except BadInput as error:
            assert str(error)


class TestAnswers:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        answer = FlaggedSamples(scores=np.zeros(3), flagged=np.zeros(3, bool))
        return answer.save(tmp_path / "a")

    def test_no_pickles(self, saved: Path) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, scores=np.array([{}], dtype=object), flagged=np.zeros(1, bool))
        (saved / "arrays.npz").write_bytes(buffer.getvalue())
        with pytest.raises(BadInput, match="is damaged"):
            load_answer(saved)

    @pytest.mark.parametrize(
        "text", ["[" * 900 + "]" * 900, "[]", "{}", '{"schema": 1}', '{"schema": 1, "kind": []}', "\xff"]
    )  # fmt: skip
    def test_strange_json(self, saved: Path, text: str) -> None:
        (saved / "answer.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(BadInput, match="is damaged|unknown kind"):
            load_answer(saved)

    def test_shapes_that_do_not_fit(self, saved: Path) -> None:
        np.savez(saved / "arrays.npz", scores=np.zeros(3), flagged=np.zeros(2, bool))
        with pytest.raises(BadInput, match=r"must have shape \(n,\)"):
            load_answer(saved)

    def test_a_hostile_model_inside(self, badnet, tmp_path: Path) -> None:
        folder = RepairedModel(model=badnet.model, preprocess=(0, 1)).save(tmp_path / "r")
        with zipfile.ZipFile(folder / "model.keras") as archive:
            members = {n: archive.read(n) for n in archive.namelist()}
        members["config.json"] = members["config.json"].replace(b'"Flatten"', b'"Lambda"')
        with zipfile.ZipFile(folder / "model.keras", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(BadInput, match="'Lambda'"):
            load_answer(folder)

    def test_facts_of_another_kind(self, badnet, saved: Path, tmp_path: Path) -> None:
        folder = RepairedModel(model=badnet.model, preprocess=(0, 1)).save(tmp_path / "r")
        load_answer(folder)
        facts = json.loads((folder / "answer.json").read_text())
        for changes in ({"preprocess": "x"}, {"about": []}, {"about": None}):
            (folder / "answer.json").write_text(json.dumps({**facts, **changes}))
            with pytest.raises(BadInput, match="is damaged"):
                load_answer(folder)
        for scores in (np.array(["a"]), np.zeros(0)):
            np.savez(saved / "arrays.npz", scores=scores, flagged=np.zeros(len(scores), bool))
            with pytest.raises(BadInput, match="scores must be a non-empty array of numbers"):
                load_answer(saved)

    def test_links_are_not_followed(self, saved: Path, tmp_path: Path) -> None:
        (saved / "arrays.npz").rename(tmp_path / "away.npz")
        (saved / "arrays.npz").symlink_to(tmp_path / "away.npz")
        with pytest.raises(BadInput, match="a saved answer must not contain symbolic links"):
            load_answer(saved)


def lying_member(path: Path, content: bytes, method: int, declared: int) -> Path:
    """An archive whose directory gives a member another length than it has."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", content)
    raw = bytearray(path.read_bytes())
    directory = raw.rindex(b"PK\x01\x02")
    crc = zlib.crc32(content[:declared])
    for place, value in ((directory + 16, crc), (directory + 24, declared)):
        raw[place : place + 4] = struct.pack("<I", value)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_lying_directory_of_an_archive(method: int, tmp_path: Path) -> None:
    small = npy((4,), bytes(16))
    path = lying_member(tmp_path / "a.npz", small + bytes(2**24), method, len(small))
    before = peak_kilobytes()
    try:
        np.testing.assert_array_equal(Npz(path)["x"], np.zeros(4))
    except BadInput as error:
        assert "cannot be read" in str(error)
    assert (peak_kilobytes() - before) / 1024 < 16


def test_damaged_zips_of_pictures(tmp_path: Path) -> None:
    picture = picture_files.encode(np.zeros((4, 4, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"c/{number}.png", picture)
    content = (tmp_path / "a.zip").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "d.zip").write_bytes(damaged)
        try:
            datasets.open(tmp_path / "d.zip").read()
        except BadInput:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "bounds", [np.array([1.0]), np.array([5.0, 1.0]), np.array([np.nan, 1]), "ab", 3.0]
)
def test_ranges_that_are_none(bounds: object, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X_test"] = np.zeros((2, 4, 4, 3), np.float32)
        file["X_test"].attrs["value_range"] = bounds
    with pytest.raises(BadInput, match="value_range must be|is damaged"):
        datasets.open(tmp_path / "a.h5")


@pytest.mark.parametrize("shape", [(4, 0, 8, 1), (4, 8, 8, 7)])
def test_images_of_no_size_or_strange_channels(shape: tuple, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X_test"] = np.zeros(shape, np.uint8)
    with pytest.raises(BadInput, match="1, 3 or 4 channels"):
        datasets.open(tmp_path / "a.h5")


def test_labels_of_no_width() -> None:
    with pytest.raises(BadInput, match="must not be empty"):
        Samples(np.zeros((4, 2, 2), np.uint8), np.zeros((4, 0)))


def test_an_array_file_with_a_false_header(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy((2**40,), bytes(16)))
    with pytest.raises(BadInput, match="is not an array"):
        picture_files.read_array(tmp_path / "a.npy")
