"""The command line as its users meet it: work flows, exit codes, one sentence for errors."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from conftest import ROOT, check_results

from keras_backdoor import bundled, datasets
from keras_backdoor._internals import discovery
from keras_backdoor.answers import FlaggedClasses, FlaggedSamples, load_answer
from keras_backdoor.commands import catalogue
from keras_backdoor.commands.console import EXIT
from keras_backdoor.triggers.base import Stamp

BADNET, DIGITS = bundled.path("models/mnist_badnet.h5"), bundled.path("data/mnist_small.npz")
TRIGGER = "checkerboard:size=8,row=19,column=19"
COMMANDS = [
    "inspect", "poison", "train", "evaluate", "scan", "audit", "repair", "guard", "explain",
    "export", "check", "methods", "schema", "render", "study", "demo",
]  # fmt: skip


def left(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches(name: str, command) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    assert "Usage: keras-backdoor" in out
    assert len(out) > 300


def test_inspect(command, tmp_path: Path) -> None:
    code, out, _ = command("inspect", BADNET, "--json", tmp_path / "i.json")
    assert code == 0
    assert "safe to open" in out
    assert "conv_2" in out
    assert "0:1 (from the card of the model)" in out
    found = json.loads((tmp_path / "i.json").read_text())
    assert found["verdict"] == "safe"
    assert found["parameters"] == 520 + 25_050 + 400_500 + 5_010
    assert found["layers"][0][:2] == ["conv_1", "Conv2D"]
    (tmp_path / "bad.h5").write_text("no")
    code, out, _ = command("inspect", tmp_path / "bad.h5")
    assert code == 2
    assert "unreadable" in out


def test_poison_train_evaluate(command, tmp_path: Path) -> None:
    out_file, model = tmp_path / "p.npz", tmp_path / "m.h5"
    poison = ("poison", DIGITS, "--trigger", TRIGGER, "--target", 7, "--count", 100)
    code, out, err = command(*poison, "--take", 2000, "--out", out_file)
    assert code == 0, err
    assert "2100" in out
    truth = np.load(tmp_path / "p.npz.truth.npz")
    assert truth["is_poison"].sum() == 100
    assert not any("poison" in name for name in np.load(out_file).files)
    assert len(datasets.open(out_file, split="train")) == 2100
    train = ("train", "badnet-mnist", out_file, "--out", model, "--set", "epochs=2")
    test = ("--test", DIGITS, "--trigger", TRIGGER, "--target", 7)
    code, out, err = command(*train, *test, "--validation", 0.1)
    assert code == 0, err
    card = json.loads((tmp_path / "m.json").read_text())
    assert card["recipe"]["epochs"] == 2
    assert card["figures"]["test"]["clean_accuracy"]["of"] == 4000
    assert "validation_accuracy" in card["figures"]
    report = ("--json", tmp_path / "e.json", "--report", tmp_path / "page")
    code, out, err = command("evaluate", model, *test, "--take", 500, *report)
    assert code == 0, err
    assert "attack success rate" in out
    measured = json.loads((tmp_path / "e.json").read_text())
    assert measured["clean_accuracy"]["of"] == 500
    assert set(measured["attack_success_per_class"]) == {str(c) for c in range(10)} - {"7"}
    assert "Confusion" in (tmp_path / "page" / "index.html").read_text()
    assert left(tmp_path) == [
        "e.json", "m.h5", "m.json", "p.npz", "p.npz.truth.npz", "page",
    ]  # fmt: skip


def test_repair_render_export_evaluate(command, tmp_path: Path) -> None:
    repair = ("repair", BADNET, "--clean", DIGITS, "--take", 1000, "--method", "goodnet")
    settings = ("--set", "repair.tuning.steps=300", "--set", "repair.seed=1")
    results = ("--out", tmp_path / "r", "--json", tmp_path / "r.json", "--report", tmp_path / "w")
    code, out, err = command(*repair, *settings, *results, "--workdir", tmp_path / "work")
    assert code == 3, err
    assert "no scan was given, so it was not measured whether a backdoor is gone" in out
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["settings"]["repair"]["tuning"]["steps"] == 300
    assert facts["reject_class"] == 10
    answer = load_answer(tmp_path / "r")
    assert answer.about["settings"]["repair"]["seed"] == 1
    test = ("--test", DIGITS, "--trigger", TRIGGER, "--target", 7, "--json", tmp_path / "e.json")
    assert command("evaluate", tmp_path / "r", *test)[0] == 0
    measured = json.loads((tmp_path / "e.json").read_text())
    assert measured["attack_success_rate"]["share"] < 0.05
    assert measured["rejected_stamped"]["share"] > 0.8
    code, out, _ = command("render", tmp_path / "r", "--out", tmp_path / "again")
    assert code == 0
    pages = [(tmp_path / f / "index.html").read_text() for f in ("w", "again")]
    assert pages[0] == pages[1]
    assert command("export", tmp_path / "r", "--out", tmp_path / "served")[0] == 0
    assert (tmp_path / "served" / "1" / "saved_model.pb").exists()
    served = json.loads((tmp_path / "served" / "model.json").read_text())
    assert served["reject_class"] == 10
    assert served["preprocess"] == "0:1"


def test_guard_and_the_default_method(command, tmp_path: Path) -> None:
    short = ("--set", "repair.tuning.steps=20")
    code, out, _ = command("guard", BADNET, "--clean", DIGITS, "--take", 300, *short)
    assert code == 3
    assert "GoodNet" in out


def test_methods(command) -> None:
    code, out, _ = command("methods")
    assert code == 0
    for word in ("fine-pruning", "goodnet", "borji-mnist", "checkerboard", "yellow-square", "npz"):
        assert word in out
    code, out, _ = command("methods", "fine-pruning")
    assert "max_drop" in out
    assert "RAID" in out
    assert command("methods", "nope")[0] == 2


@pytest.mark.parametrize(
    "name",
    [
        n
        for f in ("defenses", "explanations", "attacks", "triggers", "architectures")
        for n in discovery.keys(f)
    ],
)
def test_every_setting_is_explained(name: str) -> None:
    ((_, rows),) = catalogue.describe(discovery.word(name))
    assert rows[0][1]
    assert [left for left, text in rows if text.startswith(" (")] == []


def test_the_schema_describes_every_kind_of_result(command) -> None:
    code, out, _ = command("schema")
    assert code == 0
    answers = {discovery.load("answers", key).__name__ for key in discovery.keys("answers")}
    others = {"Evaluation", "AuditEvaluation", "Check", "Inspection", "Export"}
    definitions = json.loads(out)["$defs"]
    assert set(definitions) == answers | others | {"rate", "answer"}
    assert all(
        "const" in d["properties"]["kind"]
        for k, d in definitions.items()
        if k not in ("rate", "answer")
    )


def test_results_that_do_not_follow_the_schema_are_seen(command, tmp_path: Path) -> None:
    quick = ("--method", "neural-cleanse", "--set", "runs=1", "--set", "schedule.steps=10")
    command("scan", BADNET, "--clean", DIGITS, "--clean-take", 60, *quick, "--json", tmp_path / "s")
    content = json.loads((tmp_path / "s").read_text())
    check_results(content)
    for change, message in (
        ({"flagged": 7}, "7 is not of type 'array'"),
        ({"verdict": "safe"}, "'safe' is not one of"),
        ({"kind": "Other"}, "'Other' is not one of"),
        ({"surprise": 1}, "does not describe {'surprise'}"),
    ):
        with pytest.raises((AssertionError, jsonschema.ValidationError), match=message):
            check_results({**content, **change})


def test_settings_of_settings_are_shown(command) -> None:
    out = command("methods", "neural-cleanse")[1]
    assert "schedule.learning_rate = 0.3" in out
    assert "schedule.superpixel = None" in out


def test_a_saved_scan_is_a_trigger(command, tmp_path: Path) -> None:
    mask, pattern = np.zeros((28, 28, 1)), np.zeros((28, 28, 1))
    mask[19:27, 19:27] = 1
    pattern[19:27, 19:27, 0] = np.indices((8, 8)).sum(axis=0) % 2 == 0
    scores = np.full(10, np.nan)
    scores[[3, 7]] = 1.0, 5.0
    blank = Stamp(np.zeros((28, 28, 1)), pattern)
    found = FlaggedClasses(
        scores=scores, flagged=scores > 2, triggers={7: Stamp(mask, pattern), 3: blank}
    )
    found.save(tmp_path / "scan")
    test = ("evaluate", BADNET, "--test", DIGITS, "--take", 500, "--trigger", tmp_path / "scan")
    for target, share in ((7, 1.0), (3, 0.0)):
        code, _, err = command(*test, "--target", target, "--json", tmp_path / "e.json", "--force")
        assert code == 0, err
        measured = json.loads((tmp_path / "e.json").read_text())
        assert measured["attack_success_rate"]["share"] == pytest.approx(share, abs=0.02)
    code, _, err = command(*test, "--target", 5)
    assert (code, "no trigger for class 5; it has: 3, 7" in err) == (2, True)
    code, out, err = command(*test, "--json", "-")
    assert code == 0, err
    assert "trigger of class 7 (flagged)" in err
    measured = json.loads(out)
    assert list(measured["attacks"]) == ["7"]
    assert measured["attacks"]["7"]["share"] == pytest.approx(1.0, abs=0.02)


def test_exit_codes_follow_the_verdict() -> None:
    assert EXIT == {
        "nothing": 0, "repaired": 0, "explained": 0, "found": 1, "inconclusive": 3,
    }  # fmt: skip


ERRORS = [
    (("inspect", "nope.h5"), "There is no model file at nope.h5"),
    (("bogus",), "No such command 'bogus'"),
    (("repair",), "Missing argument 'MODEL'"),
    (("repair", BADNET), "Auto needs --clean"),
    (("repair", BADNET, "--clean", "nope.npz"), "There is no data at nope.npz"),
    (("repair", BADNET, "--clean", DIGITS, "--method", "nope"), "has no method 'nope'; it has:"),
    (("repair", BADNET, "--clean", DIGITS, "--set", "nope=1"), "no setting 'nope'"),
    (("guard", BADNET, "--clean", DIGITS, "--set", "repair.nope=1"), "no setting 'nope'"),
    (("repair", BADNET, "--clean", DIGITS, "--set", "nope"), "must have the form key=value"),
    (("repair", BADNET, "--clean", DIGITS, "--take", "-3"), "take needs"),
    (("repair", BADNET, "--clean", DIGITS, "--split", "nope"), "no split 'nope'"),
    (("repair", BADNET, "--clean", DIGITS, "--preprocess", "5"), "written 0:1"),
    (("repair", BADNET, "--clean", DIGITS, "--reference", "nope"), "There is no model file"),
    (("repair", BADNET, "--clean", DIGITS, "--found", "nope"), "There is no answer"),
    (("repair", BADNET, "--clean", DIGITS, "--out", DIGITS), "exists already; pass --force"),
    (("repair", BADNET, "--clean", DIGITS, "--out", "/proc/x/y"), "cannot be written"),
    (("explain", BADNET, "--clean", DIGITS), "BayLIME needs --incoming"),
    (("scan", BADNET, "--method", "neural-cleanse"), "NeuralCleanse needs --clean"),
    (("evaluate", BADNET, "--test", DIGITS, "--trigger", "nope"), "There is no trigger 'nope'"),
    (("evaluate", BADNET, "--test", DIGITS, "--trigger", "mnist-pixel"), "Received: target=None"),
    (("evaluate", BADNET, "--test", DIGITS, "--trigger", "mnist-pixel", "--target", "11"),
     "Received: target=11"),
    (("evaluate", BADNET, "--test", DIGITS, "--size", "3"), "written HxW"),
    (("evaluate", BADNET, "--test", DIGITS, "--report", DIGITS), "exists already"),
    (("poison", DIGITS, "--trigger", "mnist-pixel", "--target", "0", "--out", "x.npz"),
     "Exactly one of count"),
    (("poison", DIGITS, "--trigger", "mnist-pixel", "--target", "0", "--out", "x.csv",
      "--count", "1"), "written as .h5, .hdf5, .npz or a folder"),
    (("poison", DIGITS, "--trigger", "mnist-pixel", "--target", "0", "--source", "12", "--out",
      "x.npz", "--count", "1"), "lacks an image with label 12"),
    (("train", "nope", DIGITS, "--out", "m.h5"), "There is no 'nope' among the architectures"),
    (("train", "badnet-mnist", DIGITS, "--out", "m.pb"), "must end in .h5 or .keras"),
    (("train", "badnet-mnist", DIGITS, "--out", "m.h5", "--recipe", "nope"), "no recipe 'nope'"),
    (("train", "gtsrb-cnn", DIGITS, "--out", "m.h5", "--take", "50"), "takes images with 3 channels and these have 1: pass --channels 3"),
    (("train", "badnet-mnist", DIGITS, "--out", "m.h5", "--about", "nope"),
     "JSON file with card entries"),
    (("export", BADNET, "--out", DIGITS), "cannot be written"),
    (("render", BADNET.parent, "--out", "x"), "has no answer.json"),
    (("methods", "nope"), "There is no 'nope'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=lambda x: str(x)[:60])
def test_errors_are_one_sentence(arguments, message, command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*arguments)
    assert code == 2
    flat = re.sub(r"\s+", " ", err)
    assert message in flat
    assert "Traceback" not in err
    assert left(tmp_path) == []


def test_a_wrong_range_and_foreign_labels(command, tmp_path: Path) -> None:
    images = np.zeros((4, 28, 28), np.uint8)
    np.savez(tmp_path / "far.npz", x=images, y=[0, 1, 2, 12])
    code, _, err = command("repair", BADNET, "--clean", tmp_path / "far.npz")
    assert (code, "in 0..9, the classes of the model. Received: label 12" in err) == (2, True)
    code, _, err = command("repair", BADNET, "--clean", tmp_path / "far.npz", "--unlabelled")
    assert (code, "of 1 class are too few for a repair, which would lose the" in err) == (
        2,
        True,
    ), err


def test_a_hostile_file_is_refused_everywhere(command, tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "m.h5"
    path.write_bytes(BADNET.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("Flatten", "Lambda")
    code, out, _ = command("inspect", path)
    assert code == 1
    assert "hostile" in out
    for arguments in (
        ("repair", path, "--clean", DIGITS),
        ("evaluate", path, "--test", DIGITS),
        ("export", path, "--out", tmp_path / "s"),
    ):
        code, _, err = command(*arguments)
        assert (code, "'Lambda', which is not in the list" in err) == (2, True)
    assert left(tmp_path) == ["m.h5"]


def test_text_of_a_file_cannot_draw_on_the_terminal(command, tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "m.h5"
    path.write_bytes(BADNET.read_bytes())
    with h5py.File(path, "r+") as file:
        evil = "\\u001b]0;evil\\u0007[red]conv"
        file.attrs["model_config"] = file.attrs["model_config"].replace('"conv_1"', f'"{evil}"')
        file["model_weights"].attrs["layer_names"] = [
            "\x1b]0;evil\x07[red]conv" if n in (b"conv_1", "conv_1") else n
            for n in file["model_weights"].attrs["layer_names"]
        ]
        file["model_weights"].move("conv_1", "\x1b]0;evil\x07[red]conv")
    code, out, err = command("inspect", path)
    assert code == 0, out + err
    assert r"\x1b]0;evil\x07[red]conv" in out.replace("\n", "")
    assert "\x1b" not in out + err
    assert "\x07" not in out + err


@pytest.mark.parametrize("handler", ["signal.default_int_handler", "signal.SIG_IGN"])
def test_an_interrupt_ends_the_program_where_it_is(handler: str, tmp_path: Path) -> None:
    """In a destructor, in the middle of a file, with the bars' lock held."""
    code = f"""if True:
        import signal, threading
        from keras_backdoor.commands import console
        from keras_backdoor._safe import files
        signal.signal(signal.SIGINT, {handler})
        held = threading.Lock()
        held.acquire()
        class Late:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)
        with console.interruptible(held.acquire), files.writing("whole.txt") as partial:
            partial.write_text("half")
            Late()
            partial.write_text("whole")
        """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if handler == "signal.SIG_IGN":
        assert (done.returncode, done.stderr, left(tmp_path)) == (0, "", ["whole.txt"])
    else:
        assert (done.returncode, left(tmp_path)) == (130, [])
        assert re.fullmatch("Error: Interrupted; .*\n", done.stderr)


def test_an_interrupted_training_leaves_no_half_file_and_goes_on(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "keras_backdoor"]
    arguments = ["train", "badnet-mnist", str(DIGITS), "--out", "m.h5"]
    arguments += ["--set", "batch_size=16", "--set"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        [*program, *arguments, "epochs=500"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has it ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(600):
        if (tmp_path / "m.h5.checkpoint.npz").exists() or started.poll() is not None:
            break
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert left(tmp_path) == ["m.h5.checkpoint.npz"]
    finished = len(np.load(tmp_path / "m.h5.checkpoint.npz")["history_loss"])
    done = subprocess.run(
        [*program, *arguments, f"epochs={finished + 1}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == ["m.h5", "m.json"]


def test_what_the_command_line_refuses(command, tmp_path: Path) -> None:
    from test_cli import BADNET, DIGITS

    (tmp_path / "keep.txt").write_text("keep")
    for arguments, message in (
        (("inspect", BADNET, "--json", tmp_path / "keep.txt"), "exists already"),
        (("evaluate", BADNET, "--test", DIGITS, "--json", tmp_path / "keep.txt"), "exists already"),
        (("evaluate", BADNET, "--test", DIGITS, "--target", 3), "pass --trigger too"),
        (("evaluate", BADNET, "--test", DIGITS, "--architecture", "deepid"),
         "contains an architecture: leave out"),
        (("evaluate", BADNET, "--test", DIGITS, "--size", "9x9"), "pass --size 28x28"),
        (("train", "badnet-mnist", DIGITS, "--out", tmp_path / "m.h5", "--test", DIGITS,
          "--trigger", "nope", "--target", 1), "There is no trigger 'nope'"),
        (("repair", BADNET, DIGITS), "unexpected extra argument"),
        (("explain", BADNET, DIGITS, "--incoming", DIGITS), "not both"),
        (("explain", BADNET, DIGITS, "--preset", "thesis"), "BayLIME has no preset 'thesis'"),
        (("train", "badnet-mnist", DIGITS, "--out", tmp_path / "m.h5", "--classes", 4),
         "must lie in 0..3, the classes of the model. Received: label 9"),
        (("train", "badnet-mnist", DIGITS, "--out", tmp_path / "m.h5", "--weights", DIGITS),
         "takes no weights: leave out --weights"),
    ):  # fmt: skip
        code, _, err = command(*arguments)
        assert code == 2
        assert message in " ".join(err.split())
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


class TestEvidence:
    """Each kind of evidence has its own split and its own number of images."""

    def answer(self, command, tmp_path: Path, *arguments: object) -> dict:
        short = ("--set", "repair.tuning.steps=2", "--json", tmp_path / "a.json", "--force")
        code, _, err = command("guard", BADNET, *arguments, *short)
        assert code == 3, err
        return json.loads((tmp_path / "a.json").read_text())["data"]

    def test_part_of_the_clean_and_all_of_the_incoming(self, command, tmp_path: Path) -> None:
        both = ("--clean", DIGITS, "--clean-take", 200, "--incoming", DIGITS, "--seed", 3)
        used = self.answer(command, tmp_path, *both)
        train, test = (datasets.open(DIGITS, split=s) for s in ("train", "test"))
        assert used["clean"] == train.take(200, seed=3).fingerprint()
        assert used["incoming"] == test.fingerprint()
        more = ("--clean-split", "test", "--incoming-take", 0.01, "--incoming-split", "train")
        used = self.answer(command, tmp_path, *both, *more)
        assert used["clean"] == test.take(200, seed=3).fingerprint()
        assert used["incoming"] == train.take(0.01, seed=3).fingerprint()

    def test_one_kind_takes_the_short_options(self, command, tmp_path: Path) -> None:
        used = self.answer(command, tmp_path, "--clean", DIGITS, "--take", 150, "--split", "test")
        test = datasets.open(DIGITS, split="test")
        assert used == {"clean": test.take(150, seed=0).fingerprint()}

    def test_several_kinds_need_the_long_ones(self, command) -> None:
        given = ("--clean", DIGITS, "--incoming", DIGITS, "--take", 5)
        code, _, err = command("guard", BADNET, *given)
        assert (code, "several kinds of data, pass an option for each kind" in err) == (2, True)

    def test_help_shows_only_what_a_command_takes(self, command) -> None:
        assert "--write-clean" in command("audit", "--help")[1]
        assert "--write-clean" not in command("scan", "--help")[1]
        assert "IMAGE" in command("explain", "--help")[1]
        assert "IMAGE" not in command("audit", "--help")[1]

    def test_an_audit_is_measured_against_the_truth(self, command, tmp_path: Path) -> None:
        flagged = np.array([True, False, True, False])
        FlaggedSamples(
            scores=flagged * 1.0, flagged=flagged, row_numbers=np.array([7, 3, 5, 1])
        ).save(tmp_path / "flags")
        truth = {"is_poison": np.arange(8) >= 6, "labels": np.arange(8) % 2}
        np.savez(tmp_path / "truth.npz", **truth)
        audit = ("evaluate", tmp_path / "flags", "--truth", tmp_path / "truth.npz")
        code, out, err = command(*audit, "--report", tmp_path / "page", "--json", tmp_path / "e")
        assert code == 0, err
        assert "removed of class 1" in out
        measured = json.loads((tmp_path / "e").read_text())
        assert measured["removed_poison"]["hits"] == measured["removed_poison"]["of"] == 1
        assert (measured["removed_clean"]["hits"], measured["removed_clean"]["of"]) == (1, 3)
        assert measured["per_class"]["1"]["removed_clean"]["of"] == 3
        assert "Removed by class" in (tmp_path / "page" / "index.html").read_text()
        np.savez(tmp_path / "short.npz", is_poison=np.zeros(4, bool))
        own = np.arange(4)
        FlaggedSamples(
            scores=flagged * 1.0, flagged=flagged, row_numbers=np.array([7, 3, 5, 1]), labels=own
        ).save(tmp_path / "labeled")
        for arguments, message in (
            (("evaluate", tmp_path / "flags"), "Pass --test DATA to evaluate a model, or --truth"),
            ((*audit, "--test", DIGITS), "Pass --test to evaluate a model or --truth"),
            ((*audit, "--take", 5), "--truth evaluates a saved audit as it is"),
            (
                ("evaluate", tmp_path / "labeled", *audit[2:]),
                "its labels are not those of the audit",
            ),
            (
                ("repair", tmp_path / "flags", "--clean", DIGITS),
                "a saved answer that contains no model",
            ),
            (("guard", BADNET, "--clean", DIGITS, "--incoming-take", 5), "need --incoming DATA"),
            (("guard", BADNET, "--clean", DIGITS, "--take", "nan"), "take needs a share"),
            (("evaluate", tmp_path / "flags", "--truth", tmp_path / "short.npz"), "other data"),
            (("evaluate", BADNET, "--truth", tmp_path / "truth.npz"), "is not a saved answer"),
        ):
            code, _, err = command(*arguments)
            assert (code, message in " ".join(err.split())) == (2, True), err


def test_a_poisoned_folder_has_the_order_of_its_truth(command, tmp_path: Path) -> None:
    digits = datasets.open(DIGITS).take(200)
    cameras = np.array([f"camera {i % 3}" for i in range(200)])
    datasets.save(tmp_path / "d.npz", replace(digits.in_memory(), origin=cameras))
    stamp = ("--trigger", "checkerboard:size=8,row=19,column=19", "--target", "7", "--count", "40")
    code, _, err = command("poison", tmp_path / "d.npz", *stamp, "--out", tmp_path / "poisoned")
    assert code == 0, err
    images = datasets.open(tmp_path / "poisoned", split="train")
    truth = np.load(tmp_path / "poisoned.truth.npz")
    corner = images.read()[:, 19:27, 19:27, 0].astype(int)
    is_stamped = (np.sort(corner.reshape(len(corner), -1), axis=1) == 32 * [0] + 32 * [255]).all(1)
    np.testing.assert_array_equal(is_stamped, truth["is_poison"])
    np.testing.assert_array_equal(images.labels, truth["labels"])
    assert is_stamped.sum() == 40
    assert set(images.origin) == set(cameras)
    code, _, err = command(
        "poison", DIGITS, *stamp[:2], "--target", 99, *stamp[4:], "--out", "x.npz"
    )
    assert (code, "target must be one of the 10 classes" in err) == (2, True), err


def test_a_scan_opens_probes_and_wraps_once(command, tmp_path: Path, monkeypatch) -> None:
    """One helper process and one read of the model file, one range, few wrappers."""
    from keras_backdoor._safe import h5
    from keras_backdoor.network.classifier import Classifier

    asked, made, tried = [], [], []
    helper, init, check = h5.HELPER.ask, Classifier.__post_init__, Classifier._check_preprocess
    monkeypatch.setattr(h5.HELPER, "ask", lambda *a, **k: (asked.append(1), helper(*a, **k))[1])
    monkeypatch.setattr(Classifier, "__post_init__", lambda s: (made.append(1), init(s))[1])
    monkeypatch.setattr(
        Classifier, "_check_preprocess", lambda s, x: (tried.append(1), check(s, x))[1]
    )
    quick = ("--method", "neural-cleanse", "--set", "runs=1", "--set", "schedule.steps=2")
    code, _, err = command("scan", BADNET, "--clean", DIGITS, "--take", 50, *quick)
    assert code in (0, 1, 3), err
    assert (len(asked), len(tried)) == (1, 1)
    assert len(made) <= 2  # the file's own range is looked at, then the classifier is made
    asked.clear(), tried.clear()
    quick = ("--set", "repair.tuning.steps=40")
    assert command("guard", BADNET, "--clean", DIGITS, "--take", 100, *quick)[0] == 3
    assert (len(asked), len(tried)) == (1, 1)  # a nested method tries no range again
