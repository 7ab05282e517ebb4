"""The channels that a trigger uses are found where they were planted, and drawn."""

import numpy as np
import pytest
from planted import CHANNELS, TRIGGER

from keras_backdoor import channel_activity, evaluate, reports
from keras_backdoor.network.activations import mean_activation
from keras_backdoor.network.channel_activity import layers_with_channels, marked_channels


def test_the_planted_channel_is_marked_and_no_other(task) -> None:
    activity = channel_activity(task.model, task.test, TRIGGER)
    assert activity.layer == "conv"
    assert np.flatnonzero(activity.marked).tolist() == [CHANNELS]
    expected = mean_activation(task.model, task.test, "conv")
    np.testing.assert_allclose(activity.clean, expected, atol=1e-6)
    assert activity.triggered.shape == (CHANNELS + 1,)


def test_nothing_is_marked_where_nothing_changes() -> None:
    assert not marked_channels(np.arange(5.0), np.arange(5.0)).any()
    assert not marked_channels(np.arange(5.0), np.arange(5.0) - 1).any()


def test_an_evaluation_shows_them_on_its_page(task) -> None:
    assert layers_with_channels(task.model) == ("last",)
    measured = evaluate(task.model, task.test, trigger=TRIGGER, target=2, layers=("last",))
    assert [a.layer for a in measured.activity] == ["conv"]
    page = reports.page_of(measured)
    (section,) = [s for s in page.sections if s.heading == "Channels with and without the trigger"]
    assert "Outlined: 1 channels" in section.figures[0].caption
    assert section.figures[0].png.startswith(b"\x89PNG")
    assert evaluate(task.model, task.test).activity == ()


def test_layers_are_checked(task) -> None:
    with pytest.raises(ValueError, match="'pool' is a MaxPooling2D"):
        channel_activity(task.model, task.test, TRIGGER, "pool")
    with pytest.raises(ValueError, match="a single layer to prune, 'conv'"):
        channel_activity(task.model, task.test, TRIGGER, "second-last")
