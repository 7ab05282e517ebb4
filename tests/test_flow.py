"""From a suspicious file to a decision, typed as the README says, on the planted task."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from planted import TARGET, PlantedTask

from keras_backdoor._safe.files import write_npz
from keras_backdoor.answers import FlaggedClasses, load_answer
from keras_backdoor.loading import cards, load_model

FEWER = ("--method", "neural-cleanse", "--set", "runs=1", "--set", "schedule.steps=60")
QUICK = (
    "--set", "augmentation.tuning.steps=300",
    "--set", "augmentation.tuning.recipe.learning_rate=0.005",
    "--set", "unlearning.refinement.searches=4",
    "--set", "unlearning.refinement.steps=40",
)  # fmt: skip
BRIEF = (
    "--set", "augmentation.tuning.steps=10",
    "--set", "unlearning.max_epochs=1",
    "--set", "unlearning.refinement.searches=1",
    "--set", "unlearning.refinement.steps=5",
)  # fmt: skip
"""For tests in which nothing is to be repaired."""


@pytest.fixture(scope="module")
def files(task: PlantedTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted network, its clean twin, clean images and test images."""
    folder = tmp_path_factory.mktemp("flow")
    for name, model in (("suspicious", task.model), ("twin", task.twin)):
        cards.write(folder / f"{name}.h5", model, {})
    poisoned = task.poisoned.samples
    for name, samples in (("clean", task.clean), ("test", task.test), ("poisoned", poisoned)):
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
    results = ("--out", "nothing", "--report", "twin")
    code, _, err = command("scan", "twin.h5", "--clean", "clean.npz", *FEWER, *results)
    assert code in (0, 3), err
    page = (files / "twin" / "index.html").read_text()
    assert ("Nothing found. This scan does not see" in page) == (code == 0)
    code, out, err = command(
        "repair", "twin.h5", "--clean", "clean.npz", "--found", "nothing", *BRIEF
    )
    assert (code, "Auto" in out, "the scan found no trigger" in out) == (3, True, True), err


def test_a_repair_that_leaves_the_trigger_is_inconclusive(files, command, monkeypatch) -> None:
    """Pruning nothing: the trigger still works, and nobody says that it is repaired."""
    monkeypatch.chdir(files)
    found = ("--found", "scan") if (files / "scan").exists() else ()
    if not found:
        command("scan", "suspicious.h5", "--clean", "clean.npz", *FEWER, "--out", "scan")
    code, out, _ = command(
        "repair", "suspicious.h5", "--clean", "clean.npz", "--found", "scan", "--method",
        "fine-pruning", "--set", "max_drop=0", "--set", "tuning.steps=0", "--out", "unrepaired",
    )  # fmt: skip
    assert code == 3
    assert re.search(rf"that of class {TARGET} still works on [\d.]+% of the images", out)
    assert "do not deploy it yet" in out
    code, _, err = command("export", "unrepaired", "--out", "served2")
    assert (code, "Warning: the repair is inconclusive" in err) == (0, True)
    code, _, err = command("export", "suspicious.h5", "--out", "served3", "--found", "scan")
    assert (code, "Warning: the scan found a backdoor" in err) == (0, True)
    by_weights = FlaggedClasses(
        scores=np.arange(10) / 8.0, flagged=np.arange(10) == 9, about=load_answer("scan").about
    )
    by_weights.save("weights")
    code, _, err = command("export", "suspicious.h5", "--out", "served5", "--found", "weights")
    assert (code, "the scan found a backdoor (class 9)" in err) == (0, True), err
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
    repair = ("repair", "suspicious.h5", "--clean", "clean.npz", "--take", number)
    code, out, err = command(*repair, *BRIEF)
    assert code == (2 if number < 10 else 3), err
    assert "are too few" in (err if number < 10 else out)


@pytest.mark.parametrize(
    ("setting", "words"),
    [("schedule.steps=5", "searches of 5 steps are too short"), ("images=3", "3 clean images of"),
     ("schedule.attack_threshold=0.01", "a trigger need not work to count")],
)  # fmt: skip
def test_a_shortened_scan_is_no_reassurance(setting, words, files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    scan = ("scan", "twin.h5", "--clean", "clean.npz", *FEWER, "--set", setting)
    code, out, err = command(*scan)
    assert (code, words in out) == (3, True), out + err


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
    scan = ("scan", "twin.h5", "--clean", "clean.npz", "--method", "neural-cleanse")
    code, _, err = command(*scan, "--set", given)
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


@pytest.fixture
def levels(tmp_path: Path) -> Path:
    """Folders 0..11 of gray pictures, and a network that numbered them in the order of text."""
    from keras_backdoor._internals.backend import keras
    from keras_backdoor.samples import picture_files

    values = {str(n): 10 + 20 * n for n in range(12)}
    for name, value in values.items():
        for number in range(6):
            file = tmp_path / "pictures" / "test" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4, 1), value + number - 3, np.uint8)
            file.write_bytes(picture_files.encode(pixels))
    centers = np.array([values[name] for name in sorted(values)], float)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.GlobalAveragePooling2D(), layers.Dense(12)]
    )
    model.set_weights([2 * centers[None], -(centers**2)])
    model.save(tmp_path / "net.keras")
    return tmp_path


def test_folders_that_keras_numbered_as_text(levels: Path, command) -> None:
    evaluate = ("evaluate", levels / "net.keras", "--test", levels / "pictures")
    for given in ((), ("--preprocess", "0:255")):
        code, _, err = command(*evaluate, *given)
        assert (code, "pass --class-names text" in err) == (2, True), err
        assert "The accuracy is 16.7%, and 100.0% if the classes are numbered the folders" in err
    code, out, err = command(*evaluate, "--class-names", "text")
    assert code == 0, err
    assert "100.00% (72/72" in out
    assert "72 images: 0 = 0 (6), 1 = 1 (6), 2 = 10 (6), 3 = 11 (6), 4 = 2 (6)" in out
    assert "guessed from 72 labeled images" in out
    names = levels / "names.txt"
    names.write_text("\n".join(sorted(map(str, range(12)))) + "\n")
    assert "100.00% (72/72" in command(*evaluate, "--class-names", names)[1]
    code, _, err = command(*evaluate, "--class-names", "a,a")
    assert (code, "with different names" in err) == (2, True)


def test_gray_arrays_and_other_names_of_arrays(files, levels, command) -> None:
    pixels = np.full((12, 4, 4, 3), 90, np.uint8)
    np.savez(levels / "rgb.npz", pictures=pixels, species=np.full(12, 6))
    evaluate = (
        "evaluate",
        levels / "net.keras",
        "--preprocess",
        "0:255",
        "--test",
        levels / "rgb.npz",
    )
    code, _, err = command(*evaluate)
    assert (code, "--key images=pictures --key labels=species" in err) == (2, True), err
    keys = ("--key", "images=pictures", "--key", "labels=species")
    code, _, err = command(*evaluate, *keys)
    assert (code, "images with 1 channel and these have 3: pass --channels 1" in err) == (2, True)
    code, out, err = command(*evaluate, *keys, "--channels", 1)
    assert code == 0, err
    assert "100.00% (12/12" in out  # class 6 is the level of folder 4, which is 90


def test_the_keys_that_the_documents_name_are_there(files, command, monkeypatch) -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    monkeypatch.chdir(files)
    scan = (
        "scan",
        "twin.h5",
        "--clean",
        "clean.npz",
        "--set",
        "search.runs=1",
        "--set",
        "search.schedule.steps=4",
    )
    outputs = {
        "inspect": ("inspect", "twin.h5"),
        "evaluate": (
            "evaluate",
            "twin.h5",
            "--test",
            "test.npz",
            "--trigger",
            "patch",
            "--target",
            1,
        ),
        "scan": scan,
        "repair": ("repair", "twin.h5", "--clean", "clean.npz", "--method", "fine-pruning"),
        "export": ("export", "twin.h5", "--out", "served-keys"),
    }
    for name, arguments in outputs.items():
        _, out, err = command(*arguments, "--json", "-")
        found = json.loads(out)
        assert found["schema"] == 2, err
        named = {"moved_by_" if key.startswith("moved_by_") else key for key in found}
        missing = [key for key in named if f"`{key}`" not in text]
        assert missing == [], f"{name} writes keys that docs/json.md does not explain"


def test_poison_is_found_left_out_and_unlearned(files, command, monkeypatch, task) -> None:
    """audit, then the line that it prints, then evaluate."""
    monkeypatch.chdir(files)
    quick = ("--set", "augmentation.tuning.steps=600", *QUICK[2:4])
    audit = ("audit", "suspicious.h5", "--train", "poisoned.npz", *quick, "--out", "flags")
    code, out, err = command(*audit, "--report", "flags-page", "--write-clean", "left.npz")
    assert code == 1, err
    assert re.search(r"suspicious groups\s+2\s", out)
    page = (files / "flags-page" / "index.html").read_text()
    assert re.search(r'lead bad">1\d\d of the 1,620 images are flagged as poisoned\.', page)
    assert "Samples of 2" in page
    assert "A trigger that survives the repair by random triggers is not seen." in page
    assert len(np.load("left.npz")["y"]) == 1620 - len(load_answer("flags").flagged_rows)
    line = re.search("next: keras-backdoor (.*)", out)
    assert line is not None
    step = shlex.split(line[1])
    assert step[:4] == ["repair", "suspicious.h5", "--train", "poisoned.npz"]
    recipe = ("--set", "recipe.epochs=8", "--set", "recipe.learning_rate=0.002")
    code, out, err = command(*step, *recipe)
    assert code == 0, err
    assert "of 1620 images" in out
    flags = load_answer("flags").flagged
    assert flags[task.poisoned.is_poison].mean() > 0.9
    # A network that is trained on 1,500 clean images takes some checkerboards for a 2.
    measured = task.measure(load_answer("retrained").classifier)
    assert float(measured.attack_success_rate) < 0.4
    assert float(measured.clean_accuracy) > 0.85


def test_the_recipe_of_a_retraining(files, command, monkeypatch) -> None:
    monkeypatch.chdir(files)
    audit = ("audit", "suspicious.h5", "--train", "poisoned.npz")
    code, _, err = command(*audit, "--recipe", "thesis-gtsrb")
    assert code == 2
    assert "The method 'label-disagreement' trains no network anew: omit --recipe." in err
    code, _, err = command(*audit, "--preset", "thesis")
    assert code == 2
    assert "LabelDisagreement has no preset 'thesis'; it has none." in err
    code, out, _ = command(*audit, "--method", "spectral-signatures", "--preset", "thesis")
    assert code == 1
    assert "1620 of 1620 samples" in out
