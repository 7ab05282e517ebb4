"""The weights of VGG-Face: files of the forms that are distributed, with a narrow network in them."""

import struct
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from scipy.io import savemat

from keras_backdoor._safe import matconvnet
from keras_backdoor.architectures import VGG16Face
from keras_backdoor.errors import HostileFile, UnreadableFile
from keras_backdoor.loading import vgg_face
from keras_backdoor.network.preprocessing import Preprocessing

WIDTH, PEOPLE = 1 / 32, 2622


@pytest.fixture(scope="module")
def original() -> keras.Model:
    """The whole list of layers with a 32nd of the channels, and the people of VGG-Face."""
    keras.utils.set_random_seed(3)
    return VGG16Face(PEOPLE, width=WIDTH)


def pairs(model: keras.Model) -> dict[str, list[np.ndarray]]:
    return {x.name: [np.array(w) for w in x.get_weights()] for x in model.layers if x.weights}


def as_convolution(name: str, kernel: np.ndarray) -> np.ndarray:
    """The dense layers of VGG-Face are stored as convolutions, the first of them 7x7."""
    if kernel.ndim == 4:
        return kernel
    side = 7 if name == "fc6" else 1
    return kernel.reshape(side, side, -1, kernel.shape[-1])


def cell_array(model: keras.Model, *, old: bool = False) -> np.ndarray:
    """The cell array of the layers as MatConvNet writes it, with layers that have no weights."""
    layers = []
    for name, (kernel, bias) in pairs(model).items():
        kernel = as_convolution(name, kernel)
        row = bias[None] if name.startswith("fc") else bias[:, None]
        cell = np.empty((1, 2), object)
        cell[0, 0], cell[0, 1] = kernel, row
        values = {"filters": kernel, "biases": row} if old else {"weights": cell}
        layers.append({"name": name, "type": "conv", "pad": np.ones((1, 4)), **values})
        layers.append({"name": f"relu{name[4:]}", "type": "relu", "weights": np.empty((0, 0))})
    out = np.empty((1, len(layers)), object)
    out[0] = layers
    return out


META = {"normalization": {"averageImage": np.array([129.1863, 104.7624, 93.594])}}
FORMS = {
    "MatConvNet": lambda model: {"layers": cell_array(model), "meta": META},
    "MatConvNet, compressed": lambda model: {"layers": cell_array(model), "meta": META},
    "MatConvNet, filters and biases": lambda model: {"layers": cell_array(model, old=True)},
    "the authors": lambda model: {"net": {"layers": cell_array(model)}},
}


def check(path: Path, original: keras.Model) -> None:
    network = VGG16Face(57, weights=path, width=WIDTH)
    for name, weights in pairs(original).items():
        stored = pairs(network)[name]
        if name == "fc8":
            assert stored[0].shape[-1] == 57
        else:
            for a, b in zip(weights, stored, strict=True):
                np.testing.assert_array_equal(a, b)
    assert [x.name for x in network.layers if x.trainable_weights] == ["fc8"]
    np.testing.assert_array_equal(
        VGG16Face(PEOPLE, weights=path, width=WIDTH).get_layer("fc8").get_weights()[0],
        pairs(original)["fc8"][0],
    )


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_matlab_files(form: str, original, tmp_path: Path) -> None:
    path = tmp_path / "vgg-face.mat"
    savemat(path, FORMS[form](original), do_compression="compressed" in form)
    check(path, original)


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_weights_of_keras_ports(convolutions, named, original, tmp_path: Path) -> None:
    """As in keras-vggface (dense layers, names of the layers) and in DeepFace (convolutions)."""
    path = tmp_path / "ported.h5"
    with h5py.File(path, "w") as file:
        names = []
        for number, (name, (kernel, bias)) in enumerate(pairs(original).items(), start=1):
            names += [f"zero_padding2d_{number}", name if named else f"conv2d_{number}"]
            file.create_group(names[-2]).attrs["weight_names"] = []
            group = file.create_group(names[-1])
            group.attrs["weight_names"] = [f"{names[-1]}_W_1:0", f"{names[-1]}_b_1:0"]
            group[f"{names[-1]}_W_1:0"] = as_convolution(name, kernel) if convolutions else kernel
            group[f"{names[-1]}_b_1:0"] = bias
        file.attrs["layer_names"] = names
    check(path, original)


def test_weights_without_the_last_layer(original, tmp_path: Path) -> None:
    path = tmp_path / "trunk.mat"
    savemat(path, {"layers": cell_array(original)[:, :-2]})
    network = VGG16Face(57, weights=path, width=WIDTH)
    np.testing.assert_array_equal(
        network.get_layer("fc7").get_weights()[0], pairs(original)["fc7"][0]
    )


def test_weights_that_do_not_fit_change_nothing(original, tmp_path: Path) -> None:
    path = tmp_path / "wide.mat"
    savemat(path, {"layers": cell_array(original)})
    network = VGG16Face(57, width=WIDTH / 2)
    before = network.get_weights()
    with pytest.raises(UnreadableFile, match="the layer 'conv1_1' has weights of shapes"):
        vgg_face.load_into(network, path)
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    savemat(path, {"layers": cell_array(original)[:, :8]})
    with pytest.raises(UnreadableFile, match="has the weights of 4 layers; the network .* has 16"):
        VGG16Face(57, weights=path, width=WIDTH)


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.mat"
    path.write_bytes(b"not MATLAB" * 100)
    with pytest.raises(UnreadableFile, match="cannot be read: it is not a MATLAB file, or damaged"):
        vgg_face.read(path)
    savemat(path, {"x": np.ones(3)})
    with pytest.raises(UnreadableFile, match="it is not a network of MatConvNet with layers"):
        vgg_face.read(path)
    savemat(path, {"layers": np.array([layer("a", np.full((1, 1, 2, 2), np.nan))], object)})
    with pytest.raises(HostileFile, match="'a' has NaN or infinite weights"):
        vgg_face.read(path)
    twice = np.array([layer("a", np.ones((1, 1, 2, 2)))] * 2, object)
    savemat(path, {"layers": twice})
    with pytest.raises(UnreadableFile, match="two layers with the name 'a'"):
        vgg_face.read(path)
    savemat(path, {"layers": np.array([layer("a", np.ones((3, 2, 2)))], object)})
    with pytest.raises(UnreadableFile, match="which is no convolution"):
        vgg_face.read(path)
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["layers"] = np.ones(3)
    head = b"MATLAB 7.3 MAT-file".ljust(116) + b"\0" * 8 + b"\x00\x02IM"
    content = (tmp_path / "new.mat").read_bytes()
    (tmp_path / "new.mat").write_bytes(head + content[128:])
    with pytest.raises(UnreadableFile, match=r"version 7.3: save it with the option -v7"):
        vgg_face.read(tmp_path / "new.mat")


def layer(name: str, kernel: np.ndarray) -> dict:
    weights = np.empty(2, object)
    weights[0], weights[1] = kernel, np.ones(2)
    return {"name": name, "type": "conv", "weights": weights}


def element(kind: int, size: int, data: bytes) -> bytes:
    """A matrix 'x' of a class, as MATLAB writes it: flags, dimensions, name and data."""
    parts = [struct.pack("<4I", 6, 8, kind, 0), struct.pack("<2I2i", 5, 8, size, 1)]
    parts += [struct.pack("<2I8s", 1, 1, b"x"), data]
    body = b"".join(parts)
    return struct.pack("<2I", 14, len(body)) + body


HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
DOUBLE, TEXT = 6, 4


def test_bombs_are_refused(tmp_path: Path, monkeypatch) -> None:
    """A gigabyte of zeros in a few kilobytes, and a text that is declared and not there."""
    path, size = tmp_path / "bomb.mat", 2**27
    values = struct.pack("<2I", 9, 8 * size)
    start = element(DOUBLE, size, values)
    start = struct.pack("<2I", 14, len(start) - 8 + 8 * size) + start[8:]
    pack = zlib.compressobj(9)
    packed = pack.compress(start)
    packed += b"".join(pack.compress(bytes(2**20)) for _ in range(8 * size // 2**20))
    packed += pack.flush()
    path.write_bytes(HEAD + struct.pack("<2I", 15, len(packed)) + packed)
    assert path.stat().st_size < 2**21
    monkeypatch.setattr(matconvnet, "MEMORY", 2**30)
    with pytest.raises(HostileFile, match="take more than 1 GiB of memory"):
        vgg_face.read(path)
    path.write_bytes(HEAD + element(TEXT, 2**31 - 1, struct.pack("<2I", 16, 0)))
    with pytest.raises(HostileFile, match="take more than 1 GiB of memory"):
        vgg_face.read(path)


def test_the_order_of_the_channels_is_said() -> None:
    rgb, bgr = (Preprocessing.of(vgg_face.PREPROCESSES[kind]) for kind in (".mat", ".h5"))
    white = np.ones(3)
    assert (rgb.order, bgr.order) == ("rgb", "bgr")
    np.testing.assert_allclose(rgb(white), 255 - np.array([129.1863, 104.7624, 93.594]), rtol=1e-6)
    np.testing.assert_allclose(bgr(white), rgb(white)[::-1], rtol=1e-6)
