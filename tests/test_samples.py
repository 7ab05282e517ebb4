"""Samples: shapes, ranges, views, splits, batches."""

from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from keras_backdoor.samples import Samples
from keras_backdoor.samples.images import HDF5Images
from keras_backdoor.triggers.patch import Patch
from keras_backdoor.triggers.placed import Placed


def collect(samples: Samples, **options: object) -> tuple[np.ndarray, np.ndarray]:
    batches = list(samples.batches(7, **options))  # type: ignore[arg-type]
    images, labels = zip(*((x.numpy(), y.numpy()) for x, y in batches), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture
def filed(tmp_path, noise: Samples) -> Samples:
    """The noise samples, lazily from chunks of 6 images."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=noise.read(), chunks=(6, 12, 10, 3), compression="gzip")
    return Samples(HDF5Images(tmp_path / "x.h5", "x"), noise.labels, track=noise.track)


@pytest.mark.parametrize(
    ("pixels", "bounds"),
    [
        (np.zeros((2, 3, 3), np.uint8), (0, 255)),
        (np.full((2, 3, 3, 1), 0.5), (0, 1)),
        (np.full((2, 3, 3, 3), -0.5), (-1, 1)),
        (np.full((2, 3, 3, 3), 200.0), (0, 255)),
        (np.full((2, 3, 3, 3), 200), (0, 255)),
    ],
)
def test_the_stored_range_is_known(pixels: np.ndarray, bounds: tuple) -> None:
    assert Samples(pixels).value_range == bounds


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3)), None, "images must be"),
        (np.zeros((2, 3, 3, 2)), None, "1, 3 or 4 channels"),
        (np.zeros((0, 3, 3, 1)), None, "no images"),
        (np.full((2, 3, 3), 300), None, "Integer pixels must lie in 0..255"),
        (np.full((2, 3, 3), 300.0), None, "pass value_range"),
        (np.full((2, 3, 3), np.nan), None, "must be finite"),
        (np.zeros((2, 3, 3), complex), None, "uint8 or floating"),
        (np.zeros((2, 3, 3)), [1], "one value per image"),
        (np.zeros((2, 3, 3)), [-1, 0], "0 or more"),
        (np.zeros((2, 3, 3)), [0.5, 0], "class numbers"),
    ],
)
def test_bad_input_is_one_sentence(images: np.ndarray, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples(images, labels)


def test_one_hot_labels_become_numbers() -> None:
    assert Samples(np.zeros((2, 3, 3)), np.eye(4)[[2, 0]]).labels.tolist() == [2, 0]


def test_wrap_takes_what_users_hold(noise: Samples) -> None:
    images, labels = noise.read(), noise.labels
    assert Samples.wrap(noise) is noise
    assert Samples.wrap(images).labels is None
    for data in (
        (images, labels),
        tf.data.Dataset.from_tensor_slices((images, labels)),
        tf.data.Dataset.from_tensor_slices((images, labels)).batch(9),
    ):
        wrapped = Samples.wrap(data)
        np.testing.assert_array_equal(wrapped.read(), images)
        np.testing.assert_array_equal(wrapped.labels, labels)
    with pytest.raises(ValueError, match="Received: str"):
        Samples.wrap("images")


def test_a_file_reads_like_an_array(noise: Samples, filed: Samples) -> None:
    rows = np.array([39, 0, 17, 17, 5])
    np.testing.assert_array_equal(filed.images.read(rows), noise.images.read(rows))
    np.testing.assert_array_equal(filed.read(), noise.read())
    view = filed.subset(np.array([3, 30, 12]))
    np.testing.assert_array_equal(view.read(), noise.read()[[3, 30, 12]])
    both = filed.concat(filed.subset(np.arange(4)))
    assert len(both) == 44
    np.testing.assert_array_equal(both.read(38), noise.read()[[38, 39, 0, 1, 2, 3]])


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_batches_are_whole_and_shuffles_repeat(kind: str, noise, filed, monkeypatch) -> None:
    monkeypatch.setattr("keras_backdoor.samples.images.WINDOW_BYTES", 12 * 360)
    samples = noise if kind == "memory" else filed
    images, labels = collect(samples)
    np.testing.assert_array_equal(images, noise.read())
    np.testing.assert_array_equal(labels, noise.labels)
    first, again, other = (collect(samples, shuffle=(1, epoch)) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], images)
    order = lambda x: sorted(map(bytes, x))  # noqa: E731
    assert order(first[0]) == order(other[0]) == order(images)


def test_a_window_bounds_what_is_read_at_once(filed: Samples, monkeypatch) -> None:
    monkeypatch.setattr("keras_backdoor.samples.images.WINDOW_BYTES", 12 * 360)
    sizes = [len(rows) for rows in filed.images.stretches((0, 0))]
    assert max(sizes) == 12
    assert sum(sizes) == 40


def test_take_and_split(noise: Samples) -> None:
    assert len(noise.take(0.25)) == 10
    assert len(noise.take(8)) == 8
    np.testing.assert_array_equal(noise.take(8, seed=3).labels, noise.take(8, seed=3).labels)
    rest, part = noise.split(0.25, seed=1)
    assert (len(rest), len(part)) == (30, 10)
    for amount in (0, 41, -1):
        with pytest.raises(ValueError, match="take needs"):
            noise.take(amount)
    with pytest.raises(ValueError, match="between 0 and 1"):
        noise.split(1.0)


def test_a_split_by_track_shares_no_recording(noise: Samples) -> None:
    rest, part = noise.split(0.2, seed=0, by_track=True)
    pairs = lambda s: set(zip(s.labels.tolist(), s.track.tolist(), strict=True))  # noqa: E731
    assert not pairs(rest) & pairs(part)
    assert set(part.labels) == set(rest.labels) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="no tracks"):
        noise.unlabelled().subset(np.arange(4)).__class__(noise.read()).split(0.5, by_track=True)


def test_stamping_is_lazy_and_does_not_depend_on_batches(noise: Samples, filed: Samples) -> None:
    stamped = filed.stamped(Patch(size=2, row=0, column=0))
    assert (stamped.read()[:, :2, :2] == 255).all()
    np.testing.assert_array_equal(filed.read(), noise.read())
    moving = filed.stamped(Placed(Patch(size=2, row=0, column=0), rule="anywhere"), seed=4)
    whole = moving.read()
    np.testing.assert_array_equal(whole[11:13], moving.read(11, 13))
    np.testing.assert_array_equal(whole[[30, 2]], moving.subset(np.array([30, 2])).read())


def test_stamping_keeps_range_and_dtype() -> None:
    samples = Samples(np.full((2, 4, 4, 1), -1.0), value_range=(-1, 1))
    stamped = samples.stamped(Patch(size=1, row=0, column=0)).read()
    assert stamped.dtype == np.float32
    assert stamped[0, 0, 0, 0] == 1.0
    assert stamped[0, 1, 1, 0] == -1.0


def test_fingerprints_tell_data_apart(noise: Samples, filed: Samples) -> None:
    prints = {
        noise.fingerprint(),
        noise.unlabelled().fingerprint(),
        noise.subset(np.arange(10)).fingerprint(),
        noise.subset(np.arange(11)).fingerprint(),
        noise.stamped(Patch()).fingerprint(),
        noise.stamped(Patch(size=2)).fingerprint(),
        replace(noise, track=np.zeros(len(noise), int)).fingerprint(),
        replace(noise, track=np.arange(len(noise))).fingerprint(),
    }
    assert len(prints) == 8
    assert filed.fingerprint() == filed.fingerprint()


def test_views_refuse_what_is_not_there(noise: Samples) -> None:
    with pytest.raises(ValueError, match="Class 9 is empty"):
        noise.of_class(9)
    with pytest.raises(ValueError, match="selection contains no images"):
        noise.subset(np.zeros(40, bool))
    with pytest.raises(ValueError, match="have no labels"):
        noise.unlabelled().of_class(0)
    with pytest.raises(ValueError, match="concat needs images of the same shape"):
        noise.concat(Samples(np.zeros((2, 3, 3), np.uint8)))


def test_several_epochs_are_one_after_the_other(noise: Samples) -> None:
    number = len(noise)
    samples = noise.labelled(np.arange(number))

    def order(**how: Any) -> list[int]:
        return [int(x) for _, labels in samples.batches(7, **how) for x in labels]

    joined = order(shuffle=(3, 5), epochs=2)
    assert joined == [*order(shuffle=(3, 5)), *order(shuffle=(3, 6))]
    assert order(epochs=2) == [*range(number), *range(number)]
    assert int(samples.batches(7, epochs=2).cardinality()) == 2 * -(-number // 7)


def test_images_are_told_apart_by_their_pixels(noise: Samples, filed: Samples) -> None:
    digests = list(noise.image_digests())
    assert len(set(digests)) == len(digests) == len(noise)
    assert list(filed.unlabelled().image_digests()) == digests
    assert next(iter(noise.subset(np.arange(3)).stamped(Patch()).image_digests())) not in digests
