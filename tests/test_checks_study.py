"""The study that runs `check` on files."""

from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.checks import page


def test_a_check_of_the_demo_goes_through(tmp_path) -> None:
    study = load_study("checks", "smoke")
    cell = next(c for c in study.cells() if "demo" in c.name)
    found = study.compute(cell, Workspace(cache=tmp_path))
    assert (found["exit"], found["action"]) in ((1, "do not deploy"), (3, "no decision yet"))
    assert float(found["attack_before"]) > 0.99
    assert set(found["answers"]) == {"scan"}
    assert list(found["seconds_of_steps"]) == ["inspection", "scan", "measurement"]
    assert not found["exported"] and "attack_after" not in found
    rates = {k: found[k].as_dict() for k in ("attack_before", "accuracy_before")}
    stored = [{"name": cell.name, "group": "", "figures": found | rates}]
    decisions, reasons = page.sections(Results({}, {}, stored))
    assert decisions.table[1][:2] == ("digits, demo -> 7", found["action"])
    assert any("quick check" in text for _, text in reasons.table)
