"""Contract of all layouts, and files that are not what they say."""

import dataclasses
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from keras_backdoor import datasets
from keras_backdoor._internals import discovery
from keras_backdoor.datasets import base
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples, picture_files

SUFFIX = {"npz": ".npz", "hdf5": ".h5", "folder": ""}
LAYOUTS = discovery.keys("datasets")


@pytest.fixture(params=LAYOUTS)
def written(request, tmp_path: Path, noise: Samples) -> tuple[str, Path]:
    path = tmp_path / f"data{SUFFIX.get(request.param, '')}"
    discovery.module("datasets", request.param).write(path, noise, "train")
    return request.param, path


def by_content(samples: Samples) -> list[tuple[bytes, int]]:
    return sorted(
        (image.tobytes(), int(label))
        for image, label in zip(samples.read(), samples.labels, strict=True)
    )


def test_every_layout_reads_what_it_wrote(written, noise: Samples) -> None:
    key, path = written
    first = next(m for m in base.layouts() if m.matches(path))
    assert first is discovery.module("datasets", key)
    back = datasets.open(path)
    assert by_content(back) == by_content(noise)
    assert back.value_range == (0, 255)


def test_every_layout_says_what_it_looks_like() -> None:
    for layout in base.layouts():
        assert layout.FORM in base.expectations()


def test_large_files_stay_on_disk(written, monkeypatch, noise: Samples) -> None:
    monkeypatch.setattr(base, "MEMORY_LIMIT", 100)
    key, path = written
    lazy = datasets.open(path)
    assert type(lazy.images).__name__ == (
        "ArrayImages" if key == "npz" else "EncodedImages" if key == "folder" else "HDF5Images"
    )
    assert by_content(lazy) == by_content(noise)
    assert lazy.fingerprint() == lazy.fingerprint()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ""])
def test_save_chooses_by_suffix_and_keeps_what_is_there(suffix, tmp_path, noise) -> None:
    path = tmp_path / f"out{suffix}"
    datasets.save(path, noise)
    assert by_content(datasets.open(path, split="train")) == by_content(noise)
    with pytest.raises(ValueError, match="exists already"):
        datasets.save(path, noise)
    datasets.save(path, noise, force=True)
    with pytest.raises(ValueError, match="written as .h5, .hdf5, .npz or a folder"):
        datasets.save(tmp_path / "x.csv", noise)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_tracks_survive_hdf5_and_npz(tmp_path, noise: Samples) -> None:
    for name in ("a.h5", "a.npz"):
        datasets.save(tmp_path / name, noise)
        np.testing.assert_array_equal(datasets.open(tmp_path / name).track, noise.track)


def test_plain_and_upper_case_npz_keys(tmp_path, noise: Samples) -> None:
    np.savez(tmp_path / "plain.npz", X=noise.read(), y=np.eye(4)[noise.labels])
    assert by_content(datasets.open(tmp_path / "plain.npz")) == by_content(noise)


def test_splits(tmp_path, noise: Samples) -> None:
    images, labels = noise.read(), noise.labels
    np.savez(tmp_path / "s.npz", x_train=images[:30], y_train=labels[:30],
             x_test=images[30:], y_test=labels[30:])  # fmt: skip
    assert len(datasets.open(tmp_path / "s.npz", split="train")) == 30
    assert len(datasets.open(tmp_path / "s.npz")) == 10
    with pytest.raises(ValueError, match="no split 'valid', only: train, test"):
        datasets.open(tmp_path / "s.npz", split="valid")


def test_float_hdf5_keeps_its_range(tmp_path, noise: Samples) -> None:
    unit = Samples(noise.read() / 255.0, noise.labels)
    datasets.save(tmp_path / "f.h5", unit)
    assert datasets.open(tmp_path / "f.h5").value_range == (0, 1)


def picture(path: Path, size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_files.encode(np.full((*size, 3), 90, np.uint8)))


def test_folders_and_zips(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/1.png", "a/2.png"):
        picture(tmp_path / "f" / name)
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        for name in ("b/1.png", "a/1.png", "a/2.png"):
            archive.write(tmp_path / "f" / name, f"root/{name}")
    for path in (tmp_path / "f", tmp_path / "f.zip"):
        samples = datasets.open(path, size=(4, 3), channels=1)
        assert samples.class_names == ("a", "b")
        assert samples.labels.tolist() == [0, 0, 1]
        assert samples.read().shape == (3, 4, 3, 1)
        with pytest.raises(ValueError, match="no split 'test'"):
            datasets.open(path, split="test")


def test_folders_with_splits(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png")
    picture(tmp_path / "test" / "a" / "1.png")
    picture(tmp_path / "test" / "b" / "1.png")
    assert len(datasets.open(tmp_path, split="train")) == 1
    assert len(datasets.open(tmp_path)) == 2


class TestBadFiles:
    def check(self, path: Path, message: str, **options: object) -> None:
        with pytest.raises(ValueError, match=message):
            datasets.open(path, **options).read()  # type: ignore[arg-type]

    def test_missing_and_unknown(self, tmp_path: Path) -> None:
        self.check(tmp_path / "none.npz", "There is no data at")
        (tmp_path / "x.bin").write_bytes(b"nothing like it")
        self.check(tmp_path / "x.bin", "unknown layout; the supported layouts are hdf5: ")
        (tmp_path / "empty").mkdir()
        self.check(tmp_path / "empty", "has an unknown layout")

    def test_pickles_are_not_read(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "p.npz", x=np.array([{"a": 1}], dtype=object))
        self.check(tmp_path / "p.npz", "cannot be read as arrays of numbers")

    def test_without_the_expected_keys(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "k.npz", xray=np.zeros(3))
        self.check(
            tmp_path / "k.npz", "no images under a usual name .* it has xray \\(3,\\): pass key"
        )
        with h5py.File(tmp_path / "k.h5", "w") as file:
            file["other"] = np.zeros(3)
        self.check(tmp_path / "k.h5", "no images under a usual name .* it has other \\(3,\\)")

    def test_wrong_shapes(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["data"] = np.zeros((3, 2, 5, 6), np.uint8)
        self.check(tmp_path / "a.h5", "images must be .*; 'data' is \\(3, 2, 5, 6\\)")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["X_train"] = np.zeros((3, 4), np.uint8)
        self.check(tmp_path / "b.h5", "images must be .*; 'X_train' is \\(3, 4\\)")

    def test_external_links_are_not_followed(self, tmp_path: Path, noise: Samples) -> None:
        datasets.save(tmp_path / "real.h5", noise)
        with h5py.File(tmp_path / "link.h5", "w") as file:
            file["X_train"] = h5py.ExternalLink("real.h5", "X_train")
        self.check(tmp_path / "link.h5", "is a link, which is not allowed")

    def test_zip_traversal(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
            archive.writestr("../a/1.png", b"x")
        self.check(tmp_path / "t.zip", "points outside the archive")

    def test_links_out_of_a_folder_are_left_out(self, tmp_path: Path) -> None:
        picture(tmp_path / "away" / "secret.png")
        picture(tmp_path / "f" / "a" / "1.png")
        (tmp_path / "f" / "a" / "2.png").symlink_to(tmp_path / "away" / "secret.png")
        assert len(datasets.open(tmp_path / "f")) == 1

    def test_pictures(self, tmp_path: Path) -> None:
        picture(tmp_path / "f" / "a" / "1.png")
        picture(tmp_path / "f" / "a" / "2.png", (9, 9))
        self.check(tmp_path / "f", "images of different sizes.*pass size=\\(height, width\\)")
        (tmp_path / "f" / "a" / "2.png").write_bytes(b"not a picture")
        self.check(tmp_path / "f", "not an image that can be decoded", size=(4, 4))
        self.check(tmp_path / "f", "size must lie in", size=(0, 4))
        picture(tmp_path / "g" / "1.png")
        picture(tmp_path / "g" / "a" / "2.png")
        self.check(tmp_path / "g", "outside class folders")

    def test_damaged_archives(self, tmp_path: Path, noise: Samples) -> None:
        datasets.save(tmp_path / "d.npz", noise)
        content = bytearray((tmp_path / "d.npz").read_bytes())
        content[60:4000] = bytes(3940)
        (tmp_path / "d.npz").write_bytes(content)
        self.check(tmp_path / "d.npz", "cannot be read as arrays")


class TestData:
    def picture(self, path: Path, gray: int = 90, channels: int = 3) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_files.encode(np.full((6, 5, channels), gray, np.uint8)))

    def zipped(self, folder: Path) -> Path:
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for path in folder.rglob("*.png"):
                archive.write(path, f"outer/{path.relative_to(folder)}")
            archive.writestr("__MACOSX/outer/._1.png", b"not a picture")
        return folder.with_suffix(".zip")

    def test_splits_are_found_in_zips_and_whatever_their_case(self, tmp_path: Path) -> None:
        for name in ("Train/a/1.png", "Train/b/2.png", "Train/b/3.png", "Test/a/1.png"):
            self.picture(tmp_path / "set.v1" / name)
        for path in (tmp_path / "set.v1", self.zipped(tmp_path / "set.v1")):
            assert len(datasets.open(path, prefer="train")) == 3
            assert len(datasets.open(path, split="test")) == 1
            assert datasets.open(path, prefer="train").class_names == ("a", "b")

    def test_folders_called_by_numbers_are_their_labels(self, tmp_path: Path) -> None:
        for label in (2, 10, 5):
            self.picture(tmp_path / "n" / str(label) / "1.png", gray=10 * label)
        samples = datasets.open(tmp_path / "n")
        assert sorted(samples.labels) == [2, 5, 10]
        assert {int(i.mean()): int(y) for i, y in zip(samples.read(), samples.labels, strict=True)} == {
            20: 2, 50: 5, 100: 10,
        }  # fmt: skip

    def test_a_single_picture(self, tmp_path: Path) -> None:
        self.picture(tmp_path / "one.png", gray=70)
        samples = datasets.open(tmp_path / "one.png", fit=(3, 4, None))
        assert samples.labels is None
        assert samples.read().shape == (1, 3, 4, 3)
        assert int(samples.read().mean()) == 70

    def test_pictures_without_class_folders_have_no_labels(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            self.picture(tmp_path / f"{name}.png")
        samples = datasets.open(tmp_path)
        assert (len(samples), samples.labels, samples.class_names) == (2, None, None)
        self.picture(tmp_path / "0" / "c.png")
        with pytest.raises(BadInput, match="outside class folders"):
            datasets.open(tmp_path)

    def test_gray_folders_stay_gray(self, tmp_path: Path) -> None:
        self.picture(tmp_path / "g" / "0" / "1.png", channels=1)
        assert datasets.open(tmp_path / "g").image_shape == (6, 5, 1)
        assert datasets.open(tmp_path / "g", channels=3).image_shape == (6, 5, 3)

    def test_integers_in_hdf5(self, tmp_path: Path) -> None:
        for number, high in enumerate((256, 300)):
            pixels = np.arange(2 * 48).reshape(2, 4, 4, 3) % high + (high - 256)
            with h5py.File(tmp_path / f"{number}.h5", "w") as file:
                file["X_test"] = pixels
        assert datasets.open(tmp_path / "0.h5").images.dtype == np.uint8
        with h5py.File(tmp_path / "1.h5", "r+") as file:
            file["X_test"][0] = 300
        with pytest.raises(ValueError, match=r"Integer pixels must lie in 0\.\.255"):
            datasets.open(tmp_path / "1.h5").read()

    def test_arrays_are_resized_and_recolored_when_asked(self, tmp_path, noise: Samples) -> None:
        for name in ("a.npz", "a.h5"):
            datasets.save(tmp_path / name, noise)
            samples = datasets.open(tmp_path / name, size=(6, 5), channels=1)
            assert samples.image_shape == (6, 5, 1)
            luma = noise.read() @ np.array([0.299, 0.587, 0.114])
            expected = luma.reshape(40, 6, 2, 5, 2).mean(axis=(2, 4))
            np.testing.assert_allclose(samples.read()[..., 0], expected, atol=1.5)
            assert samples.fingerprint() != datasets.open(tmp_path / name).fingerprint()

    def test_standardised_pixels_have_a_range_when_told(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "s.npz", x=np.linspace(-3, 3, 48).reshape(1, 4, 4, 3))
        with pytest.raises(ValueError, match="pass value_range"):
            datasets.open(tmp_path / "s.npz")
        assert datasets.open(tmp_path / "s.npz", value_range=(-3, 3)).value_range == (-3, 3)

    def test_words_are_no_labels(self) -> None:
        with pytest.raises(ValueError, match="labels must be numbers"):
            Samples(np.zeros((2, 4, 4), np.uint8), np.array(["cat", "dog"]))


ORIGINS = np.array(["camera 1", "camera 2"])


@pytest.mark.parametrize("form", ["npz", "hdf5", "csaw", "folder", "zip"])
class TestEveryLayoutCarries:
    """Origins and row numbers, and copies without some rows."""

    @pytest.fixture
    def data(self, form: str, tmp_path: Path, noise: Samples) -> Path:
        marked = dataclasses.replace(noise, origin=ORIGINS[np.arange(40) // 2 % 2], track=None)
        path = tmp_path / {"npz": "d.npz", "hdf5": "d.h5", "csaw": "d.h5"}.get(form, "d")
        if form == "csaw":
            with h5py.File(path, "w") as file:
                file["data"] = np.moveaxis(marked.read(), -1, 1)
                file["label"] = marked.labels
                file["origin"] = np.char.encode(marked.origin, "utf-8")
        else:
            datasets.save(path, marked)
        if form != "zip":
            return path
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
            for picture in path.rglob("*.png"):
                archive.write(picture, picture.relative_to(path))
        return tmp_path / "d.zip"

    def test_the_origin_of_every_image(self, data: Path) -> None:
        samples = datasets.open(data)
        assert samples.origin is not None
        assert sorted(samples.origin) == ["camera 1"] * 20 + ["camera 2"] * 20
        assert set(samples.labels) == {0, 1, 2, 3}
        both = samples.concat(samples)
        assert (both.origin[40:] == samples.origin).all()

    def test_row_numbers_are_those_of_the_file(self, data: Path) -> None:
        whole = datasets.open(data)
        part = whole.take(10, seed=4).of_class(2)
        assert (whole.read()[part.row_numbers] == part.read()).all()
        assert (part.labels == 2).all()

    def test_a_copy_without_some_rows(self, data: Path, tmp_path: Path) -> None:
        before, whole = data.read_bytes() if data.is_file() else None, datasets.open(data)
        copy = tmp_path / f"copy{data.suffix}"
        rows = np.array([3, 0, 39])
        assert datasets.copy_without(data, copy, rows) == copy
        kept, left = np.setdiff1d(np.arange(40), rows), datasets.open(copy)
        np.testing.assert_array_equal(left.read(), whole.read()[kept])
        np.testing.assert_array_equal(left.labels, whole.labels[kept])
        np.testing.assert_array_equal(left.origin, whole.origin[kept])
        assert before is None or data.read_bytes() == before
        assert len(datasets.open(data)) == 40
        with pytest.raises(ValueError, match="has the layout of .*: give"):
            datasets.copy_without(data, tmp_path / "copy.other", rows)
        with pytest.raises(ValueError, match="exists already"):
            datasets.copy_without(data, copy, rows)


def test_a_copy_leaves_the_other_split_whole(tmp_path: Path, noise: Samples) -> None:
    images, labels = noise.read(), noise.labels
    np.savez(
        tmp_path / "s.npz", x_train=images[:30], y_train=labels[:30],
        x_test=images[30:], y_test=labels[30:], note=np.array([1, 2]),
    )  # fmt: skip
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.attrs["made"] = "here"
        file["X_train"], file["Y_train"] = images[:30], labels[:30]
        file["X_test"], file["Y_test"] = images[30:], labels[30:]
    for name in ("s.npz", "s.h5"):
        copy = datasets.copy_without(
            tmp_path / name, tmp_path / f"copy_{name}", [1, 2], split="train"
        )
        assert len(datasets.open(copy, split="train")) == 28
        assert len(datasets.open(copy, split="test")) == 10
    assert np.load(tmp_path / "copy_s.npz")["note"].tolist() == [1, 2]
    with h5py.File(tmp_path / "copy_s.h5") as file:
        assert file.attrs["made"] == "here"


LAYOUT = '''
"""Pictures that a scanner wrote."""
from keras_backdoor.samples import Samples
import numpy as np

FORM = "a folder with scan.idx"
ENDINGS = (".scan",)


def matches(path):
    return (path / "scan.idx").exists()


def read(path, request):
    return Samples(np.zeros((3, 4, 4), np.uint8))


def write(path, samples, split):
    path.write_text(f"{len(samples)} images of {split}")
'''


def test_a_new_layout_is_asked_before_folders(tmp_path, monkeypatch, noise) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "zz_scanner.py").write_text(LAYOUT)
    package = discovery.package("datasets")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "more")])
    try:
        datasets.save(tmp_path / "pictures", noise)
        assert len(datasets.open(tmp_path / "pictures")) == 40
        (tmp_path / "pictures" / "scan.idx").touch()
        assert len(datasets.open(tmp_path / "pictures")) == 3
        datasets.save(tmp_path / "out.scan", noise, split="test")
        assert (tmp_path / "out.scan").read_text() == "40 images of test"
        with pytest.raises(ValueError, match="a folder with scan.idx"):
            (tmp_path / "unknown").write_text("?")
            datasets.open(tmp_path / "unknown")
    finally:
        sys.modules.pop("keras_backdoor.datasets.zz_scanner", None)


def test_a_copy_never_replaces_the_data_and_is_never_empty(tmp_path: Path, noise: Samples) -> None:
    for name in ("a.npz", "a.h5", "a"):
        datasets.save(tmp_path / name, noise)
        with pytest.raises(BadInput, match="The data itself is"):
            datasets.copy_without(tmp_path / name, tmp_path / name, [0], force=True)
        out = tmp_path / f"copy_{name}"
        with pytest.raises(BadInput, match="Every image of .* would be left out"):
            datasets.copy_without(tmp_path / name, out, np.arange(len(noise)))
        assert not out.exists()
        assert len(datasets.open(tmp_path / name)) == len(noise)


def test_a_copy_of_a_folder_keeps_its_other_files(tmp_path: Path, noise: Samples) -> None:
    datasets.save(tmp_path / "a", noise)
    (tmp_path / "a" / "train" / "notes.csv").write_text("who took the pictures")
    datasets.copy_without(tmp_path / "a", tmp_path / "b", [0, 1])
    assert (tmp_path / "b" / "train" / "notes.csv").read_text() == "who took the pictures"
    assert len(datasets.open(tmp_path / "b")) == len(noise) - 2


class TestNames:
    """Names of splits, classes and arrays as people have them."""

    @pytest.mark.parametrize(
        "names",
        [
            ("train", "val", "test"),
            ("Training", "Validation", "Testing"),
            ("TRAIN", "valid", "eval"),
        ],
    )
    def test_splits_by_their_usual_names(self, names: tuple, tmp_path: Path) -> None:
        for split, number in zip(names, (3, 2, 1), strict=True):
            for label in ("cat", "dog"):
                for image in range(number):
                    picture(tmp_path / split / label / f"{image}.png")
        for split, number in (("train", 6), ("validation", 4), ("test", 2), (names[0], 6)):
            samples = datasets.open(tmp_path, split=split)
            assert len(samples) == number
            assert samples.class_names == ("cat", "dog")
        with pytest.raises(ValueError, match="no split 'other', only: "):
            datasets.open(tmp_path, split="other")

    def test_classes_are_numbered_over_all_splits(self, tmp_path: Path) -> None:
        for name in (
            "train/a/1.png",
            "train/b/1.png",
            "train/c/1.png",
            "test/a/1.png",
            "test/c/1.png",
        ):
            picture(tmp_path / name)
        (tmp_path / "test" / "b").mkdir()
        (tmp_path / "test" / "aa").mkdir()
        test = datasets.open(tmp_path, split="test")
        assert test.class_names == ("a", "aa", "b", "c")
        assert test.labels.tolist() == [0, 3]
        assert test.description() == "2 images: 0 = a (1), 1 = aa (0), 2 = b (0), 3 = c (1)"

    def test_folders_of_splits_beside_others(self, tmp_path: Path) -> None:
        for name in ("train/a/1.png", "test/a/1.png", "extra/a/1.png"):
            picture(tmp_path / name)
        with pytest.raises(
            ValueError, match="folders of splits test, train and others beside them"
        ):
            datasets.open(tmp_path)

    def test_splits_without_classes_are_no_classes(self, tmp_path: Path) -> None:
        for name in (
            "k/train/cat/1.png",
            "k/train/dog/1.png",
            "k/test/1.png",
            "two/train/1.png",
            "two/test/1.png",
        ):
            picture(tmp_path / name)
        assert datasets.open(tmp_path / "k", split="train").class_names == ("cat", "dog")
        with pytest.raises(ValueError, match="images outside class folders in the split 'test'"):
            datasets.open(tmp_path / "k")
        with pytest.raises(ValueError, match="images outside class folders in the split"):
            datasets.open(tmp_path / "two")
        picture(tmp_path / "k" / "train" / "sheet.png")
        with pytest.raises(ValueError, match=r"split 'train', such as train/sheet.png"):
            datasets.open(tmp_path / "k", split="train")

    def test_a_key_is_of_its_own_split(self, tmp_path, noise) -> None:
        images, labels = noise.read(), noise.labels
        arrays = {"x_train": images[:20], "y_train": labels[:20], "x_test": images[20:],
                  "y_test": labels[20:], "fine_train": labels[:20] + 4}  # fmt: skip
        np.savez(tmp_path / "a.npz", **arrays)
        keys = {"labels": "fine_train"}
        assert datasets.open(tmp_path / "a.npz", keys=keys).labels.max() < 4
        assert datasets.open(tmp_path / "a.npz", split="train", keys=keys).labels.min() >= 4
        only = datasets.open(tmp_path / "a.npz", keys={"images": "x_test"})
        np.testing.assert_array_equal(only.labels, labels[20:])
        with pytest.raises(ValueError, match="is of the split 'train', and the images .* 'test'"):
            datasets.open(tmp_path / "a.npz", keys={"images": "x_test", "labels": "y_train"})

    def test_pixels_outside_their_range_are_refused(self, tmp_path, noise) -> None:
        np.savez(tmp_path / "a.npz", x=noise.read().astype(np.float32))
        with pytest.raises(ValueError, match=r"must lie in 0\.\.100.*value_range=.*to 255"):
            datasets.open(tmp_path / "a.npz", value_range=(0, 100))

    def test_orders_of_class_folders(self, tmp_path: Path) -> None:
        for number in range(12):
            picture(tmp_path / "n" / str(number) / "1.png")
            picture(tmp_path / "from1" / str(number + 1) / "1.png")
        assert sorted(datasets.open(tmp_path / "n").labels) == list(range(12))
        assert sorted(datasets.open(tmp_path / "from1", classes=12).labels) == list(range(12))
        text = datasets.open(tmp_path / "n", class_names="text")
        assert text.class_names[:5] == ("0", "1", "10", "11", "2")
        own = datasets.open(tmp_path / "n", class_names=tuple(map(str, range(11, -1, -1))))
        assert own.class_names[0] == "11"
        with pytest.raises(
            ValueError, match="class folder '0', which is not among the class names"
        ):
            datasets.open(tmp_path / "n", class_names=("1", "2"))

    def test_a_number_of_folders_that_does_not_fit_the_model(self, tmp_path: Path) -> None:
        for name in ("cat", "dog", "hen"):
            picture(tmp_path / name / "1.png")
        with pytest.raises(
            ValueError, match=r"3 class folders \(cat, dog, hen\), and the model has 10"
        ):
            datasets.open(tmp_path, classes=10)

    @pytest.mark.parametrize(
        ("images", "labels"),
        [("x", "y"), ("X", "Y"), ("images", "labels"), ("train_images", "train_labels"),
         ("train_set_x", "train_set_y"), ("X_train", "Y_train"), ("arr_0", "arr_1"),
         ("data", "label"), ("Images", "Targets"), ("trainX", "trainY")],
    )  # fmt: skip
    def test_usual_names_of_arrays(self, images: str, labels: str, tmp_path, noise) -> None:
        np.savez(tmp_path / "a.npz", **{images: noise.read(), labels: noise.labels})
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file[images], file[labels] = noise.read(), noise.labels
        for name in ("a.npz", "a.h5"):
            assert by_content(datasets.open(tmp_path / name)) == by_content(noise)

    def test_labels_are_never_dropped_silently(self, tmp_path, noise) -> None:
        np.savez(tmp_path / "a.npz", images=noise.read(), species=noise.labels)
        with pytest.raises(ValueError, match=r"no labels under a usual name .*species \(40,\)"):
            datasets.open(tmp_path / "a.npz")
        samples = datasets.open(tmp_path / "a.npz", keys={"images": "images", "labels": "species"})
        assert by_content(samples) == by_content(noise)
        with pytest.raises(ValueError, match="Received: labels=nope"):
            datasets.open(tmp_path / "a.npz", keys={"labels": "nope"})
        np.savez(tmp_path / "b.npz", images=noise.read())
        assert datasets.open(tmp_path / "b.npz").labels is None

    def test_labels_from_1_are_recognized_and_said(self, tmp_path, noise) -> None:
        np.savez(tmp_path / "a.npz", x=noise.read(), y=noise.labels + 1)
        with pytest.warns(UserWarning, match=r"lie in 1\.\.4 and the model has 4 classes"):
            samples = datasets.open(tmp_path / "a.npz", classes=4)
        np.testing.assert_array_equal(samples.labels, noise.labels)
        assert datasets.open(tmp_path / "a.npz", classes=5).labels.min() == 1

    def test_a_model_file_is_no_data(self) -> None:
        from keras_backdoor import bundled

        with pytest.raises(ValueError, match="is a model file, not data"):
            datasets.open(bundled.path("models/mnist_badnet.h5"))


def test_orientation_and_animations_are_read_as_keras_reads_them(tmp_path: Path) -> None:
    import struct

    import cv2
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    plain = cv2.imencode(".jpg", pixels)[1].tobytes()
    tiff = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(tiff)) + b"Exif\x00\x00" + tiff
    turned = plain[:2] + exif + plain[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (12, 8)
    for channels in (1, 3):
        given = picture_files.decode(turned, channels)
        assert given.shape == (8, 12, channels)
        expected = tf.io.decode_jpeg(
            turned, channels=channels, dct_method="INTEGER_ACCURATE"
        ).numpy()
        np.testing.assert_allclose(given.astype(int), expected.astype(int), atol=3)
    frames = np.repeat(np.indices((8, 8)).sum(0)[..., None] % 2 * 255, 3, axis=-1).astype(np.uint8)
    path = tmp_path / "a" / "1.gif"
    path.parent.mkdir()
    path.write_bytes(cv2.imencode(".gif", frames)[1].tobytes())
    picture(tmp_path / "b" / "1.png", (8, 8))
    samples = datasets.open(tmp_path)
    expected = tf.io.decode_image(path.read_bytes(), expand_animations=False).numpy()
    np.testing.assert_array_equal(samples.read()[0], expected)
