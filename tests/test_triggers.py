"""Contract of all triggers, presets at their exact pixels, and hand values."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_backdoor._internals import discovery
from keras_backdoor.samples import Samples, picture_files
from keras_backdoor.triggers import (
    Add,
    Blend,
    Checkerboard,
    Glasses,
    Multiply,
    Patch,
    Pattern,
    Placed,
    SinglePixel,
)
from keras_backdoor.triggers._parse import PRESETS, parse
from keras_backdoor.triggers.base import Stamp, Stamped, Trigger

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
SPECIAL = {"add": lambda: Add(RNG.uniform(size=(3, 32, 32, 3)), weight=0.5)}


def make_again(trigger: Trigger) -> Trigger:
    """A copy with equal values."""
    return pickle.loads(pickle.dumps(trigger))


def make(key: str) -> Trigger:
    return SPECIAL.get(key, discovery.load("triggers", key))()


@pytest.mark.parametrize("key", discovery.keys("triggers"))
class TestEveryTrigger:
    def test_changes_images_and_keeps_shape_dtype_and_range(self, key: str) -> None:
        for images in (IMAGES, (IMAGES / 255).astype(np.float32), IMAGES[..., :1]):
            trigger = make(key) if images.shape[-1] == 3 or key != "add" else None
            if trigger is None:
                continue
            before = images.copy()
            stamped = trigger.apply(images)
            np.testing.assert_array_equal(images, before)
            assert stamped.shape == images.shape
            assert stamped.dtype == images.dtype
            assert stamped.min() >= 0
            assert stamped.max() <= (255 if images.dtype == np.uint8 else 1)
            assert not np.array_equal(stamped, images)

    def test_same_seed_same_image_whatever_the_batch(self, key: str) -> None:
        trigger = make(key)
        unit = IMAGES.astype(np.float32) / 255
        whole = trigger.stamp_rows(unit, np.arange(6), 3)
        part = trigger.stamp_rows(unit[4:], np.array([4, 5]), 3)
        np.testing.assert_array_equal(whole[4:], part)

    def test_takes_tf_data(self, key: str) -> None:
        trigger = make(key)
        dataset = tf.data.Dataset.from_tensor_slices((IMAGES, np.arange(6))).batch(4)
        stamped = list(trigger.apply(dataset))
        images = np.concatenate([x.numpy() for x, _ in stamped])
        assert images.shape == IMAGES.shape
        assert images.dtype == np.uint8
        assert [int(y) for _, ys in stamped for y in ys] == list(range(6))
        if not trigger.random:
            np.testing.assert_array_equal(images, trigger.apply(IMAGES))

    def test_has_a_repr_of_its_name(self, key: str) -> None:
        assert repr(make(key)).lower().startswith(key.replace("_", ""))

    def test_has_a_fingerprint_over_all_its_values(self, key: str) -> None:
        trigger = make(key)
        assert trigger.fingerprint() == make_again(trigger).fingerprint()
        for field in dataclasses.fields(trigger):
            value = getattr(trigger, field.name)
            if isinstance(value, np.ndarray):
                changed = value.copy()
                changed.flat[-1] = 1.0 - changed.flat[-1]
            elif isinstance(value, int | float) and not isinstance(value, bool):
                changed = value / 2 if isinstance(value, float) else value + 1
            else:
                continue
            other = dataclasses.replace(trigger, **{field.name: changed})
            assert other.fingerprint() != trigger.fingerprint(), field.name

    def test_stamped_samples_have_its_fingerprint(self, key: str) -> None:
        trigger = make(key)
        samples = Samples(IMAGES)
        one, other = samples.stamped(trigger), samples.stamped(Patch(size=9, row=20, column=20))
        assert one.fingerprint() != other.fingerprint() != samples.fingerprint()
        assert one.fingerprint() == Samples(IMAGES).stamped(make_again(trigger)).fingerprint()

    def test_covers_what_it_says(self, key: str) -> None:
        trigger = make(key)
        support = trigger.support(32, 32)
        if support is None:
            return
        assert support.shape == (32, 32)
        assert support.dtype == bool
        changed = (trigger.apply(IMAGES) != IMAGES).any(axis=(0, 3))
        assert not (changed & ~support).any()


def touched(trigger: Trigger, size: int = 32, channels: int = 3) -> set[tuple[int, int]]:
    stamped = trigger.apply(np.full((1, size, size, channels), 100, np.uint8))[0]
    return set(map(tuple, np.argwhere((stamped != 100).any(axis=-1)).tolist()))


def square(first: int, last: int) -> set[tuple[int, int]]:
    return {(r, c) for r in range(first, last) for c in range(first, last)}


@pytest.mark.parametrize(
    ("preset", "pixels", "color", "size"),
    [
        ("yellow-square", square(15, 17), (255, 255, 0), 32),
        ("white-square", square(15, 17), (255, 255, 255), 32),
        ("big-yellow-square", square(14, 18), (255, 255, 0), 32),
        ("yellow-pattern", {(15, 15), (15, 17), (16, 16), (17, 15)}, (255, 255, 0), 32),
        ("white-pattern", {(15, 15), (15, 17), (16, 16), (17, 15)}, (255, 255, 255), 32),
        ("mnist-pixel", {(26, 26)}, (255, 255, 255), 28),
        ("neural-cleanse-gtsrb", square(27, 31), (255, 255, 255), 32),
        ("neural-cleanse-mnist", square(23, 27), (255, 255, 255), 28),
    ],
)
def test_presets_lie_where_the_papers_put_them(preset, pixels, color, size) -> None:
    trigger = parse(preset)
    assert touched(trigger, size) == pixels
    stamped = trigger.apply(np.zeros((1, size, size, 3), np.uint8))[0]
    assert all(tuple(stamped[p]) == color for p in pixels)


def test_the_c_patch_is_a_c_at_the_top_right() -> None:
    pixels = np.array(sorted(touched(parse("c-patch"), 28, 1)))
    assert pixels[:, 0].max() < 10
    assert pixels[:, 1].min() > 18
    box = np.zeros((5, 4), int)
    box[tuple((pixels - pixels.min(axis=0)).T)] = 1
    assert box.tolist() == [[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_a_trigger(preset: str) -> None:
    assert isinstance(parse(preset), Trigger)


def test_stamp_is_the_formula_of_neural_cleanse() -> None:
    mask = RNG.uniform(size=(32, 32, 1)).astype(np.float32)
    pattern = RNG.uniform(size=(32, 32, 3)).astype(np.float32)
    unit = IMAGES / 255
    expected = (1 - mask) * unit + mask * pattern
    np.testing.assert_allclose(Stamp(mask, pattern).apply(unit), expected, atol=1e-6)
    assert Stamp(mask, pattern).l1 == pytest.approx(mask.sum())


def test_blend_multiply_and_add_by_hand() -> None:
    gray = np.full((1, 4, 4, 1), 0.5)
    noise = np.random.default_rng(0).uniform(size=(4, 4, 3)).mean(axis=-1)
    np.testing.assert_allclose(Blend(0.2).apply(gray)[0, :, :, 0], 0.4 + 0.2 * noise, atol=1e-6)
    assert Multiply(1.5).apply(gray).max() == pytest.approx(0.75)
    added = Add(np.full((1, 4, 4, 1), 0.8), weight=0.1).apply(gray)
    assert added == pytest.approx(np.full((1, 4, 4, 1), 0.58))
    assert Multiply(3.0).apply(gray).max() == 1.0


def test_checkerboard_cells() -> None:
    board = Checkerboard(size=4, row=0, column=0, cell=2).apply(np.full((1, 4, 4, 1), 0.5))
    assert board[0, :, :, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_negative_places_count_from_the_far_edge() -> None:
    assert touched(SinglePixel(row=-1, column=-2), 10) == {(9, 8)}
    assert touched(Pattern(((-1, 0), (0, -1))), 10) == {(9, 0), (0, 9)}
    assert touched(Patch(size=2, row=-3, column=0), 10) == {(7, 0), (7, 1), (8, 0), (8, 1)}


def test_glasses_paste_any_picture_with_its_alpha(tmp_path) -> None:
    picture = np.zeros((2, 3, 4), np.uint8)
    picture[0] = (255, 0, 0, 255)
    picture[1, 1] = (0, 255, 0, 51)
    (tmp_path / "g.png").write_bytes(picture_files.encode(picture))
    stamped = Glasses(tmp_path / "g.png", row=1, column=2).apply(np.full((1, 6, 6, 3), 0.5))[0]
    assert stamped[1, 2:5].tolist() == [[1, 0, 0]] * 3
    np.testing.assert_allclose(stamped[2, 3], [0.4, 0.6, 0.4], atol=1e-6)
    assert (stamped[2, 2] == 0.5).all()
    wide = Glasses(tmp_path / "g.png", row=0, width=6)
    assert touched(wide, 6) >= {(0, c) for c in range(6)}


def test_drawn_glasses_cover_both_eyes() -> None:
    stamp = Glasses(color="green").stamp_for(55, 47)
    assert 0.1 < stamp.mask.mean() < 0.3
    np.testing.assert_allclose(stamp.mask, stamp.mask[:, ::-1])


def test_placed_looks_for_blank_places() -> None:
    image = np.zeros((1, 28, 28, 1), np.float32)
    image[0, 5:28] = 0.9
    placed = Placed("c-patch")
    places = set()
    for seed in range(12):
        stamped = placed.apply(image, seed=seed)
        changed = np.argwhere((stamped != image)[0, :, :, 0])
        assert len(changed) == 9
        assert changed[:, 0].max() < 5
        places.add(tuple(changed.min(axis=0)))
    assert len(places) > 5
    crowded = Placed("c-patch").apply(np.full((1, 28, 28, 1), 0.5))
    assert (crowded == 1).sum() == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", "no trigger 'nope'.*presets: yellow-square"),
        ("patch:nope=1", "no setting 'nope'"),
        ("patch:size=big", "Patch.size must be a int"),
        ("patch:size", "name:key=value"),
        ("patch:size=0", "size must be 1 or more"),
        ("blend:opacity=2", "opacity must lie in"),
        ("multiply:factor=-1", "0 or more"),
        ("pattern:pixels=1", "row.column"),
        ("placed:rule=nope", "must be one of blank, anywhere"),
        ("placed:of=double", "of must be a trigger that is a Stamp"),
        ("glasses:picture=missing.png", "no image file at"),
        ("add", "needs images"),
        ("checkerboard:cell=0", "1 or more"),
    ],
)
def test_bad_words_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text).apply(IMAGES)


@pytest.mark.parametrize(
    ("trigger", "images", "message"),
    [
        (Patch(size=40), IMAGES, "outside the image"),
        (Checkerboard(size=40), IMAGES, "outside the image"),
        (Patch(), np.zeros((3, 3)), "needs \\(n, h, w, c\\)"),
        (Glasses(row=30), IMAGES, "does not lie inside"),
        (Stamp(np.ones((4, 4, 1)), np.ones((4, 4, 1))), IMAGES, "needs images of"),
        (Add(np.zeros((1, 4, 4, 3))), IMAGES, "images to add"),
    ],
)
def test_bad_places_are_one_sentence(trigger: Trigger, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trigger.apply(images)


def test_stamps_check_their_parts() -> None:
    with pytest.raises(ValueError, match="values in 0..1"):
        Stamp(np.full((4, 4, 1), 2.0), np.ones((4, 4, 3)))
    with pytest.raises(ValueError, match="of the same size"):
        Stamp(np.ones((4, 4, 1)), np.ones((5, 4, 3)))


def test_settings_survive_the_way_through_text() -> None:
    assert parse("patch:color=0.1:0.2:0.3").color == (0.1, 0.2, 0.3)
    assert parse("patch:color=0.5").color == 0.5
    assert parse("blend:picture=none").picture is None
    assert issubclass(Stamped, Trigger)


class TestTriggers:
    def test_floats_beyond_1_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
            Patch().apply(np.full((1, 8, 8, 1), 200.0))

    def test_a_patch_does_not_wrap_around(self) -> None:
        with pytest.raises(ValueError, match="outside the image"):
            Patch(size=4, row=-30).apply(np.zeros((1, 28, 28, 1)))

    def test_a_specification_inside_another(self) -> None:
        assert parse("placed:of=patch:size=3;row=2").of == parse("patch:size=3,row=2")


@dataclasses.dataclass(frozen=True, eq=False)
class Warp(Trigger):
    """Moves every pixel by a field, which its repr does not show whole."""

    field: np.ndarray

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows, columns = np.indices(images.shape[1:3])
        moved = np.clip(rows + self.field, 0, images.shape[1] - 1).astype(int)
        return images[:, moved, columns]


class TestFingerprints:
    def test_two_fields_are_two_triggers(self) -> None:
        field = np.zeros((32, 32))
        other = field.copy()
        other[16, 16] = 3
        assert repr(Warp(np.zeros((2000,)))) == repr(Warp(np.append(np.zeros(1999), 0.0)))
        assert Warp(field).fingerprint() != Warp(other).fingerprint()
        samples = Samples(IMAGES)
        assert (
            samples.stamped(Warp(field)).fingerprint() != samples.stamped(Warp(other)).fingerprint()
        )

    def test_images_to_add_count_whole(self) -> None:
        pixels = RNG.uniform(size=(2, 8, 8, 1))
        assert Add(pixels).fingerprint() != Add(pixels[:, ::-1]).fingerprint()
        assert pixels.mean() == pytest.approx(pixels[:, ::-1].mean())

    def test_pictures_count_by_their_content(self, tmp_path) -> None:
        prints = []
        for gray in (10, 20, 10):
            picture = np.full((4, 4, 4), gray, np.uint8)
            (tmp_path / "g.png").write_bytes(picture_files.encode(picture))
            prints.append(Glasses(tmp_path / "g.png").fingerprint())
        assert prints[0] == prints[2] != prints[1]

    def test_a_trigger_inside_another_counts(self) -> None:
        one, other = Placed(Patch(size=2)), Placed(Patch(size=3))
        assert one.fingerprint() != other.fingerprint()

    def test_values_without_an_identity_are_refused(self) -> None:
        with pytest.raises(TypeError, match="Warp has a value of the type object"):
            Warp(object()).fingerprint()  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a value of the type ndarray"):
            Warp(np.array([object()])).fingerprint()

    def test_nested_tuples_are_delimited(self) -> None:
        one, other = Warp(((1,), 2)), Warp(((1, 2),))  # type: ignore[arg-type]
        assert one.fingerprint() != other.fingerprint()

    def test_a_folder_and_a_class_without_settings_are_refused(self, tmp_path) -> None:
        with pytest.raises(TypeError, match="Warp has a folder, which has no fingerprint"):
            Warp(tmp_path).fingerprint()

        class Bare(Trigger):
            def stamp(self, images, rng):
                return images

        with pytest.raises(TypeError, match="Bare has no settings: make it a frozen dataclass"):
            Bare().fingerprint()


@pytest.mark.parametrize("text", ["double", "placed", "blend", "blend:opacity=1"])
def test_whole_images_and_drawn_places_have_no_support(text: str) -> None:
    assert parse(text).support(32, 32) is None


def test_the_support_of_a_patch_is_its_square() -> None:
    support = parse("yellow-square").support(32, 32)
    assert {tuple(p) for p in np.argwhere(support).tolist()} == square(15, 17)


@pytest.mark.parametrize("name", ["patch", "pattern", "single-pixel", "glasses"])
@pytest.mark.parametrize(
    ("color", "message"),
    [("mauve", "color must be #rrggbb"), ("#12345", "color must be #rrggbb"),
     ("2:0:0", "must lie in 0..1")],
)  # fmt: skip
def test_a_wrong_color_is_refused_at_once(name: str, color: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(f"{name}:color={color}")


def test_colors_by_name_and_by_number() -> None:
    for color in ("#ffff00", "Yellow", "1:1:0"):
        stamped = parse(f"patch:size=1,row=0,column=0,color={color}").apply(np.zeros((1, 2, 2, 3)))
        assert stamped[0, 0, 0].tolist() == [1, 1, 0]
