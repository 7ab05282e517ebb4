"""From a suspicious file to a decision, typed as the README says, on the planted task."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from planted import TARGET, PlantedTask

from keras_backdoor import progress
from keras_backdoor._safe.files import write_npz
from keras_backdoor.answers import load_answer
from keras_backdoor.loading import cards, load_model
from keras_backdoor.progress import track

FEWER = ("--set", "runs=1", "--set", "schedule.steps=60")
QUICK = ("--set", "refinement.searches=4", "--set", "refinement.steps=40")


@pytest.fixture(scope="module")
def files(task: PlantedTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted network, its clean twin, clean images and test images."""
    folder = tmp_path_factory.mktemp("flow")
    for name, model in (("suspicious", task.model), ("twin", task.twin)):
        cards.write(folder / f"{name}.h5", model, {})
    for name, samples in (("clean", task.clean), ("test", task.test)):
        write_npz(folder / f"{name}.npz", {"x": samples.read(), "y": samples.labels})
    return folder


def test_a_backdoored_network_is_found_repaired_and_exported(files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    code, out, err = command(
        "scan", "suspicious.h5", "--clean", "clean.npz", *FEWER, "--out", "scan", "--report", "page"
    )
    assert code == 1, err
    page = (files / "page" / "index.html").read_text()
    sentence = re.search(r'<p class="lead bad">(.*?)</p>', page)
    assert sentence and re.fullmatch(
        rf"Do not deploy: a mark of \d+ pixels turns \d+% of the images into class {TARGET}\.",
        sentence[1],
    )
    assert "<h1>suspicious.h5: NeuralCleanse</h1>" in page
    assert "does not see backdoors that work on images of one class" in page
    score = re.search(rf"class {TARGET}, score ([\d.]+) \(an outlier is above 1\)", out)
    assert score and float(score[1]) > 1
    line = re.search("next: keras-backdoor (.*)", out)
    assert line is not None
    step = shlex.split(line[1])
    assert step[:2] == ["repair", "suspicious.h5"]
    assert "--found" in step
    code, out, err = command(*step, *QUICK, "--report", "page2")
    assert code == 0, err
    assert f"trigger of class {TARGET}" in out
    repaired = load_answer(files / "repaired")
    rates = repaired.figures["recovered_triggers"][str(TARGET)]
    assert rates["before"]["share"] > 0.9 and rates["after"]["share"] <= 0.02
    assert (
        'class="lead good">Repaired: the recovered triggers work on'
        in (files / "page2" / "index.html").read_text()
    )
    evaluated, exported = re.search("next: (.*)", out)[1].split(" && ")  # type: ignore[index]
    code, out, err = command(*shlex.split(evaluated.replace("DATA", "test.npz"))[1:])
    assert code == 0, err
    code, out, err = command(*shlex.split(exported)[1:])
    assert (code, "Warning" in err) == (0, False), err
    assert "pixels 0..255" in out
    assert "0:1 (from the card of the model)" in out
    assert load_model(files / "repaired").classes == repaired.classifier.classes


def test_a_clean_network_is_not_accused(files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    code, _, err = command("scan", "twin.h5", "--clean", "clean.npz", *FEWER, "--report", "twin")
    assert code in (0, 3), err
    page = (files / "twin" / "index.html").read_text()
    assert ("Nothing found. This scan does not see" in page) == (code == 0)


def test_a_repair_that_leaves_the_trigger_is_inconclusive(files, command, monkeypatch) -> None:
    """Pruning nothing: the trigger still works, and nobody says that it is repaired."""
    monkeypatch.chdir(files)
    found = ("--found", "scan") if (files / "scan").exists() else ()
    if not found:
        command("scan", "suspicious.h5", "--clean", "clean.npz", *FEWER, "--out", "scan")
    code, out, _ = command(
        "repair", "suspicious.h5", "--clean", "clean.npz", "--found", "scan", "--method",
        "fine-pruning", "--set", "max_drop=0", "--out", "unrepaired",
    )  # fmt: skip
    assert code == 3
    assert re.search(rf"that of class {TARGET} still works on [\d.]+% of the images", out)
    assert "do not deploy it yet" in out
    code, _, err = command("export", "unrepaired", "--out", "served2")
    assert (code, "Warning: the repair is inconclusive" in err) == (0, True)
    code, _, err = command("export", "suspicious.h5", "--out", "served3", "--found", "scan")
    assert (code, "Warning: the scan found a backdoor" in err) == (0, True)
    code, _, err = command("export", "suspicious.h5", "--out", "served4")
    assert (code, "nothing is known about a scan of this model" in err) == (0, True)


@pytest.mark.parametrize("number", [1, 2, 5, 29])
def test_too_few_images_are_no_reassurance(number: int, files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    code, out, err = command(
        "scan", "suspicious.h5", "--clean", "clean.npz", "--take", number, *FEWER
    )
    assert code == 3, err
    assert f"{number} clean image{'' if number == 1 else 's'} of" in out
    assert "are too few: a scan needs 30 images" in out
    code, out, err = command("repair", "suspicious.h5", "--clean", "clean.npz", "--take", number)
    assert code == (2 if number < 10 else 3), err
    assert "are too few" in (err if number < 10 else out)


def test_images_of_one_class_are_refused_for_a_repair(files, task, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    one = task.clean.of_class(0)
    write_npz(files / "one.npz", {"x": one.read(), "y": one.labels}, force=True)
    code, _, err = command("repair", "suspicious.h5", "--clean", "one.npz")
    assert (code, "of 1 class are too few for a repair" in err) == (2, True), err


def test_json_on_stdout(files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    code, out, err = command("inspect", "twin.h5", "--json", "-")
    assert code == 0
    found = json.loads(out)
    assert (found["schema"], found["kind"], found["verdict"]) == (2, "Inspection", "safe")
    assert "safe to open" in err
    code, out, _ = command("evaluate", "twin.h5", "--test", "test.npz", "--json", "-")
    assert json.loads(out)["clean_accuracy"]["of"] == json.loads(out)["images"]


def test_text_in_a_pipe_is_not_wrapped(files) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keras_backdoor", "evaluate", "twin.h5", "--test", "test.npz"],
        cwd=files, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "COLUMNS": "80", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = next(x for x in done.stdout.splitlines() if "clean accuracy" in x)
    assert "95 % interval" in row
    assert "rejected" not in done.stdout


def test_quiet_and_version(files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    code, out, err = command("-q", "evaluate", "twin.h5", "--test", "test.npz")
    assert (code, out, err) == (0, "", "")
    assert re.fullmatch(r"keras_backdoor \d.*\n", command("--version")[1])


def test_a_line_a_minute_where_output_is_no_terminal(capsys, monkeypatch) -> None:
    clock = iter(range(0, 100_000, 7))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress.show():
        for _ in track(range(3), "run"):
            for _ in track(range(20), "triggers"):
                pass
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 40
    pattern = r"run [1-3] of 3(, triggers \d+ of 20)?: \d+% done, about [\d.]+ (s|min|h) left"
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]  # type: ignore[index]
    assert shares == sorted(shares)


def test_a_search_resumes_within_a_run(task, tmp_path: Path, monkeypatch) -> None:
    """A scan that is stopped in the middle of a run finds the same triggers as one that is not."""
    from keras_backdoor.defenses.neural_cleanse import NeuralCleanse, Schedule, search

    monkeypatch.setattr(search, "SAVED", -1.0)
    method = NeuralCleanse(runs=1, schedule=Schedule(steps=24, starts=2))
    whole = method(task.model, clean=task.clean)
    real = search.update
    steps: list[int] = []

    def stops(*arguments):
        steps.append(1)
        if len(steps) == 15:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(search, "update", stops)
    with pytest.raises(KeyboardInterrupt):
        method(task.model, clean=task.clean, workdir=tmp_path)
    assert len(list(tmp_path.rglob("run-0.unfinished.npz"))) == 1
    resumed = method(task.model, clean=task.clean, workdir=tmp_path)
    assert len(steps) < 15 + 24
    np.testing.assert_allclose(resumed.measures["l1_norm"], whole.measures["l1_norm"], rtol=1e-4)
    assert list(tmp_path.rglob("*.unfinished.npz")) == []


@pytest.mark.parametrize(
    ("given", "meant"), [("steps=3", "schedule.steps"), ("schedule.stps=3", "schedule.steps")]
)
def test_did_you_mean(given: str, meant: str, files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    code, _, err = command("scan", "twin.h5", "--clean", "clean.npz", "--set", given)
    assert (code, f"did you mean {meant}" in err) == (2, True), err


KINDS = {
    "pointer.h5": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "Git LFS pointer",
    ),
    "page.h5": (b"<!DOCTYPE html><html></html>", "a web page"),
    "net.pt": (b"\x80\x02}q\x00.", "a PyTorch file"),
    "net.onnx": (b"\x08\x07\x12\x07pytorch", "an ONNX file"),
    "net.h5": (b"", "is empty"),
    "config.keras": (b'{"class_name": "Functional"}', "a JSON text, which has no weights"),
    "net.tar.gz": (b"\x1f\x8b\x08", "a gzip archive: unpack it"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_wrong_kind_of_file_is_named(name: str, command, tmp_path: Path) -> None:
    content, words = KINDS[name]
    (tmp_path / name).write_bytes(content)
    code, out, _ = command("inspect", tmp_path / name)
    assert (code, words in out) == (2, True), out
    assert "hostile" not in out


def test_archives_and_data_that_are_no_models(files, command, tmp_path: Path) -> None:
    import zipfile

    import h5py

    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.write(files / "twin.h5", "folder/twin.h5")
        archive.writestr("__MACOSX/._x", b"x")
    code, out, _ = command("inspect", tmp_path / "download.zip")
    assert (code, "a zip archive that holds twin.h5: unpack it" in out) == (2, True), out
    code, out, _ = command("inspect", files / "clean.npz")
    assert (code, "an .npz file, which is data" in out) == (2, True), out
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["X_test"] = np.zeros((3, 4, 4, 1))
    code, out, _ = command("inspect", tmp_path / "d.h5")
    assert (code, "a data file without a Keras model (X_test (3, 4, 4, 1))" in out) == (2, True)
    load_model(files / "twin.h5").model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras", "a") as archive:
        archive.writestr(".DS_Store", b"x")
        archive.writestr("__MACOSX/._config.json", b"x")
    assert command("inspect", tmp_path / "m.keras")[0] == 0
