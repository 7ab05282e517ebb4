"""Studies: a cell is computed once, written at once, and found again after a kill."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from keras_backdoor import reports, studies
from keras_backdoor._internals import discovery
from keras_backdoor._safe.files import sha256, write_json
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.errors import MissingPackage
from keras_backdoor.studies._engine import cards, executors
from keras_backdoor.studies._engine.results import load_results
from keras_backdoor.studies._engine.worker import Task, work
from keras_backdoor.studies._engine.workspace import Workspace, default_cache
from keras_backdoor.studies.base import Cell, load_study

TOY = '''
from __future__ import annotations
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import Rate
from keras_backdoor.progress import track
from keras_backdoor.studies.base import Cell, Study

LOG = Path(os.environ["TOY_LOG"])


@dataclass(frozen=True)
class Anything:
    n: int = 0


class Toy(Study):
    """Squares."""

    title = "Squares"
    paper = "Euclid"
    columns = {"square": "its square", "share": "share", "twice": "twice"}

    def cells(self):
        return [Cell(f"n={n}", {"n": n, "kind": KIND.get(n, "")}, {"square": n * n}) for n in range(5)]

    def compute(self, cell, workspace):
        n, kind = cell.given["n"], cell.given["kind"]
        with LOG.open("a") as log:
            log.write(f"{n}\\n")
        for _ in track(range(3), "steps"):
            time.sleep(0.02)
        if kind == "dies once" and LOG.read_text().split().count(str(n)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "fails":
            raise BadInput("three is no number here.")
        if kind == "breaks":
            raise ZeroDivisionError("a fault of the study")
        if kind == "slow":
            time.sleep(60)
        if kind == "talks":
            os.write(1, b"hello\\n")
        return {"square": n * n, "share": Rate(n, 5)}

    def derive(self, figures):
        for found in figures.values():
            found["twice"] = 2 * found["square"]
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a study of five cells, some of them with a mind of their own."""
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    (tmp_path / "log").touch()

    def write(**kind: str) -> str:
        known = {int(name.removeprefix("n")): value for name, value in kind.items()}
        path = tmp_path / "toy.py"
        path.write_text(TOY + f"\n\nKIND = {known}\n")
        return str(path)

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(cache=tmp_path / "cache")


def computed(tmp_path: Path) -> list[int]:
    return sorted(map(int, (tmp_path / "log").read_text().split()))


def squares(results) -> dict[str, int]:
    return {name: found["square"] for name, found in results.figures().items()}


ALL = {f"n={n}": n * n for n in range(5)}


def test_a_cell_is_computed_once(toy, workspace, tmp_path: Path) -> None:
    name, out = toy(), tmp_path / "out.json"
    first = studies.run(name, workspace=workspace, out=out, only=["n=1", "n=3"], jobs=2)
    assert squares(first) == {"n=1": 1, "n=3": 9}
    assert first.missing == ["n=0", "n=2", "n=4"]
    second = studies.run(name, workspace=workspace, out=out, jobs=2)
    assert squares(second) == ALL
    assert computed(tmp_path) == [0, 1, 2, 3, 4]
    stored = load_results(out)
    assert stored.figures() == second.figures()
    assert stored.about["command"] == f"keras-backdoor study {name}"
    assert stored.cells[3]["published"] == {"square": 9}
    assert stored.cells[3]["figures"]["share"] == {
        "share": 0.6, "hits": 3, "of": 5, "interval": pytest.approx([0.231, 0.882], abs=1e-3),
    }  # fmt: skip
    assert stored.cells[3]["figures"]["twice"] == 18


def test_a_table_shows_the_published_figures(toy, workspace) -> None:
    results = studies.run(toy(), workspace=workspace, only=["n=3"])
    assert results.table() == [
        ("", "its square", "published", "share", "twice"),
        ("n=3", "9", "9", "60.00 (23.1 to 88.2)", "18"),
    ]
    assert results.table(compact=True)[1] == ("n=3", "9 (9)", "60.00", "18")
    page = reports.page_of(results)
    assert "Euclid" in page.html()
    assert "60.00 (23.1 to 88.2)" in page.markdown()


def test_other_settings_or_data_are_other_cells(toy, workspace, tmp_path: Path) -> None:
    studies.run(toy(), workspace=workspace, only=["n=1"])
    studies.run(toy(n1="other"), workspace=workspace, only=["n=1"])
    assert computed(tmp_path) == [1, 1]
    study = load_study(toy())
    assert study.key(study.cells()[0], workspace) != study.key(study.cells()[1], workspace)
    smoke = load_study(toy(), "smoke")
    assert study.key(study.cells()[0], workspace) != smoke.key(smoke.cells()[0], workspace)


@pytest.mark.parametrize("executor", ["local", "ray"])
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_loses_nothing(executor, toy, workspace, tmp_path: Path) -> None:
    name, out = toy(n0="dies", n1="breaks", n2="dies once", n3="fails"), tmp_path / "out.json"
    results = studies.run(name, workspace=workspace, jobs=2, executor=executor, out=out)
    assert squares(results) == {"n=2": 4, "n=4": 16}
    assert computed(tmp_path) == [0] * (1 + executors.RETRIES) + [1, 2, 2, 3, 4]
    errors = {c["name"]: c["error"] for c in load_results(out).cells if "error" in c}
    assert set(errors) == {"n=0", "n=1", "n=3"}
    assert "a fault of the study" in errors["n=1"]
    assert errors["n=3"] == "three is no number here."


def working() -> list[str]:
    """The workers of this machine that are in the middle of a toy study."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            about = (path / "environ").read_bytes()
            if b"keras_backdoor.studies._engine.worker" in words and b"TOY_LOG=" in about:
                found.append(path.name)
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_goes_on(how, toy, workspace, tmp_path: Path) -> None:
    name = toy(n4="slow")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in background
        "from pathlib import Path; from keras_backdoor import studies\n"
        "from keras_backdoor.studies._engine.workspace import Workspace\n"
        f"studies.run({name!r}, workspace=Workspace(cache=Path({str(workspace.cache)!r})), jobs=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while 4 not in computed(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(timeout=30) != 0
    deadline = time.monotonic() + 20
    while working():  # the worker ends with the process that started it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    results = studies.run(name, workspace=workspace, only=["n=0", "n=1", "n=2", "n=3"])
    assert len(squares(results)) == 4
    assert computed(tmp_path) == [0, 1, 2, 3, 4]


def test_earlier_results_stand_in_for_a_lost_cache(toy, workspace, tmp_path: Path) -> None:
    name, out = toy(), tmp_path / "out.json"
    studies.run(name, workspace=workspace, out=out, only=["n=1"])
    lost = Workspace(cache=tmp_path / "empty")
    results = studies.run(name, workspace=lost, known=out, only=["n=1", "n=2"])
    assert squares(results) == {"n=1": 1, "n=2": 4}
    assert computed(tmp_path) == [1, 2]
    assert results.cells[1]["made_with"]["keras"]
    write_json(out, {"study": "another", "scale": "full", "columns": {}, "cells": []})
    with pytest.raises(ValueError, match="results of another study or scale"):
        studies.run(name, workspace=lost, known=out)


def test_collected_cells_are_not_lost(toy, workspace, tmp_path: Path) -> None:
    name, out, lost = toy(), tmp_path / "out.json", Workspace(cache=tmp_path / "empty")
    studies.run(name, workspace=workspace, out=out)
    results = studies.run(name, workspace=lost, out=out, only=["n=1"])
    assert squares(results) == ALL
    assert len(computed(tmp_path)) == 5
    studies.run(name, workspace=lost, out=out, only=["n=1"], again=True)
    assert computed(tmp_path) == [0, 1, 1, 2, 3, 4]
    assert squares(load_results(out)) == ALL
    before = out.read_text()
    with pytest.raises(ValueError, match="has 5 finished cells of other settings or data"):
        studies.run(toy(n1="changed"), workspace=workspace, out=out)
    assert out.read_text() == before


def test_a_failed_start_leaves_the_results_alone(toy, workspace, tmp_path: Path) -> None:
    name, out = toy(), tmp_path / "out.json"
    studies.run(name, workspace=workspace, out=out, only=["n=1"])
    before = out.read_text()
    with pytest.raises(ValueError, match="No Ray cluster"):
        studies.run(name, workspace=workspace, out=out, executor="ray", address="127.0.0.1:9")
    assert out.read_text() == before


def test_what_a_cell_prints_is_not_read_as_its_answer(toy, workspace) -> None:
    assert squares(studies.run(toy(n1="talks"), workspace=workspace, only=["n=1"])) == {"n=1": 1}


def test_a_study_that_changes_meanwhile_is_noticed(toy, workspace, tmp_path: Path) -> None:
    study = load_study(toy())
    cell = study.cells()[1]
    task = Task(
        str(tmp_path / "toy.py"),
        "full",
        cell.name,
        study.key(cell, workspace),
        (),
        str(workspace.cache),
    )
    toy(n1="other")
    assert "has changed since the run began" in work(task)["error"]
    assert not task.path.exists()


def test_a_study_file_of_ones_own_keeps_to_itself(toy, workspace, tmp_path: Path) -> None:
    first = load_study(toy())
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "toy.py"
    copy.write_text((tmp_path / "toy.py").read_text() + "# another\n")
    second = load_study(str(copy))
    assert first.key(first.cells()[0], workspace) != second.key(second.cells()[0], workspace)
    taken = tmp_path / "thesis_badnets.py"
    taken.write_text(copy.read_text())
    with pytest.raises(ValueError, match="has the name of a study of this package"):
        load_study(str(taken))
    copy.write_text("def broken(:\n")
    with pytest.raises(ValueError, match="toy.py, line 1: SyntaxError"):
        load_study(str(copy))


def test_the_kind_of_what_is_given_counts(workspace) -> None:
    @dataclass(frozen=True)
    class Mean:
        rate: float = 0.5

    @dataclass(frozen=True)
    class Median:
        rate: float = 0.5

    settings = [Cell("a", {"rule": kind()}).settings for kind in (Mean, Median)]
    assert settings[0] != settings[1]


def test_another_revision_of_a_method_is_another_cell(monkeypatch) -> None:
    cell = Cell("a", {"method": FinePruning()})
    before = cell.settings
    monkeypatch.setattr(FinePruning, "revision", FinePruning.revision + 1)
    assert cell.settings != before


def test_an_unusable_cache_is_said_before_the_work(toy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        studies.run(toy(), workspace=Workspace(cache=tmp_path / "file" / "cache"))
    assert computed(tmp_path) == []


def test_results_of_another_study_are_not_replaced(toy, workspace, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    write_json(out, {"study": "another", "scale": "full"})
    with pytest.raises(ValueError, match="exists already; pass force=True"):
        studies.run(toy(), workspace=workspace, out=out)
    assert computed(tmp_path) == []
    studies.run(toy(), workspace=workspace, out=out, only=["n=0"], force=True)
    assert load_results(out).figures()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "jobs must be 1 or more"),
        ({"executor": "slurm"}, "executor must be local or ray"),
        ({"address": "10.0.0.1:6379"}, "pass executor ray"),
        ({"scale": "tiny"}, "scale must be full or smoke"),
        ({"only": ["n=9"]}, "No cell's name contains n=9; the cells: n=0, n=1"),
        ({"only": ["n=1", "n=9"]}, "No cell's name contains n=9"),
        ({"executor": "ray", "address": "x:1", "jobs": 2}, "--jobs is for this machine|No Ray"),
        ({"known": Path("nowhere.json")}, "There is no results file at nowhere.json"),
    ],
)
def test_bad_requests_are_one_sentence(changes, message, toy, workspace) -> None:
    with pytest.raises(ValueError, match=message):
        studies.run(toy(), workspace=workspace, **changes)


def test_a_file_without_a_study_is_refused(tmp_path: Path, workspace) -> None:
    with pytest.raises(ValueError, match="There is no 'nope' among the studies; known: "):
        studies.run("nope", workspace=workspace)
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="must define exactly one Study. Found: 0"):
        studies.run(str(tmp_path / "empty.py"), workspace=workspace)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="does not contain the results of a study"):
        load_results(tmp_path / "other.json")


def test_ray_is_one_helpful_sentence_where_it_is_missing(toy, workspace, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r"pip install 'keras-backdoor\[ray\]'"):
        studies.run(toy(), workspace=workspace, executor="ray")


def test_an_address_without_a_cluster_is_one_sentence(toy, workspace) -> None:
    with pytest.raises(ValueError, match="No Ray cluster could be reached at 127.0.0.1:9"):
        studies.run(toy(), workspace=workspace, executor="ray", address="127.0.0.1:9")


def test_missing_data_says_where_to_put_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERAS_BACKDOOR_DATA", raising=False)
    with pytest.raises(ValueError, match=r"needs gtsrb_dataset_int.h5, .*pass data DIR"):
        studies.run("thesis-badnets", workspace=Workspace(cache=tmp_path))


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKDOOR_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("KERAS_BACKDOOR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "keras_backdoor"


def test_a_damaged_cell_is_computed_again(toy, workspace, tmp_path: Path) -> None:
    studies.run(toy(), workspace=workspace, only=["n=1"])
    (path,) = (workspace.cache / "cells").glob("*.json")
    path.write_text("{")
    assert squares(studies.run(toy(), workspace=workspace, only=["n=1"])) == {"n=1": 1}
    assert computed(tmp_path) == [1, 1]


def test_the_command_runs_lists_and_reports(toy, tmp_path: Path, command, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKDOOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("study")
    assert (code, "thesis-badnets" in out, "development-zoo" in out) == (0, True, True)
    name = toy(n3="fails")
    code, out, err = command("study", name, "--only", "n=2", "--report", "page")
    assert (code, "Error" in err) == (0, False)
    assert "toy: n=2: " in err
    assert "4 (4)" in out
    assert "4 of 5 cells" in out
    assert "Squares" in (tmp_path / "page" / "index.html").read_text()
    assert json.loads((tmp_path / "results" / "toy.json").read_text())["study"] == "toy"
    code, out, _ = command("study", name, "--cells")
    assert (code, out.count("finished")) == (0, 1)
    code, _, err = command("study", name)
    assert (code, "n=3: three is no number here." in err) == (2, True)
    code, _, err = command("study", name, "--only", "n=2", "--models", "models")
    assert (code, "has no models to save" in err) == (2, True)
    code, _, err = command("study", name, "--data", "nowhere")
    assert (code, "There is no folder with data at nowhere" in err) == (2, True)
    code, out, _ = command("study", "--help")
    assert "[number of cores]" in " ".join(out.split())


class TestEveryStudy:
    """The contract: found by its file name, its cells can be told apart."""

    @pytest.mark.parametrize("key", discovery.keys("studies"))
    @pytest.mark.parametrize("scale", ["full", "smoke"])
    def test_cells(self, key: str, scale: str) -> None:
        study = load_study(key, scale)
        names = [c.name for c in study.cells()]
        assert len(set(names)) == len(names) > 0
        assert study.title and study.paper and study.columns
        assert study.files or study.unfinished  # data that is not public belongs to single cells
        for cell in study.cells():
            json.dumps(cell.settings)
            assert set(cell.published) <= set(study.columns)

    @pytest.mark.parametrize("key", discovery.keys("studies"))
    def test_its_results_are_committed_whole(self, key: str) -> None:
        path = ROOT / "results" / f"{key}.json"
        if load_study(key).unfinished and not path.exists():
            pytest.skip("unfinished, as the study itself says")
        results, study = load_results(path), load_study(key)
        assert results.about["scale"] == "full"
        assert results.missing == [] or study.unfinished
        assert results.columns == dict(study.columns)

        class Measured(Workspace):
            """The data that the figures are from."""

            def digest(self, name: str) -> str:
                return results.about["data"][name]

        for cell, stored in zip(study.cells(), results.cells, strict=True):
            assert stored["name"] == cell.name
            assert stored["key"] == study.key(cell, Measured())
            assert stored["settings"] == json.loads(json.dumps(cell.settings))
            assert stored["published"] == cell.published


def test_a_worker_says_what_it_does(toy, workspace, tmp_path: Path) -> None:
    name = toy()
    study = load_study(name)
    task = Task(
        name, "full", "n=2", study.key(study.cells()[2], workspace), (), str(workspace.cache)
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "keras_backdoor.studies._engine.worker"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        process.stdin.write(json.dumps(vars(task)) + "\n")
        process.stdin.flush()
        lines = [json.loads(line) for line in process.stdout]
    assert lines[0]["progress"][0] == "steps"
    assert lines[-1]["outcome"]["figures"]["square"] == 4


def test_the_thesis_at_small_scale(
    small_signs: Workspace, tmp_path: Path, monkeypatch, in_this_process
) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")  # the card says it
    only = ["figure 4.2", "clean", "bigger, seed 0", "pruning-aware"]
    results = studies.run("thesis-badnets", scale="smoke", workspace=small_signs, only=only)
    figures = results.figures()
    assert [c["error"] for c in results.cells if "error" in c] == []
    assert len(figures["figure 4.2"]["pictures"]) == 6
    first, aware = (
        figures["yellowSquare-bigger, seed 0"],
        figures["yellowSquare-bigger, pruning-aware"],
    )
    assert first["poisoned"] == 20
    assert first["attack_success_rate"]["of"] == (np.arange(600) % 43 == 8)[chosen(600, 500)].sum()
    assert first["attack_on_others"]["of"] > 400
    assert first["control"] == figures["clean"]["controls"]["yellow-square"]
    assert {"pruned", "attack_after_pruning"} <= set(first) & set(aware)
    assert "dormant" in aware
    study = load_study("thesis-badnets", "smoke")
    with pytest.raises(ValueError, match="saved at full scale only"):
        cards.keep(study, results, small_signs, tmp_path)
    first_only = {k: v for k, v in study.networks().items() if "bigger" in k}
    monkeypatch.setattr(type(study), "networks", lambda self: first_only)
    vars(study)["scale"] = "full"
    kept = cards.keep(study, results, small_signs, tmp_path)
    assert [p.name for p in kept] == ["gtsrb_yellowSquare_bigger.h5"]
    card = json.loads(kept[0].with_suffix(".json").read_text())
    assert card["figures"]["test"]["attack_success_rate"] == first["attack_success_rate"]
    assert (card["threads"], card["resumed"]) == ("1", False)
    assert card["sha256"] == sha256(kept[0]) == first["model_sha256"]
    with pytest.raises(ValueError, match="exists already; pass force=True"):
        cards.keep(study, results, small_signs, tmp_path)
    elsewhere = Workspace(data=small_signs.data, cache=tmp_path / "empty")
    with pytest.raises(ValueError, match="is not in the cache: run the study with again"):
        cards.keep(study, results, elsewhere, tmp_path / "models")
    del first["control"]
    with pytest.raises(ValueError, match="lacks control: run the whole study"):
        cards.keep(study, results, small_signs, tmp_path / "models")


def chosen(of: int, number: int) -> np.ndarray:
    """Rows that `Samples.take` draws with seed 0."""
    return np.sort(np.random.default_rng(0).choice(of, number, replace=False))


def test_a_network_is_trained_once(small_signs: Workspace, monkeypatch) -> None:
    from keras_backdoor import training
    from keras_backdoor.studies._networks import network_store

    cell = next(c for c in load_study("thesis-badnets", "smoke").cells() if c.name == "clean")
    net = cell.given["net"]
    first = network_store.obtain(net, small_signs)
    monkeypatch.setattr(training, "fit", None)
    again = network_store.obtain(net, small_signs)
    assert again.path == first.path
    assert again.card["sha256"] == again.classifier.sha256()
    rest, tuning = net.clean_data(small_signs)
    assert len(rest) + len(tuning) == 1000
    assert not {*zip(rest.labels, rest.track, strict=True)} & {
        *zip(tuning.labels, tuning.track, strict=True)
    }


def test_a_killed_training_of_a_network_goes_on(small_signs, tmp_path, monkeypatch) -> None:
    from keras_backdoor import training
    from keras_backdoor.studies._networks import network_store

    cells = load_study("thesis-badnets", "smoke").cells()
    net = next(c for c in cells if c.name == "clean").given["net"]
    net = replace(net, take=300, recipe=replace(net.recipe, epochs=3))
    workspace = Workspace(data=small_signs.data, cache=tmp_path / "cache")
    store, epochs = training._store, []

    def counting(*arguments) -> None:
        store(*arguments)
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_store", counting)
    with pytest.raises(KeyboardInterrupt):
        network_store.obtain(net, workspace)
    trained = network_store.obtain(net, workspace)
    assert len(epochs) == 3
    assert trained.card["resumed"]
    assert [p.name for p in trained.path.parent.glob("*checkpoint*")] == []


def test_another_version_of_the_training_is_another_cell(small_signs, monkeypatch) -> None:
    from keras_backdoor.studies._networks import network_store

    study = load_study("thesis-badnets", "smoke")
    cell = next(c for c in study.cells() if c.name == "clean")
    before = study.key(cell, small_signs)
    monkeypatch.setattr(network_store, "VERSION", network_store.VERSION + 1)
    assert study.key(cell, small_signs) != before


def test_a_network_of_models_is_not_trained_again(small_signs, tmp_path, monkeypatch) -> None:
    import shutil

    from keras_backdoor import bundled
    from keras_backdoor.studies._networks import network_store

    net = next(c for c in load_study("thesis-badnets", "smoke").cells() if c.name == "clean").given[
        "net"
    ]
    trained = network_store.obtain(net, small_signs)
    for suffix in (".h5", ".json"):
        shutil.copy(trained.path.with_suffix(suffix), tmp_path / f"kept{suffix}")
    (tmp_path / "mnist_badnet.h5").touch()
    monkeypatch.setattr(bundled, "path", lambda name: tmp_path / "mnist_badnet.h5")
    elsewhere = Workspace(data=small_signs.data, cache=tmp_path / "cache")
    assert network_store.obtain(net, elsewhere).path == tmp_path / "kept.h5"


def test_a_compressed_network_is_unpacked_into_the_cache(tmp_path, monkeypatch) -> None:
    from keras_backdoor import training
    from keras_backdoor.studies._networks import network_store
    from keras_backdoor.studies.development_zoo import DevelopmentZoo

    monkeypatch.setattr(training, "fit", None)
    net, workspace = DevelopmentZoo().nets()["digits, clean 0"], Workspace(cache=tmp_path / "cache")
    trained = network_store.obtain(net, workspace)
    figures = load_results(ROOT / "results" / "development_zoo.json").figures()
    assert trained.classifier.sha256() == figures["digits, clean 0"]["model_sha256"]
    assert trained.card["net"] == net.key(workspace)
    assert trained.path.is_relative_to(workspace.cache)
    monkeypatch.setattr(network_store, "_unpack", None)
    assert network_store.obtain(net, workspace).path == trained.path


def test_the_zoo_is_wide_enough() -> None:
    from keras_backdoor.studies.development_zoo import DevelopmentZoo

    nets = DevelopmentZoo().nets()
    attacks = [net.attack for net in nets.values() if net.attack]
    assert len(nets) - len(attacks) >= 12
    assert len(attacks) >= 12
    assert len({a.trigger for a in attacks}) == len(attacks)
    assert sum(a.source is not None for a in attacks) >= 4
    judged = {"gtsrb_dataset_int.h5": {33, 14}, "mnist.npz": {7}}
    targets = [(net.data, net.attack.target) for net in nets.values() if net.attack]
    assert not [target for data, target in targets if target in judged[data]]
    assert {net.data for net in nets.values()} == {"gtsrb_dataset_int.h5", "mnist.npz"}
    assert min(net.recipe.seed for net in nets.values()) >= 100


def test_the_thesis_grid_has_its_counts() -> None:
    cells = load_study("thesis-badnets").cells()
    counts = {c.name: c.given["net"].attack.count for c in cells if c.name.endswith("seed 0")}
    assert list(counts.values()) == [52, 14, 44, 258, 258, 29]
    assert sum(c.name.startswith("A.2") for c in cells) == 13
    assert sum("seed 1" in c.name or "seed 2" in c.name for c in cells) == 4


def test_the_revision_of_a_nested_method_is_part_of_a_cell(monkeypatch) -> None:
    from keras_backdoor.defenses.auto import Auto
    from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation

    cell = Cell("repaired", {"method": Auto()})
    before = cell.settings["method"]
    monkeypatch.setattr(TriggerAugmentation, "revision", TriggerAugmentation.revision + 1)
    after = cell.settings["method"]
    assert after["augmentation"]["revision"] == before["augmentation"]["revision"] + 1
    assert after["unlearning"] == before["unlearning"]
