"""Answers save and load whole, print as tables, and refuse what is not theirs."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_backdoor import reports
from keras_backdoor._internals import discovery
from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import (
    Answer,
    FlaggedClasses,
    FlaggedSamples,
    Heatmaps,
    Plot,
    RepairedModel,
    load_answer,
)
from keras_backdoor.answers.flagged_samples import Group, Thumbnails
from keras_backdoor.answers.heatmaps import strongest_part
from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Stamp


def model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, name="out")]
    )


ANSWERS: dict[str, Answer] = {
    "FlaggedSamples": FlaggedSamples(
        scores=np.array([0.1, np.nan, 0.9]),
        flagged=np.array([False, False, True]),
        groups={"class 3": Group(1.5, True, {"size": 2.0}), "class 4": Group(0.5, False)},
        group_of=np.array(["class 3", "class 4", "class 3"]),
        row_numbers=np.array([4, 7, 9]),
        thumbnails={
            "class 3": Thumbnails(
                np.zeros((1, 4, 4, 1), np.uint8), np.zeros((0, 4, 4, 1), np.uint8)
            )
        },
        summary={"separation": "large"},
        embedding=np.zeros((3, 2)),
        about={"settings": {"method": "M"}, "seconds": 1.0},
    ),
    "FlaggedClasses": FlaggedClasses(
        scores=np.array([0.1, np.nan, 3.0]),
        flagged=np.array([False, False, True]),
        triggers={2: Stamp(np.full((4, 4, 1), 0.5), np.ones((4, 4, 3)))},
        source={2: 0},
        runs=np.zeros((2, 3)),
    ),
    "RepairedModel": RepairedModel(
        model=model(),
        preprocess=(0.0, 255.0),
        reject_class=2,
        history={"a": np.arange(3)},
        plots=(Plot("Curve", "A curve.", {"a": "a"}, "epoch", kind="curves"),),
    ),
    "Heatmaps": Heatmaps(
        maps=np.random.default_rng(0).normal(size=(2, 4, 4)),
        labels=np.arange(2),
        pictures=np.zeros((2, 4, 4, 3), np.uint8),
        predicted=np.array([1, 0]),
    ),
}


def test_every_answer_is_tried() -> None:
    assert {discovery.load("answers", k).__name__ for k in discovery.keys("answers")} == set(
        ANSWERS
    )


@pytest.mark.parametrize("kind", sorted(ANSWERS))
class TestEveryAnswer:
    def test_saves_and_loads(self, kind: str, tmp_path: Path) -> None:
        answer = ANSWERS[kind]
        back = load_answer(answer.save(tmp_path / "a"))
        assert type(back) is type(answer)
        assert back.verdict == answer.verdict
        assert str(back) == str(answer)
        for name, values in answer.arrays().items():
            np.testing.assert_array_equal(back.arrays()[name], values)
        facts = json.loads((tmp_path / "a" / "answer.json").read_text())
        assert facts["schema"] == 2
        with pytest.raises(ValueError, match="exists already"):
            answer.save(tmp_path / "a")

    def test_has_a_page(self, kind: str, tmp_path: Path) -> None:
        page = reports.page_of(ANSWERS[kind], title="<b>Title</b> & more")
        html = reports.write(page, tmp_path / "p").read_text()
        assert "&lt;b&gt;Title" in html
        assert "<b>Title" not in html
        pictures = list((tmp_path / "p").glob("figure-*.png"))
        assert len(pictures) == html.count("data:image/png;base64,")
        markdown = (tmp_path / "p" / "report.md").read_text()
        assert all(p.name in markdown for p in pictures)
        assert ANSWERS[kind].verdict in markdown

    def test_damage_is_one_sentence(self, kind: str, tmp_path: Path) -> None:
        folder = ANSWERS[kind].save(tmp_path / "a")
        facts = json.loads((folder / "answer.json").read_text())
        (folder / "arrays.npz").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="is damaged"):
            load_answer(folder)
        (folder / "answer.json").write_text(json.dumps({**facts, "kind": "Evil"}))
        with pytest.raises(ValueError, match="unknown kind or schema"):
            load_answer(folder)
        (folder / "answer.json").write_text("{")
        with pytest.raises(ValueError, match="is damaged"):
            load_answer(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no answer at"):
        load_answer(tmp_path / "none")
    with pytest.raises(ValueError, match="has no answer.json"):
        load_answer(tmp_path)


def test_verdicts() -> None:
    calm = FlaggedSamples(scores=np.zeros(2), flagged=np.zeros(2, bool))
    assert (calm.verdict, ANSWERS["FlaggedSamples"].verdict) == ("nothing", "found")
    blind = FlaggedClasses(scores=np.full(2, np.nan), flagged=np.zeros(2, bool))
    assert blind.verdict == "inconclusive"
    torn = FlaggedClasses(
        scores=np.zeros(2), flagged=np.zeros(2, bool), inconclusive="the runs disagree"
    )
    assert torn.verdict == "inconclusive"


def test_a_loaded_repair_answers_alike(tmp_path: Path) -> None:
    answer = ANSWERS["RepairedModel"]
    assert isinstance(answer, RepairedModel)
    back = load_answer(answer.save(tmp_path / "a"))
    assert isinstance(back, RepairedModel)
    given = np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(back.model(given), answer.model(given), atol=1e-6)
    assert (back.preprocess.range, back.reject_class) == ((0.0, 255.0), 2)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="flagged bool"):
        FlaggedSamples(scores=np.zeros(2), flagged=np.zeros(2))


def test_what_a_report_draws_is_checked_at_once(task) -> None:
    flagged = np.zeros(4, bool)
    with pytest.raises(BadInput, match="embedding must have shape"):
        FlaggedSamples(scores=np.zeros(4), flagged=flagged, embedding=np.zeros((4, 1)))
    plot = Plot(title="Curves", caption="", series={"accuracy": "accuracy"}, x_label="epoch")
    with pytest.raises(BadInput, match="The plot 'Curves' needs {'accuracy'} in the history"):
        RepairedModel(model=task.twin.model, preprocess=(0, 1), plots=(plot,))
    with pytest.raises(BadInput, match="maps must be finite"):
        Heatmaps(maps=np.full((1, 4, 4), np.nan), labels=np.zeros(1, int))
    maps = Heatmaps(maps=np.ones((2, 4, 4)), labels=np.zeros(2, int))
    with pytest.raises(TypeError, match="were given for images of the shape"):
        maps.completed(task.twin, task.clean.take(2))


def test_expected_false_alarms_are_not_found() -> None:
    """Two of 100 are no more than 1 % of clean samples; ten are."""
    for number, verdict in ((0, "nothing"), (2, "nothing"), (10, "found")):
        flagged = np.arange(100) < number
        answer = FlaggedSamples(scores=flagged.astype(float), flagged=flagged, false_alarms=0.01)
        assert answer.verdict == verdict
        assert "; 1.00% of clean samples are" in str(answer)


def test_an_audit_prints_its_rows_and_groups() -> None:
    answer = ANSWERS["FlaggedSamples"]
    assert isinstance(answer, FlaggedSamples)
    assert answer.flagged_rows.tolist() == [9]
    rows = dict(answer.rows())
    assert rows["flagged"] == "1 of 3 samples (33.33%)"
    assert (rows["suspicious groups"], rows["separation"]) == ("class 3", "large")
    unsure = FlaggedSamples(
        scores=np.ones(2), flagged=np.array([True, False]), inconclusive="too few images"
    )
    assert unsure.verdict == "inconclusive"
    assert dict(unsure.rows())["inconclusive"] == "too few images"
    html = reports.page_of(answer).html()
    for words in ("Groups", "Embedding", "Samples of class 3"):
        assert words in html


def test_thumbnails_are_those_of_the_suspicious_groups(task) -> None:
    from keras_backdoor.samples import Samples

    pixels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1).repeat(16, 1).reshape(40, 4, 4, 1)
    samples = Samples(pixels, np.zeros(40, int)).subset(np.arange(5, 40))
    scores = np.arange(35.0)
    answer = FlaggedSamples(
        scores=scores,
        flagged=scores > 30,
        groups={"a": Group(1.0, True), "b": Group(0.0, False)},
        group_of=np.where(scores % 2 == 0, "a", "b"),
    ).completed(task.model, samples)
    assert list(answer.thumbnails) == ["a"]
    shown = answer.thumbnails["a"]
    assert shown.flagged[:, 0, 0, 0].tolist() == [39, 37]  # the most suspicious first
    assert shown.kept[0, 0, 0, 0] == 5
    assert shown.kept[:, 0, 0, 0].max() > 25
    assert answer.row_numbers.tolist() == list(range(5, 40))
    with pytest.raises(TypeError, match="35 scores were given for 3 samples"):
        answer.completed(task.model, samples.subset(np.arange(3)))


def test_a_heatmap_prints_its_verdict_and_its_strongest_part() -> None:
    importance = np.zeros((2, 6, 6))
    importance[0, 1:3, 4:6], importance[0, 5, 0], importance[1] = 1.0, 1.2, -1.0
    answer = Heatmaps(maps=importance, labels=np.array([3, 4]), predicted=np.array([3, 0]))
    rows = dict(answer.rows())
    assert rows["verdict"] == "explained"
    assert rows["picture 0"] == (
        "class 3, the model predicts 3; strongest part: rows 1 to 2, columns 4 to 5"
    )
    assert rows["picture 1"].endswith("strongest part: none")
    assert answer.facts()["strongest"][0] == {"top": 1, "bottom": 2, "left": 4, "right": 5}
    assert not strongest_part(np.full((3, 3), np.nan)).any()


def test_maps_need_a_label_each() -> None:
    with pytest.raises(ValueError, match="one label for each. Received: .2, 4, 4., 3 labels"):
        Heatmaps(maps=np.zeros((2, 4, 4)), labels=np.arange(3))
    with pytest.raises(ValueError, match="group_of must have one value for each sample"):
        FlaggedSamples(scores=np.zeros(2), flagged=np.zeros(2, bool), group_of=np.array(["a"]))
