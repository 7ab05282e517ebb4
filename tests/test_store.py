"""An object store that machines share: data files, finished cells and networks."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from test_studies import TOY, computed, squares, toy  # noqa: F401
from typer.testing import CliRunner

from keras_backdoor import studies
from keras_backdoor.commands.app import app
from keras_backdoor.errors import BadInput, MissingPackage
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine import executors
from keras_backdoor.studies._engine.store import Store
from keras_backdoor.studies._engine.worker import Task, work
from keras_backdoor.studies._engine.workspace import Workspace, default_cache, default_store
from keras_backdoor.studies._networks import network_store
from keras_backdoor.studies._networks.network_store import Net
from keras_backdoor.studies.base import load_study
from keras_backdoor.training import Recipe


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store that is a folder, which fsspec opens as it opens S3."""
    return f"file://{tmp_path / 'bucket' / 'prefix'}"


def machine(tmp_path: Path, name: str, url: str, data: tuple[str, ...] = ()) -> Workspace:
    return Workspace(data, tmp_path / name, url)


def test_files_of_a_store(url: str, tmp_path: Path) -> None:
    store, local = Store(url), tmp_path / "one.txt"
    local.write_text("content")
    assert not store.has("cells/one.txt")
    assert not store.fetch("cells/one.txt", tmp_path / "two.txt")
    store.send(local, "cells/one.txt")
    assert store.has("cells/one.txt")
    assert store.fetch("cells/one.txt", tmp_path / "new" / "two.txt")
    assert (tmp_path / "new" / "two.txt").read_text() == "content"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["two.txt"]


def test_machines_share_finished_cells(toy, url: str, tmp_path: Path) -> None:  # noqa: F811
    name = toy()
    first, second = (machine(tmp_path, n, url) for n in ("first", "second"))
    studies.run(name, workspace=first, only=["n=1", "n=2"], jobs=2)
    results = studies.run(name, workspace=second, only=["n=1", "n=2", "n=3"], jobs=2)
    assert squares(results) == {"n=1": 1, "n=2": 4, "n=3": 9}
    assert computed(tmp_path) == [1, 2, 3]
    alone = Workspace(cache=tmp_path / "alone")
    assert squares(studies.run(name, workspace=alone, only=["n=1"])) == {"n=1": 1}
    assert computed(tmp_path) == [1, 1, 2, 3]


def test_what_was_not_sent_is_sent_later(toy, url: str, tmp_path: Path) -> None:  # noqa: F811
    name, alone = toy(), Workspace(cache=tmp_path / "first")
    studies.run(name, workspace=alone, only=["n=1"])
    studies.run(name, workspace=machine(tmp_path, "first", url), only=["n=1"])
    results = studies.run(name, workspace=machine(tmp_path, "second", url), only=["n=1"])
    assert squares(results) == {"n=1": 1}
    assert computed(tmp_path) == [1]


def test_folders_of_the_driver_may_be_missing_on_a_machine(toy, tmp_path: Path) -> None:  # noqa: F811
    name = toy()
    study = load_study(name)
    key = study.key(study.cells()[1], Workspace(cache=tmp_path))
    outcome = work(Task(name, "full", "n=1", key, ("/nowhere/data",), str(tmp_path / "cache")))
    assert outcome["figures"]["square"] == 1


def test_machines_share_networks(url: str, tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    few = Samples(rng.integers(0, 256, (8, 28, 28, 1)).astype(np.uint8), np.arange(8) % 2)
    net = Net("mnist.npz", "badnet_mnist", Recipe(epochs=1))
    monkeypatch.setattr(Net, "clean_data", lambda self, workspace: (few, few))
    first, second = (machine(tmp_path, n, url) for n in ("first", "second"))
    trained = network_store.obtain(net, first)
    monkeypatch.setattr(Net, "fit", lambda *a: pytest.fail("trained again"))
    found = network_store.obtain(net, second)
    assert found.path.is_relative_to(tmp_path / "second")
    assert found.card == trained.card
    np.testing.assert_array_equal(
        found.classifier.model.get_weights()[0], trained.classifier.model.get_weights()[0]
    )
    third = machine(tmp_path, "third", url)
    card = json.loads(
        (tmp_path / "bucket/prefix/nets" / found.path.name).with_suffix(".json").read_text()
    )
    local = tmp_path / "card.json"
    local.write_text(json.dumps({**card, "sha256": "of another network"}))
    Store(url).send(local, f"nets/{found.path.stem}.json")
    assert network_store.find(net, third) is None
    other = replace(net, recipe=Recipe(epochs=1, seed=1))
    assert network_store.find(other, second) is None


def test_data_in_a_store(url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKDOOR_DATA", "")
    (tmp_path / "faces.h5").write_bytes(b"pixels")
    Store(url).send(tmp_path / "faces.h5", "deepid/faces.h5")
    workspace = Workspace((url,), tmp_path / "cache")
    path = workspace.file("deepid/faces.h5")
    assert path.read_bytes() == b"pixels" and path.is_relative_to(tmp_path / "cache")
    assert workspace.find(("nothing.h5", "deepid/faces.h5")) == path
    assert workspace.find(("nothing.h5",)) is None
    assert workspace.places[-1] == url
    (tmp_path / "faces.h5").write_bytes(b"other pixels")
    Store(url).send(tmp_path / "faces.h5", "deepid/faces.h5")
    assert workspace.file("deepid/faces.h5").read_bytes() == b"other pixels"
    monkeypatch.setenv("KERAS_BACKDOOR_DATA", url)
    with pytest.raises(BadInput, match="names folders: pass data URL instead"):
        workspace.folders  # noqa: B018
    monkeypatch.setenv("KERAS_BACKDOOR_DATA", "")
    with pytest.raises(BadInput, match=r"The study needs nothing\.h5"):
        workspace.file("nothing.h5")


def test_the_cache_may_be_a_url(url: str, toy, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("KERAS_BACKDOOR_CACHE", url)
    assert default_store() == url
    assert "://" not in str(default_cache())
    monkeypatch.setenv("KERAS_BACKDOOR_CACHE", str(tmp_path / "cache"))
    assert (default_cache(), default_store()) == (tmp_path / "cache", "")
    name = toy()
    for number, place in enumerate((url, str(tmp_path / "folder"))):
        out = str(tmp_path / f"{number}.json")
        arguments = ["study", name, "--only", "n=2", "--out", out, "--cache", place]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "bucket" / "prefix" / "cells").glob("*.json"))) == 1
    assert len(list((tmp_path / "folder" / "cells").glob("*.json"))) == 1


def test_stores_that_cannot_be_used(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(BadInput, match="The shared cache is a URL such as"):
        Workspace(store="bucket/prefix")
    with pytest.raises(BadInput, match="nowhere://bucket cannot be opened"):
        Store("nowhere://bucket").has("x")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BadInput, match="cannot be read or written"):
        Store(f"file://{blocked}/prefix").send(blocked, "cells/x.json")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MissingPackage, match="needs fsspec: pip install"):
        Store("s3://bucket").has("x")


@pytest.mark.parametrize("gpus", [0, 2])
def test_each_cell_has_a_gpu_where_there_are_some(gpus: int, monkeypatch) -> None:
    """A cluster that records what is asked for."""
    asked: list[dict[str, int]] = []

    class Remote:
        def remote(self, task: Task) -> Task:
            return task

    def remote(**options: int):
        asked.append(options)
        return lambda function: Remote()

    cluster = SimpleNamespace(
        cluster_resources=lambda: {"CPU": 8.0, **({"GPU": float(gpus)} if gpus else {})},
        remote=remote,
        wait=lambda waiting, num_returns: (waiting[:1], waiting[1:]),
        get=lambda task: {"key": task.key, "figures": {}},
        shutdown=lambda: None,
    )
    monkeypatch.setattr(executors, "_connect", lambda address, jobs: cluster)
    tasks = [Task("toy", "full", name, name, (), "cache") for name in ("a", "b")]
    assert [t.name for t, _ in executors.ray(tasks, "host:1", None)] == ["a", "b"]
    assert asked == [{"num_cpus": 1, "num_gpus": min(gpus, 1), "max_retries": executors.RETRIES}]


def test_the_cluster_file_of_the_documents_is_whole() -> None:
    """The keys that `ray up` needs; the schema is that of Ray."""
    import jsonschema
    import ray.autoscaler
    import yaml

    documents = (ROOT / "docs" / "studies.md").read_text()
    (text,) = re.findall(r"```yaml cluster\n(.*?)```", documents, re.DOTALL)
    config = yaml.safe_load(text)
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text()
    jsonschema.validate(config, json.loads(schema))
    assert config["head_node_type"] in config["available_node_types"]
