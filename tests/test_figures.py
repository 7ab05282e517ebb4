"""What the pictures draw, number by number: infinite and unknown values among them."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_backdoor.answers import FlaggedClasses, Plot, RepairedModel
from keras_backdoor.reports import figures, sections
from keras_backdoor.reports.sentences import headline
from keras_backdoor.triggers.base import Stamp


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of every picture that is drawn."""
    drawn: list[Any] = []
    draw = figures.draw

    def recording(paint: Any, **rest: Any) -> bytes:
        grid = Figure().subplots(*rest.get("grid", (1, 1)), squeeze=False)
        paint(grid)
        drawn.append(grid[0, 0])
        return draw(paint, **rest)

    monkeypatch.setattr(figures, "draw", recording)
    return drawn


def heights(ax: Any) -> list[float]:
    return [bar.get_height() for bar in ax.patches]


def labels(ax: Any) -> list[str]:
    return ax.get_legend_handles_labels()[1]


NORMS = np.array([9.0, np.inf, 2.0, np.nan, 5.0])
FLAGGED = np.array([False, False, True, False, False])


def test_norms_that_are_not_numbers_are_left_out(axes) -> None:
    runs = np.stack([NORMS, [11.0, 3.0, np.inf, np.nan, 4.0]])
    picture = figures.norm_bars(
        NORMS, FLAGGED, spread=runs, median=7.0, limits={"scaled": 3.0, "paper": None}
    )
    assert picture.startswith(b"\x89PNG")
    assert heights(axes[0]) == [2.0, 5.0, 9.0]
    assert labels(axes[0]) == ["median", "limit, scaled rule"]
    lines = {line.get_label(): line.get_ydata()[0] for line in axes[0].get_lines()}
    assert lines == {"median": 7.0, "limit, scaled rule": 3.0}
    spans = [sorted(path[:, 1]) for path in axes[0].collections[0].get_segments()]
    assert spans == [[2.0, 2.0], [4.0, 5.0], [9.0, 11.0]]


def test_a_median_that_is_infinite_is_not_drawn(axes) -> None:
    figures.norm_bars(NORMS, FLAGGED, median=np.inf)
    assert labels(axes[0]) == []
    figures.norm_bars(NORMS, FLAGGED)
    assert axes[1].get_lines()[0].get_ydata()[0] == 5.0


def test_scores_that_are_not_numbers_have_no_bar(axes) -> None:
    flagged = np.array([False] * 3 + [True])
    figures.class_bars(np.array([1.0, np.nan, -np.inf, 2.0]), flagged, ~flagged)
    assert heights(axes[0]) == [1.0, 0.0, 0.0, 2.0]


def test_pairs_that_were_not_searched_are_empty(axes) -> None:
    norms = np.array([[np.nan, 2.0], [np.inf, np.nan]])
    assert figures.pair_map(norms).startswith(b"\x89PNG")
    shown = axes[0].images[0].get_array()
    assert shown.mask.tolist() == [[True, False], [True, True]]
    assert figures.pair_map(np.full((2, 2), np.nan)).startswith(b"\x89PNG")


def test_a_number_of_classes_keeps_its_place(axes) -> None:
    figures.number_curves({"one": [(43, 70.0), (10, 20.0)]}, xlabel="classes", ylabel="seconds")
    line = axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [10, 43]
    assert line.get_ydata().tolist() == [20, 70]


def repaired(plots: tuple[Plot, ...] = (), **history: Any) -> RepairedModel:
    arrays = {name: np.array(values) for name, values in history.items()}
    return RepairedModel(model=None, preprocess=(0.0, 1.0), history=arrays, plots=plots)


def test_plots_are_drawn_as_they_say(axes) -> None:
    bars = Plot(
        "Neurons", "The gap.", {"gap": "gap"}, "neuron", "gap in mean activation",
        kind="bars", order="order", marked=1, marked_label="silenced",
    )  # fmt: skip
    shares = Plot("Pruning", "Both.", {"accuracy": "right", "success": "works"}, "silenced")
    values = Plot("Loss", "The loss.", {"loss": "loss"}, "epoch", "nats", kind="curves")
    answer = repaired(
        (bars, shares, values), order=[1, 0], gap=[0.5, 3.0],
        right=[1.0, 0.9, 0.2], works=[1.0, 0.1, 0.0], loss=[7.5, 0.5],
    )  # fmt: skip
    shown = sections.sections(answer)
    assert [s.heading for s in shown] == ["Neurons", "Pruning", "Loss"]
    assert shown[0].figures[0].caption == "The gap."
    first, second, third = axes
    assert heights(first)[:2] == [3.0, 0.5]
    assert (first.get_xlabel(), first.get_ylabel()) == ("neuron", "gap in mean activation")
    assert set(labels(first)) == {"gap", "silenced"}
    assert second.get_lines()[1].get_ydata().tolist() == [100, 10, 0]
    assert (second.get_ylabel(), second.get_ylim()) == ("%", (-2, 102))
    assert third.get_lines()[0].get_ydata().tolist() == [7.5, 0.5]
    assert third.get_ylabel() == "nats"


def test_a_repair_without_plots_has_no_pictures() -> None:
    assert sections.sections(repaired(neurons=[1], threshold=0.5)) == []


def test_every_map_has_a_scale_of_its_own(axes) -> None:
    maps = np.zeros((2, 4, 4))
    maps[0, 0, 0], maps[1, 1, 1], maps[1, 2, 2] = 5.0, 0.01, -0.02
    parts = maps > 0
    figures.heatmaps(maps, ["one", "two"], np.zeros((2, 4, 4, 1)), parts)
    shown = [ax.images[-1] for ax in axes[0].figure.axes if len(ax.images) > 1]
    assert [image.get_clim() for image in shown] == [(0, 5.0), (-0.02, 0.02)]
    assert [image.get_cmap().name for image in shown] == ["Reds", "RdBu_r"]


def test_flagged_points_are_red(axes) -> None:
    points = np.arange(8.0).reshape(4, 2)
    figures.scatter_panels({"class 3": (points, np.array([True, False, False, False]))})
    kept, flagged = axes[0].collections
    assert len(kept.get_offsets()) == 3
    assert flagged.get_offsets().tolist() == [[0.0, 1.0]]


def test_the_most_suspicious_triggers_come_first(axes) -> None:
    from keras_backdoor.triggers.base import Stamp

    stamp = Stamp(np.ones((2, 2, 1)), np.ones((2, 2, 1)))
    answer = FlaggedClasses(
        scores=np.array([-np.inf, np.nan, 4.0, -1.0]),
        flagged=np.array([False, False, True, False]),
        triggers=dict.fromkeys(range(4), stamp),
    )
    found = sections.sections(answer)
    assert found[-1].heading == "Triggers"
    titles = [text for text in (ax.get_title() for ax in axes[-1].figure.axes) if text]
    assert [t.partition(",")[0] for t in titles] == ["class 2", "class 3", "class 0", "class 1"]
    assert [t.partition("\n")[2] for t in titles] == ["flagged", "", "", ""]


def test_all_suspects_are_shown(axes) -> None:
    from keras_backdoor.triggers.base import Stamp

    stamp = Stamp(np.ones((2, 2, 1)), np.ones((2, 2, 1)))
    scores = np.arange(30.0)
    answer = FlaggedClasses(
        scores=scores,
        flagged=scores == 29,
        further=(scores < 29) & (scores > 17),
        triggers=dict.fromkeys(range(30), stamp),
    )
    sections.sections(answer)
    titles = [text for text in (ax.get_title() for ax in axes[-1].figure.axes) if text]
    assert [t.partition("\n")[2] for t in titles] == ["flagged", *["suspect"] * 11]


@pytest.mark.parametrize(
    ("opacity", "what"),
    [
        (1.0, "a mark of 4 pixels"),
        (0.9, "a mark of 4 pixels"),
        (0.1, "a faint change of the whole image"),
    ],
)
def test_a_faint_trigger_is_called_so(opacity: float, what: str) -> None:
    mask = np.full((8, 8, 1), 0.1 if opacity < 0.5 else 1e-4, np.float32)
    mask[:2, :2] = opacity
    found = FlaggedClasses(
        scores=np.array([0.0, 3.0]),
        flagged=np.array([False, True]),
        triggers={1: Stamp(mask, np.ones((8, 8, 1)))},
        figures={"smallest_trigger": {"class": 1, "l1_norm": float(mask.sum()), "success": 0.97}},
    )
    assert headline(found) == (
        "bad",
        f"Do not deploy: {what} turns 97% of the images into class 1.",
    )


def test_no_legend_looks_for_free_space_among_many_bars(monkeypatch) -> None:
    """With as many classes as there are faces, Matplotlib takes seconds for it, and warns."""

    def searched(*arguments: Any) -> None:
        raise AssertionError("the place of the legend was searched")

    monkeypatch.setattr("matplotlib.legend.Legend._find_best_position", searched)
    values, none = np.linspace(1, 2, 200), np.zeros(200, bool)
    plot = Plot("Images", "", {"images": "images"}, kind="bars", x_label="class")
    drawn = [
        figures.value_bars(np.arange(200), {"images": values, "others": values}, plot),
        figures.norm_bars(values, none),
        figures.class_bars(values, none, none),
        figures.scatter_panels({"a": (np.stack([values, values], axis=1), none)}),
    ]
    assert all(png.startswith(b"\x89PNG") for png in drawn)
