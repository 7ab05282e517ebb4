"""The staged scan: which looks are made, and what verdict they add up to."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import TARGET

from keras_backdoor import progress
from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses import NeuralCleanse, StagedScan, weight_signature
from keras_backdoor.defenses._repeated_search import RepeatedSearch
from keras_backdoor.defenses.neural_cleanse.scan import too_little
from keras_backdoor.defenses.neural_cleanse.verdict import Run
from keras_backdoor.defenses.staged_scan import (
    SEARCH,
    TRIGGERS,
    WEIGHTS,
    Look,
    _settles,
)
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.reports import page_of
from keras_backdoor.triggers.base import Stamp

QUICK = StagedScan(**StagedScan.quick)
STAMP = Stamp(np.ones((2, 2, 1)), np.ones((2, 2, 1)))


def answer(*scores: float, **fields: Any) -> FlaggedClasses:
    """An answer that flags what is above 1."""
    values = np.array(scores)
    return FlaggedClasses(**{"scores": values, "flagged": np.nan_to_num(values) > 1, **fields})


@pytest.fixture(scope="module")
def planted(task):
    told: list[str] = []
    with progress.listening(lambda items, *_: items, told.append):
        found = QUICK(task.model, clean=task.clean.unlabelled())
    return found, told


@pytest.fixture(scope="module")
def twin(task):
    return QUICK(task.twin, clean=task.clean)


class TestLooks:
    def test_a_found_trigger_spares_the_search(self, planted) -> None:
        found, told = planted
        assert np.flatnonzero(found.flagged).tolist() == [TARGET]
        assert list(found.figures["looks"]) == [WEIGHTS, TRIGGERS]
        assert TARGET in found.triggers
        assert [line.split(":")[0] for line in told] == [WEIGHTS, TRIGGERS]
        assert f"class {TARGET} flagged" in told[1]

    def test_few_classes_make_the_weights_a_suspicion(self, planted) -> None:
        looks = planted[0].figures["looks"]
        assert looks[WEIGHTS]["flagged"] == []
        assert looks[WEIGHTS]["suspects"] == [TARGET]

    def test_a_clean_network_gets_all_looks_and_one_run(self, twin) -> None:
        assert twin.verdict == "nothing"
        assert list(twin.figures["looks"]) == [WEIGHTS, TRIGGERS, SEARCH]

    def test_without_images_nothing_found_is_no_decision(self, task) -> None:
        weights = QUICK(task.twin)
        assert weights.verdict == "inconclusive"
        assert "pass --clean DATA" in weights.inconclusive
        assert list(weights.figures["looks"]) == [WEIGHTS]

    def test_the_weights_can_be_left_out(self, task) -> None:
        scan = StagedScan(weights=None, search=None)
        assert TRIGGERS in scan(task.model, clean=task.clean).figures["looks"]
        assert WEIGHTS not in scan(task.model, clean=task.clean).figures["looks"]
        with pytest.raises(ValueError, match="without weights needs clean images"):
            scan(task.model)

    def test_a_trigger_of_a_class_that_another_look_accuses_is_left_out(
        self, task, monkeypatch
    ) -> None:
        accused = answer(*(2.0 if c == 3 else 0.1 for c in range(10)))
        own = np.arange(10) == 5
        search = answer(*(0.2,) * 10, triggers={3: STAMP, 4: STAMP}, further=own)
        none = np.zeros(10, bool)
        weights = Look(WEIGHTS, replace(accused, flagged=none, further=accused.flagged))
        monkeypatch.setattr(StagedScan, "_looks", lambda *_: iter([weights, Look(SEARCH, search)]))
        found = QUICK(task.twin, clean=task.clean)
        assert list(found.triggers) == [4]
        assert np.flatnonzero(found.suspects).tolist() == [3, 5]
        assert found.verdict == "inconclusive"
        assert "class 3, 5 is suspicious" in found.inconclusive

    def test_simple_triggers_that_cannot_be_confirmed_are_no_decision(
        self, task, monkeypatch
    ) -> None:
        unsure = answer(*(0.2,) * 10, inconclusive="60 clean images are too few")
        looks = [Look(TRIGGERS, unsure), Look(SEARCH, answer(*(0.2,) * 10))]
        monkeypatch.setattr(StagedScan, "_looks", lambda *_: iter(looks))
        found = QUICK(task.twin, clean=task.clean)
        assert (found.verdict, found.inconclusive) == ("inconclusive", unsure.inconclusive)

    def test_too_few_images_are_no_decision(self, task) -> None:
        few = QUICK(task.twin, clean=task.clean.take(12))
        assert few.verdict == "inconclusive"
        assert "12 clean images" in few.inconclusive

    def test_two_classes_and_an_error_are_too_few(self, task) -> None:
        """One image that the network takes for one of a third class is no third class."""
        labels = task.clean.known_labels
        chosen = [*np.flatnonzero(labels == 0)[:60], *np.flatnonzero(labels == 1)[:60]]
        two = task.clean.subset(np.array([*chosen, np.flatnonzero(labels == 7)[0]]))
        for clean in (two, two.unlabelled()):
            reason = too_little(task.twin, clean, len(clean))
            assert "of 121 clean images are of other classes than the 2 most frequent" in reason
        assert "(as the model sees them)" in reason
        assert not too_little(task.twin, task.clean.subset(np.arange(60)), 60)

    def test_without_data_the_pixels_may_be_unknown(self, task) -> None:
        found = StagedScan()(Classifier(task.model.model))
        assert found.verdict == "inconclusive"
        assert "only the weights were looked at" in found.inconclusive

    def test_a_model_without_a_linear_end_is_looked_at_otherwise(self, task, monkeypatch) -> None:
        def no_linear_end(model):
            raise BadInput("The scores must come from a dense layer or a convolution.")

        monkeypatch.setattr(weight_signature, "class_weights", no_linear_end)
        found = QUICK(task.model, clean=task.clean)
        assert found.figures["looks"][WEIGHTS]["verdict"] == "inconclusive"
        assert "no decision: the scores must come" in found.summary[WEIGHTS]
        assert found.verdict == "found"

    def test_the_page_shows_all_looks(self, planted, twin) -> None:
        headings = [s.heading for s in page_of(planted[0]).sections]
        assert {"Suspicion of the classes", "Weights of the last layer", "Triggers"} <= set(
            headings
        )
        rows = dict(twin.rows())
        assert rows[SEARCH].startswith("nothing; largest score")


def norms_with(score: float) -> Run:
    """A run of 43 searches of which one, class 3, has a score."""
    norms = 60 + 5 * np.sin(np.arange(43.0))
    limit = next(iter(RepeatedSearch().limits().values()))(norms, 43)
    norms[3] = limit / score
    return Run.of_norms(norms)


class TestRepeatedSearch:
    @pytest.mark.parametrize(
        ("scores", "runs", "outlier"),
        [
            ((0.5,), 1, False),
            ((3.0,), 1, True),
            ((1.2, 1.3), 2, True),
            ((0.8, 0.7), 2, False),
            ((1.2, 0.9, 1.1), 3, True),
            ((1.2, 0.9, 0.8), 3, False),
        ],
    )
    def test_uncertain_classes_are_searched_until_two_runs_agree(
        self, scores, runs, outlier, monkeypatch
    ) -> None:
        coming = iter(scores)
        monkeypatch.setattr(RepeatedSearch, "one_run", lambda *_, **__: norms_with(next(coming)))
        search = RepeatedSearch()
        made = search.make_runs(None)  # type: ignore[arg-type]
        assert len(made) == runs
        answer = search.judge(made, 43)
        assert answer.flagged[3] == outlier
        assert answer.flagged.sum() == outlier

    def test_only_the_uncertain_classes_are_searched_again(self, task, monkeypatch) -> None:
        settings = {**NeuralCleanse.quick, "runs": 2}
        search = RepeatedSearch(**settings)
        uncertain = np.array([TARGET, 5])
        scores = np.where(np.isin(np.arange(10), uncertain), 0.9, 0.1)
        monkeypatch.setattr(RepeatedSearch, "_scores", lambda self, run: scores)
        first, second = search(task.model, clean=task.clean).measures["norms"]
        assert np.flatnonzero(first != second).tolist() == uncertain.tolist()

    def test_the_summary_says_how_many_runs_were_made(self, twin) -> None:
        assert twin.figures["looks"][SEARCH]["summary"]["runs"] == "1"


class TestVerdict:
    def test_it_is_settled_by_a_flagged_class_with_a_trigger(self) -> None:
        with_trigger = answer(0.1, 2.0, triggers={1: STAMP})
        assert _settles(Look(TRIGGERS, with_trigger))
        assert not _settles(Look(WEIGHTS, answer(0.1, 2.0)))
        assert not _settles(Look(TRIGGERS, answer(0.1, 0.9, triggers={1: STAMP})))
        assert not _settles(Look(WEIGHTS, None, reason="not looked at"))

    def test_an_undecided_look_flags_nothing(self) -> None:
        look = Look(TRIGGERS, answer(0.1, 2.0, inconclusive="too few images"))
        assert not look.flagged.any()
        assert look.suspects.tolist() == [False, True]
        assert str(look).startswith("class 1 suspicious")

    def test_a_suspicion_alone_is_no_decision_and_scores_at_most_1(self, task) -> None:
        found = QUICK(task.model)
        assert found.suspects.tolist() == [c == TARGET for c in range(10)]
        assert found.scores[TARGET] == 1
        assert found.verdict == "inconclusive"
