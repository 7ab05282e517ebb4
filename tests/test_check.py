"""The command `check`: its steps, its decision, and what it leaves on disk."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import TARGET, TRIGGER

from keras_backdoor.answers import FlaggedClasses, FlaggedSamples, RepairedModel, load_answer
from keras_backdoor.commands import app
from keras_backdoor.commands.check import quick, steps
from keras_backdoor.commands.check.command import _for_sarif, _refuse_shared
from keras_backdoor.commands.check.decision import DEPLOY, OPEN, REFUSE, REPAIRED, decide
from keras_backdoor.commands.check.folder import Asked, check_folder, start
from keras_backdoor.commands.check.steps import Attack, Checked, Given
from keras_backdoor.commands.options import DataOptions
from keras_backdoor.defenses import trigger_augmentation
from keras_backdoor.defenses._repair import NO_SCAN, NO_TRIGGER
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.staged_scan import StagedScan
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import load_model
from keras_backdoor.loading.inspection import inspect_model
from keras_backdoor.metrics import Rate


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
    short = NeuralCleanse(**NeuralCleanse.quick)
    patch.setattr(steps, "StagedScan", lambda **given: StagedScan(**{"search": short, **given}))


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
        assert rates["before"]["share"] > 0.8
        assert rates["after"]["share"] <= 0.01
        assert rates["on"] == "the 1,000 test images"
        before, after = (content["accuracy"][when]["share"] for when in ("before", "after"))
        assert before - after <= 0.01
        assert content["measured_on"] == "the 1,000 test images"
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
        assert names == [
            "inspection",
            "scan",
            "measurement",
            "repair",
            "measurement of the repaired model",
            "scan of the repaired model",
            "export",
        ]
        lines = dict(zip(names, (step["command"] for step in content["steps"]), strict=True))
        assert lines["scan"].startswith("keras-backdoor scan ")
        assert f"--found {out / 'scan'}" in lines["repair"]
        assert f"--trigger {out / 'scan'}" in lines["measurement"]
        assert all(step["seconds"] > 0 for step in content["steps"] if step["name"] != "inspection")
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
        assert content["measured_on"] == "clean images that the repair held out"

    def test_nothing_found_exports_the_model_as_it_is(self, command, files, tmp_path) -> None:
        sarif = ("--sarif", tmp_path / "c.sarif")
        code, content, err = checked_by(command, files, "twin", tmp_path / "c", *sarif)
        assert code == 0, err
        assert (content["verdict"], content["action"]) == ("nothing", DEPLOY)
        assert "audit the training data" in content["reasons"][-1]
        assert (tmp_path / "c" / "serving" / "1").is_dir()
        (log,) = json.loads((tmp_path / "c.sarif").read_text())["runs"]
        assert [result["kind"] for result in log["results"]] == ["pass", "pass"]
        assert "--preprocess 0:1" in content["steps"][-1]["command"]

    def test_a_quick_check_repairs_and_exports_nothing(self, command, files, tmp_path) -> None:
        code, content, err = checked_by(command, files, "planted", tmp_path / "c", "--quick")
        assert (code, content["action"]) == (1, REFUSE), err
        assert content["exported"] is None
        assert "--set triggers.images=48" in content["steps"][1]["command"]
        code, content, err = checked_by(command, files, "twin", tmp_path / "d", "--quick")
        assert (code, content["action"]) == (3, OPEN), err
        assert "search for triggers: about" in err
        assert content["answers"] == {"scan": "nothing"}
        assert "no reason to deploy" in content["reasons"][-1]

    def test_a_quick_check_of_a_slow_model_leaves_looks_out(
        self, command, files, tmp_path, monkeypatch
    ) -> None:
        monkeypatch.setattr(quick, "QUICK_SECONDS", 1e-6)
        code, content, err = checked_by(command, files, "twin", tmp_path / "c", "--quick")
        assert (code, content["action"]) == (3, OPEN), err
        assert "--set triggers=none --set search=none" in content["steps"][1]["command"]
        assert "search for triggers: left out, it would take about" in err

    def test_what_an_earlier_check_exported_does_not_stay(self, command, files, tmp_path) -> None:
        out = tmp_path / "c"
        checked_by(command, files, "planted", out, "--quick")
        (out / "serving" / "1").mkdir(parents=True)
        code, content, err = checked_by(command, files, "planted", out, "--quick")
        assert (code, content["action"]) == (1, REFUSE), err
        assert not (out / "serving").exists()

    def test_a_check_with_other_data_does_not_replace_it(self, command, files, tmp_path) -> None:
        out = tmp_path / "c"
        checked_by(command, files, "planted", out, "--quick")
        other = ("--quick", "--clean-take", "900")
        code, _, err = checked_by(command, files, "planted", out, *other)
        assert (code, "exists already" in err) == (2, True), err
        assert (out / "page" / "index.html").exists()
        code, _, err = checked_by(command, files, "planted", out, *other, "--force")
        assert code == 1, err

    def test_the_same_images_cannot_serve_two_ends(self, command, files, tmp_path) -> None:
        same = tmp_path / "same.npz"
        content = np.load(files["clean"])
        np.savez(same, x_test=content["x_train"][:200], y_test=content["y_train"][:200])
        more = ("--test", same)
        code, _, err = checked_by(command, files, "planted", tmp_path / "c", *more)
        assert code == 2
        assert "200 of the 200 images of --test are in --clean" in " ".join(err.split())

    def test_a_few_training_images_are_no_trusted_ones(self, task) -> None:
        few = task.clean.subset(np.arange(50))
        with pytest.raises(BadInput, match="50 of the 50 images of clean are in train"):
            _refuse_shared({"clean": few, "train": task.clean})
        _refuse_shared({"clean": task.test, "train": task.clean})

    def test_bad_input_is_refused_before_long_work(self, command, files, tmp_path) -> None:
        bare = tmp_path / "bare.npz"
        np.savez(bare, x_test=np.zeros((9, 14, 14, 1), np.uint8))
        for more, message in (
            (("--quick", "--repair"), "--quick audits and repairs nothing"),
            (("--test", bare), "--test needs labeled images"),
            (("--test-take", "9"), "need --test DATA"),
        ):
            code, _, err = checked_by(command, files, "planted", tmp_path / "c", *more)
            assert (code, message in " ".join(err.split())) == (2, True), err
        assert not (tmp_path / "c").exists()

    def test_a_hostile_file_is_a_finding(self, command, files, tmp_path, monkeypatch) -> None:
        from keras_backdoor.loading import inspection

        def hostile(path, **_):
            return inspection.Inspection(str(path), "0" * 64, "hostile", (("hostile", "it runs"),))

        monkeypatch.setattr(inspection, "inspect_model", hostile)
        sarif = ("--sarif", tmp_path / "c.sarif")
        code, content, err = checked_by(command, files, "planted", tmp_path / "c", *sarif)
        assert (code, content["action"], content["verdict"]) == (1, REFUSE, "found"), err
        assert "it runs" in (tmp_path / "c" / "page" / "index.html").read_text()
        (log,) = json.loads((tmp_path / "c.sarif").read_text())["runs"]
        assert log["results"][0]["ruleId"] == "KB001"

    def test_an_unreadable_file_is_an_error(self, command, files, tmp_path) -> None:
        broken = tmp_path / "broken.h5"
        broken.write_bytes(b"not a model")
        code, content, err = checked_by(
            command, {**files, "broken": broken}, "broken", tmp_path / "c"
        )
        assert (code, content) == (2, {})
        assert "unreadable" in err
        assert not (tmp_path / "c").exists()

    def test_the_check_of_another_model_is_kept(self, command, files, tmp_path) -> None:
        (tmp_path / "c" / "work").mkdir(parents=True)
        (tmp_path / "c" / "work" / "of-a-check").write_text("0" * 64)
        (tmp_path / "c" / "repaired").mkdir()
        code, _, err = checked_by(command, files, "twin", tmp_path / "c")
        assert (code, "exists already" in err) == (2, True), err
        assert (tmp_path / "c" / "repaired").exists()

    def test_a_folder_of_something_else_is_kept(self, command, files, tmp_path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "mine.txt").write_text("mine")
        code, _, err = checked_by(command, files, "twin", tmp_path / "c")
        assert (code, "exists" in err) == (2, True)
        assert (tmp_path / "c" / "mine.txt").read_text() == "mine"


class TestFolder:
    """What a check may do in the folder of an earlier one."""

    WHOLE = Asked("ab", [], {"clean": "/c", "test": "/t"}, quick=False, repair=False)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({}, ""),
            ({"repair": True}, ""),
            ({"data": {"clean": "/c", "test": "/t", "train": "/r"}}, ""),
            ({"model": "cd"}, "of another model"),
            ({"opening": ["--preprocess", "0:1"]}, "of one that was opened otherwise"),
            ({"data": {"clean": "/d", "test": "/t"}}, "with other data (clean)"),
            ({"data": {"clean": "/c"}}, "with other data (test)"),
            ({"quick": True}, "that did more than quick"),
        ],
    )
    def test_it_goes_on_if_as_much_is_asked(self, change, why, tmp_path) -> None:
        start(tmp_path, self.WHOLE)
        asked = replace(self.WHOLE, **change)
        if not why:
            check_folder(tmp_path, asked, force=False)
            return
        with pytest.raises(BadInput) as error:
            check_folder(tmp_path, asked, force=False)
        assert why in str(error.value)
        check_folder(tmp_path, asked, force=True)

    def test_a_quick_check_becomes_a_whole_one(self, tmp_path) -> None:
        start(tmp_path, replace(self.WHOLE, quick=True))
        check_folder(tmp_path, self.WHOLE, force=False)

    def test_a_repair_on_demand_is_not_dropped(self, tmp_path) -> None:
        start(tmp_path, replace(self.WHOLE, repair=True))
        with pytest.raises(BadInput, match="that did repair"):
            check_folder(tmp_path, self.WHOLE, force=False)

    def test_the_same_check_loses_its_decision_alone(self, tmp_path) -> None:
        """A check that is killed while it loads its work leaves no decision without its results."""
        start(tmp_path, self.WHOLE)
        for name in ("repaired", "page", "serving"):
            (tmp_path / name).mkdir()
        (tmp_path / "check.json").touch()
        start(tmp_path, self.WHOLE)
        assert {p.name for p in tmp_path.iterdir()} == {"repaired", "serving", "work"}
        start(tmp_path, replace(self.WHOLE, model="cd"))
        assert {p.name for p in tmp_path.iterdir()} == {"work"}


def attack(hits: int, of: int = 1000) -> Attack:
    """A trigger that worked before the repair."""
    return Attack(Rate(990, 1000), Rate(hits, of), Rate(8, 1000), "the test images")


class TestDecision:
    @pytest.fixture
    def repaired(self, task, files, tmp_path) -> Checked:
        """A check after a repair that worked."""
        given = Given(
            str(files["planted"]), task.model, task.clean, task.test, None, {}, (), tmp_path
        )
        nothing = replace(task.scan, flagged=np.zeros(10, bool), further=None)
        return Checked(
            given,
            inspect_model(files["planted"]),
            scan=task.scan,
            repair=RepairedModel(model=task.twin.model, preprocess=(0.0, 1.0)),
            again=nothing,
            accuracy=(Rate(950, 1000), Rate(950, 1000)),
            measured_on="the 1,000 test images",
            attacks={TARGET: attack(12)},
        )

    def nothing_found(self, checked: Checked) -> Checked:
        checked.scan = checked.again
        checked.attacks = {}
        return checked

    def test_a_repair_that_works_is_deployed(self, repaired) -> None:
        decision = decide(repaired)
        assert (decision.verdict, decision.action) == ("found", REPAIRED)
        assert "works on 1.2% of the images after the repair, 99.0% before" in " ".join(
            decision.reasons
        )

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"attacks": {TARGET: attack(30)}}, "still works on 3.0% of the images"),
            ({"attacks": {TARGET: attack(0, of=0)}}, "could not be measured"),
            ({"attacks": {TARGET: attack(0, of=15)}}, "was measured on only 15 images"),
            ({"attacks": {TARGET: Attack(Rate(990, 1000))}}, "could not be measured"),
            ({"accuracy": (Rate(95, 100), Rate(93, 100))}, "costs 2.0 points of accuracy"),
            ({"accuracy": (Rate(9, 9), Rate(9, 9))}, "was measured on only 9 images"),
            ({"accuracy": None}, "The repair was not measured"),
            (
                {"accuracy": (None, Rate(94, 100)), "agreement": True},
                "agrees with the given one on only",
            ),
            ({"kept": (Rate(52, 52), Rate(20, 52))}, "38% of the 52 flagged training images"),
            ({"at_chance": True}, "no better than guessing"),
            ({"attacks": {}}, f"No trigger of class {TARGET} is known"),
        ],
    )
    def test_what_speaks_against_the_repaired_model(self, repaired, change, reason) -> None:
        for name, value in change.items():
            setattr(repaired, name, value)
        decision = decide(repaired)
        assert (decision.verdict, decision.action) == ("found", REFUSE)
        assert any(reason in r for r in decision.reasons)

    def test_a_network_that_was_trained_anew_needs_no_trigger(self, repaired) -> None:
        repaired.attacks = {}
        repaired.repair = replace(repaired.repair, figures={"trained_anew": True})
        assert decide(repaired).action == REPAIRED

    def test_the_second_scan_decides_about_suspects_of_a_network_that_was_trained_anew(
        self, repaired
    ) -> None:
        """A mark of another class moves 3 % of the images, as marks do in clean networks."""
        suspect = np.arange(10) == 4
        repaired.scan = replace(repaired.scan, further=suspect)
        repaired.attacks = {TARGET: attack(0), 4: attack(30)}
        assert decide(repaired).action == REFUSE
        repaired.repair = replace(repaired.repair, figures={"trained_anew": True})
        assert decide(repaired).action == REPAIRED
        assert "class 4 works on 3.0% of the images after" in " ".join(decide(repaired).reasons)
        repaired.again = replace(repaired.again, further=suspect, inconclusive="class 4")
        assert decide(repaired).action == REFUSE
        repaired.again = replace(repaired.again, further=None, inconclusive="")
        repaired.attacks = {TARGET: attack(30)}
        assert decide(repaired).action == REFUSE

    def test_an_undecided_repair_is_not_deployed(self, repaired) -> None:
        repaired.repair = replace(repaired.repair, inconclusive="too few images of 3 classes")
        assert decide(repaired).action == REFUSE
        assert "too few images of 3 classes" in decide(repaired).reasons[-1]
        for harmless in (NO_SCAN, NO_TRIGGER):
            repaired.repair = replace(repaired.repair, inconclusive=harmless)
            assert decide(repaired).action == REPAIRED

    def test_a_second_scan_that_flags_or_does_not_decide_speaks_against(
        self, repaired, task
    ) -> None:
        nothing = repaired.again
        repaired.again = task.scan
        assert f"flags class {TARGET}" in decide(repaired).reasons[-1]
        repaired.again = replace(nothing, inconclusive="too few images")
        assert decide(repaired).action == REFUSE
        assert "gives no decision: too few images" in decide(repaired).reasons[-1]

    def test_no_decision_of_the_scan_is_none_of_the_check(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        checked.scan = replace(checked.scan, inconclusive="too few images")
        checked.repair = checked.again = None
        decision = decide(checked)
        assert (decision.verdict, decision.action) == ("inconclusive", OPEN)
        assert "too few images" in decision.reasons[0]
        assert "repair the model in any case (--repair), or audit" in decision.reasons[-1]

    def test_no_decision_of_the_audit_is_none_of_the_check(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        checked.repair = checked.again = None
        flags = np.zeros(9, bool)
        checked.audit = FlaggedSamples(scores=flags * 1.0, flagged=flags, inconclusive="no labels")
        assert (decide(checked).verdict, decide(checked).action) == ("inconclusive", OPEN)

    def test_a_repair_on_demand_is_deployed_if_nothing_speaks_against_it(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        decision = decide(checked)
        assert (decision.verdict, decision.action) == ("nothing", REPAIRED)
        assert "could not be measured whether one still works" in " ".join(decision.reasons)
        checked.accuracy = (Rate(950, 1000), Rate(900, 1000))
        assert (decide(checked).verdict, decide(checked).action) == ("inconclusive", OPEN)

    def test_nothing_found_says_what_is_missed(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        checked.repair = checked.again = None
        decision = decide(checked)
        assert (decision.verdict, decision.action) == ("nothing", DEPLOY)
        assert "are often missed" in decision.reasons[-1]
        assert "right on 95.0% of the 1,000 test images" in decision.reasons[-2]
        checked.accuracy = None
        assert "accuracy was not measured" in decide(checked).reasons[-2]

    def test_an_accuracy_on_few_images_says_little(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        checked.repair = checked.again = None
        checked.accuracy, checked.measured_on = (Rate(5, 5), None), "the 5 test images"
        reason = decide(checked).reasons[1]
        assert "right on 100.0% of the 5 test images, which are too few" in reason

    def test_a_model_that_guesses_is_not_deployed(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        checked.repair = checked.again = None
        checked.accuracy, checked.at_chance = (Rate(100, 1000), None), True
        assert (decide(checked).verdict, decide(checked).action) == ("inconclusive", OPEN)
        assert "no better than guessing" in decide(checked).reasons[-1]
        (answer,) = [a for a in _for_sarif(checked, None, decide(checked)) if a is not None]
        assert answer.verdict == "inconclusive"
        assert "no better than guessing" in answer.inconclusive

    def test_a_repair_on_demand_has_to_settle_what_was_suspected(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        suspects = np.arange(10) == 4
        checked.scan = replace(checked.scan, further=suspects, inconclusive="class 4")
        assert decide(checked).action == OPEN
        assert "No trigger of class 4 is known" in decide(checked).reasons[1]
        assert "--train" in decide(checked).reasons[1]
        flags = np.zeros(9, bool)
        audited = replace(checked, audit=FlaggedSamples(scores=flags * 1.0, flagged=flags))
        assert not any("--train" in reason for reason in decide(audited).reasons)
        checked.attacks = {4: attack(0)}
        assert decide(checked).action == REPAIRED

    def test_no_way_is_named_that_leads_to_no_decision(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        checked.repair = checked.again = None
        scan = replace(checked.scan, further=np.arange(10) == 4, inconclusive="class 4")
        with_trigger = replace(scan, triggers={4: next(iter(scan.triggers.values()))})
        checked.scan = with_trigger
        assert decide(checked).reasons[-1].count("--repair") == 1
        checked.scan = replace(scan, triggers={})
        assert "--repair" not in decide(checked).reasons[-1]
        assert "--train" in decide(checked).reasons[-1]
        flags = np.zeros(9, bool)
        checked.audit = FlaggedSamples(scores=flags * 1.0, flagged=flags)
        assert "there is no way to a decision here" in decide(checked).reasons[-1]

    def test_a_repair_does_not_settle_an_undecided_audit(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        flags = np.zeros(9, bool)
        checked.audit = FlaggedSamples(scores=flags * 1.0, flagged=flags, inconclusive="no labels")
        assert decide(checked).action == OPEN
        assert "has not been audited" in decide(checked).reasons[-1]

    def test_what_the_audit_says_stands_alone(self, repaired) -> None:
        checked = self.nothing_found(repaired)
        checked.repair = checked.again = None
        flags = np.zeros(9, bool)
        checked.audit = FlaggedSamples(scores=flags * 1.0, flagged=flags)
        assert decide(checked).reasons[0] == "Audit: None of the 9 images is flagged."


def test_flagged_images_are_measured(task, files, tmp_path) -> None:
    """The backdoor works on poisoned images in the planted network and not in the other one."""
    images = task.test.subset(task.test.known_labels != TARGET).take(200, seed=0)
    train = images.stamped(TRIGGER).relabelled(TARGET)
    given = Given("m.h5", task.model, task.clean, None, train, {}, (), tmp_path)
    flags = np.arange(200) < 150
    checked = Checked(
        given,
        inspect_model(files["planted"]),
        audit=FlaggedSamples(scores=flags * 1.0, flagged=flags),
        repair=RepairedModel(model=task.twin.model, preprocess=(0.0, 1.0)),
    )
    steps._measure_flagged(checked)
    assert checked.kept is not None
    before, after = checked.kept
    assert (before.of, after.of) == (150, 150)
    assert float(before) > 0.9
    assert float(after) < 0.1


def test_command_lines_have_the_options_of_each_kind(task, files, tmp_path) -> None:
    options = DataOptions(take=500, split="train", channels=1)
    sources = {
        "clean": (Path("a b.npz"), options),
        "train": (Path("t.npz"), DataOptions(channels=1)),
    }
    given = Given(
        "m.h5", task.model, task.clean, None, None, sources, ("--classes", "10"), tmp_path
    )
    line = steps._line(given, "repair", "clean", "train", "--found", "f", out=steps.REPAIR)
    assert line == (
        "keras-backdoor repair m.h5 --classes 10 --clean 'a b.npz' --clean-split train "
        "--clean-take 500 --train t.npz --found f --channels 1 --out "
        f"{tmp_path / 'repaired'}"
    )
    line = steps._line(given, "evaluate", "clean", model="repaired")
    assert line == (
        f"keras-backdoor evaluate {tmp_path / 'repaired'} --clean 'a b.npz' --split train "
        "--take 500 --channels 1"
    )
