"""The command `check`: its steps, its decision, and what it leaves on disk."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import TARGET

from keras_backdoor.answers import FlaggedClasses, load_answer
from keras_backdoor.commands import app
from keras_backdoor.commands.check import steps
from keras_backdoor.commands.check.decision import DEPLOY, OPEN, REFUSE, REPAIRED, decide
from keras_backdoor.commands.check.steps import Checked, Given
from keras_backdoor.defenses import trigger_augmentation
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.staged_scan import StagedScan
from keras_backdoor.loading import load_model
from keras_backdoor.loading.inspection import inspect_model


@pytest.fixture(scope="module")
def files(task, tmp_path_factory) -> dict[str, Path]:
    """Files of the planted network, of its clean twin, and of images."""
    folder = tmp_path_factory.mktemp("check")
    task.model.model.save(folder / "planted.keras")
    task.twin.model.save(folder / "twin.keras")
    for name, split in (("clean", "train"), ("test", "test")):
        samples = getattr(task, name)
        columns = {f"x_{split}": samples.read(), f"y_{split}": samples.known_labels}
        np.savez(folder / f"{name}.npz", **columns)
    return {p.stem: p for p in folder.iterdir()}


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Make searches shorter."""
    quick = NeuralCleanse(**NeuralCleanse.quick)
    patch.setattr(steps, "StagedScan", lambda **given: StagedScan(**{"search": quick, **given}))


@pytest.fixture(autouse=True)
def _short(monkeypatch) -> None:
    shorten(monkeypatch)


def checked_by(command, files, model: str, out: Path, *more) -> tuple[int, dict, str]:
    given = ("check", files[model], "--clean", files["clean"], "--input-range", "0:1")
    given += ("--out", out)
    code, _, err = command(*given, *more)
    path = out / "check.json"
    return code, json.loads(path.read_text()) if path.exists() else {}, err


@pytest.fixture(scope="module")
def done(files, tmp_path_factory):
    """A whole check, which several tests look at."""
    out = tmp_path_factory.mktemp("planted") / "check"
    with pytest.MonkeyPatch.context() as patch:

        def run(*arguments: object) -> tuple[int, str, str]:
            patch.setattr(sys, "argv", ["keras-backdoor", *map(str, arguments)])
            with pytest.raises(SystemExit) as stop:
                app.main()
            return int(stop.value.code or 0), "", ""

        shorten(patch)
        result = checked_by(run, files, "planted", out, "--test", files["test"])
    return (*result, out)


class TestPlanted:
    def test_it_is_found_repaired_and_exported(self, done) -> None:
        code, content, err, _ = done
        assert code == 1, err
        assert (content["verdict"], content["action"]) == ("found", REPAIRED)
        rates = content["triggers"][str(TARGET)]
        assert rates["before"] > 0.8
        assert rates["after"] <= 0.01
        lost = content["accuracy"]["before"]["share"] - content["accuracy"]["after"]["share"]
        assert lost <= 0.01
        assert any("works on" in reason for reason in content["reasons"])

    def test_the_exported_model_no_longer_has_the_backdoor(self, done, task) -> None:
        _, content, _, out = done
        assert content["exported"] == str(out / "serving")
        assert (out / "serving" / "1" / "saved_model.pb").exists()
        repaired = load_model(out / "repaired" / "model.keras")
        assert repaired.sha256()
        measured = task.measure(load_answer(out / "repaired").classifier)
        before = task.measure(task.model)
        assert float(before.attack_success_rate) > 0.99
        assert float(measured.attack_success_rate) <= 0.1

    def test_every_step_is_a_command(self, done) -> None:
        _, content, _, out = done
        names = [step["name"] for step in content["steps"]]
        assert names == ["scan", "repair", "scan of the repaired model", "export"]
        lines = [step["command"] for step in content["steps"]]
        assert lines[0].startswith("keras-backdoor scan ")
        assert f"--found {out / 'scan'}" in lines[1]
        assert isinstance(load_answer(out / "scan"), FlaggedClasses)

    def test_the_page_has_the_decision_first(self, done) -> None:
        text = (done[3] / "page" / "index.html").read_text()
        assert text.index("Deploy the repaired model.") < text.index("What was measured")
        assert "keras-backdoor repair" in text
        assert "Triggered examples (scan)" in text

    def test_it_goes_on_from_its_folder(self, done, command, files, monkeypatch) -> None:
        def never(*_, **__):
            raise AssertionError("computed again")

        monkeypatch.setattr(StagedScan, "run", never)
        monkeypatch.setattr(steps.Auto, "run", never)
        test = ("--test", files["test"])
        code, content, err = checked_by(command, files, "planted", done[3], *test)
        assert (code, content["action"]) == (1, REPAIRED), err


class TestOtherModels:
    def test_a_repair_that_is_too_short_is_not_deployed(
        self, command, files, tmp_path, monkeypatch
    ) -> None:
        """The recovered trigger no longer works, but the planted one does, which the scan sees."""
        monkeypatch.setattr(trigger_augmentation, "STEPS", 100)
        code, content, err = checked_by(command, files, "planted", tmp_path / "c")
        assert (code, content["action"]) == (1, REFUSE), err
        assert content["exported"] is None
        assert f"flags class {TARGET}" in content["reasons"][-1]

    def test_nothing_found_exports_the_model_as_it_is(self, command, files, tmp_path) -> None:
        sarif = ("--sarif", tmp_path / "c.sarif")
        code, content, err = checked_by(command, files, "twin", tmp_path / "c", *sarif)
        assert code == 0, err
        assert (content["verdict"], content["action"]) == ("nothing", DEPLOY)
        assert "audit the training data" in content["reasons"][-1]
        assert (tmp_path / "c" / "serving" / "1").is_dir()
        (log,) = json.loads((tmp_path / "c.sarif").read_text())["runs"]
        assert [result["kind"] for result in log["results"]] == ["pass", "pass"]

    def test_a_quick_check_repairs_and_exports_nothing(self, command, files, tmp_path) -> None:
        code, content, err = checked_by(command, files, "planted", tmp_path / "c", "--quick")
        assert (code, content["action"]) == (1, REFUSE), err
        assert content["exported"] is None
        assert "--set search=none" in content["steps"][0]["command"]
        code, content, err = checked_by(command, files, "twin", tmp_path / "d", "--quick")
        assert (code, content["action"]) == (3, OPEN), err

    def test_a_hostile_file_is_refused(self, command, files, tmp_path) -> None:
        broken = tmp_path / "broken.h5"
        broken.write_bytes(b"not a model")
        code, content, err = checked_by(
            command, {**files, "broken": broken}, "broken", tmp_path / "c"
        )
        assert (code, content) == (2, {})
        assert "unreadable" in err
        assert not (tmp_path / "c").exists()

    def test_a_folder_of_something_else_is_kept(self, command, files, tmp_path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "mine.txt").write_text("mine")
        code, _, err = checked_by(command, files, "twin", tmp_path / "c")
        assert (code, "exists" in err) == (2, True)
        assert (tmp_path / "c" / "mine.txt").read_text() == "mine"


class TestDecision:
    @pytest.fixture
    def given(self, task, files, tmp_path) -> Given:
        return Given(
            str(files["planted"]), task.model, task.clean, task.test, None, {}, (), tmp_path
        )

    @pytest.fixture
    def repaired(self, task, given, files) -> Checked:
        """A check after a repair that worked."""
        from keras_backdoor.answers import RepairedModel
        from keras_backdoor.evaluation import evaluate

        checked = Checked(given, inspect_model(files["planted"]))
        checked.scan = task.scan
        checked.repair = RepairedModel(model=task.twin.model, preprocess=(0.0, 1.0))
        checked.again = replace(task.scan, flagged=np.zeros(10, bool), further=None)
        checked.before = checked.after = evaluate(task.model, task.test)
        checked.attacks = {TARGET: (0.99, 0.0)}
        return checked

    def test_a_repair_that_works_is_deployed(self, repaired) -> None:
        decision = decide(repaired)
        assert (decision.verdict, decision.action) == ("found", REPAIRED)
        assert "works on 0.0% of the images, 99.0% before" in " ".join(decision.reasons)

    def test_a_trigger_that_still_works_is_a_reason_against(self, repaired) -> None:
        repaired.attacks = {TARGET: (0.99, 0.02)}
        decision = decide(repaired)
        assert decision.action == REFUSE
        assert f"still work on the repaired model: class {TARGET} on 2.0%" in decision.reasons[-1]

    def test_lost_accuracy_is_a_reason_against(self, repaired, task) -> None:
        from keras_backdoor.metrics import Rate

        of = repaired.before.clean_accuracy
        repaired.after = replace(repaired.before, clean_accuracy=Rate(of.hits - 10, of.of))
        decision = decide(repaired)
        assert decision.action == REFUSE
        assert "points of clean accuracy" in decision.reasons[-1]

    def test_a_scan_that_still_flags_is_a_reason_against(self, repaired, task) -> None:
        repaired.again = task.scan
        assert decide(repaired).action == REFUSE
        assert f"flags class {TARGET}" in decide(repaired).reasons[-1]

    def test_no_decision_without_one_of_the_scan(self, repaired, task) -> None:
        repaired.scan = replace(
            task.scan, flagged=np.zeros(10, bool), further=None, inconclusive="too few images"
        )
        repaired.repair = repaired.again = None
        decision = decide(repaired)
        assert (decision.verdict, decision.action) == ("inconclusive", OPEN)
        assert "too few images" in decision.reasons[0]
