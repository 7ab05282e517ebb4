"""Nothing of a stranger's file runs, crashes, hangs or fills the memory; each has its sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hostile
import pytest

from keras_backdoor._safe.h5_helper import Helper
from keras_backdoor.errors import HostileFile


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What happened to the whole corpus in a process of its own."""
    folder = tmp_path_factory.mktemp("corpus")
    canary = folder / "canary"
    done = subprocess.run(
        [sys.executable, hostile.__file__, str(folder)],
        env={**os.environ, "CANARY": str(canary), "KERAS_BACKDOOR_QUIET": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "canary": canary.exists()}


def test_the_corpus_is_large_and_of_both_formats() -> None:
    for suffix in hostile.SUFFIXES:
        assert sum(suffix in kind.suffixes for kind in hostile.HOSTILE.values()) >= 25


@pytest.mark.parametrize(("name", "suffix"), hostile.entries(), ids=lambda x: str(x))
def test_each_has_its_verdict_and_its_sentence(name: str, suffix: str, opened: dict) -> None:
    kind, found = hostile.KINDS[name], opened["results"][name + suffix]
    assert found["verdict"] == kind.verdict, found["sentence"]
    assert re.search(kind.sentence, found["sentence"]), found["sentence"]
    assert found["seconds"] < 10
    assert "\n" not in found["sentence"]
    assert len(found["sentence"]) < 600


def test_nothing_ran(opened: dict) -> None:
    assert not opened["canary"]


def test_memory_stays_flat(opened: dict) -> None:
    assert opened["grown_mb"] < 300


def test_the_canary_sings(tmp_path: Path) -> None:
    """The byte code does leave a canary where it runs; otherwise the tests above prove nothing."""
    program = (
        "import base64, marshal, types, hostile\n"
        "code = marshal.loads(base64.b64decode(hostile.evil_code()))\n"
        "types.FunctionType(code, globals())(1)"
    )
    folder = str(Path(hostile.__file__).parent)
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=folder,
        env={**os.environ, "CANARY": str(tmp_path / "canary")},
    )  # fmt: skip
    assert (tmp_path / "canary").exists()


def test_a_file_that_the_library_never_finishes_is_refused(tmp_path: Path) -> None:
    """A pipe that nobody writes to: opening it waits for ever."""
    os.mkfifo(tmp_path / "pipe.h5")
    helper = Helper(seconds=1)
    try:
        with pytest.raises(HostileFile, match="crash, hang or take more than 2 GiB"):
            helper.ask(tmp_path / "pipe.h5", arrays=True)
        (tmp_path / "valid.h5").write_bytes(hostile.valid_files()[".h5"])
        helper.ask(tmp_path / "valid.h5", arrays=True)
    finally:
        helper.close()


def test_a_helper_that_died_with_a_request_is_replaced(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1.0]
    helper = Helper()
    helper.ask(tmp_path / "a.h5", arrays=True)
    helper.process.kill()
    helper.process.wait()
    helper.process.stdin.write("a request that was never read")
    helper.ask(tmp_path / "a.h5", arrays=True)
    helper.close()
