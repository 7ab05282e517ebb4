"""A fixed thousand of the mutations of `make fuzz`: opened or refused in a sentence."""

import json
import subprocess
import sys

from conftest import ROOT

COUNT = 1000


def test_a_thousand_mutations_are_opened_or_refused() -> None:
    program = ROOT / "fuzz" / "fuzz_loader.py"
    done = subprocess.run(
        [sys.executable, str(program), "--work", "0", str(COUNT)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["opened"] + counts["refused"] == COUNT
    assert counts["opened"] > 50
    assert counts["refused"] > 50


def test_a_mutation_is_made_again_from_its_number(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "fuzz"))
    import mutations

    assert mutations.mutant(7) == mutations.mutant(7)
    assert len({mutations.mutant(n)[1] for n in range(50)}) > 40
