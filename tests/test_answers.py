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
    RepairedModel,
    load_answer,
)
from keras_backdoor.triggers.base import Stamp


def model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, name="out")]
    )


ANSWERS: dict[str, Answer] = {
    "FlaggedSamples": FlaggedSamples(
        scores=np.array([0.1, np.nan, 0.9]),
        flagged=np.array([False, False, True]),
        groups={"class 3": (1.5, True), "class 4": (0.5, False)},
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
        model=model(), input_range=(0.0, 255.0), reject_class=2, history={"a": np.arange(3)}
    ),
    "Heatmaps": Heatmaps(maps=np.random.default_rng(0).normal(size=(2, 4, 4)), labels=np.arange(2)),
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
        assert facts["schema"] == 1
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
        scores=np.zeros(2), flagged=np.zeros(2, bool), about={"inconclusive": "runs disagree"}
    )
    assert torn.verdict == "inconclusive"


def test_a_loaded_repair_answers_alike(tmp_path: Path) -> None:
    answer = ANSWERS["RepairedModel"]
    assert isinstance(answer, RepairedModel)
    back = load_answer(answer.save(tmp_path / "a"))
    assert isinstance(back, RepairedModel)
    given = np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(back.model(given), answer.model(given), atol=1e-6)
    assert (back.input_range, back.reject_class) == ((0.0, 255.0), 2)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="flagged bool"):
        FlaggedSamples(scores=np.zeros(2), flagged=np.zeros(2))
