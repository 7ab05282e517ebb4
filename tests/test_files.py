"""Atomic writes."""

from pathlib import Path

import pytest

from keras_backdoor._safe.files import MARKER, check_apart, check_output, writing
from keras_backdoor.errors import BadInput


def test_force_replaces_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").write_text("years of work")
    with pytest.raises(ValueError, match="was not written by keras_backdoor and is not replaced"):
        with writing(tmp_path / "thesis", force=True) as partial:
            partial.mkdir()
    assert (tmp_path / "thesis" / "text.txt").read_text() == "years of work"
    for _ in range(2):
        with writing(tmp_path / "ours", force=True) as partial:
            partial.mkdir()
    assert (tmp_path / "ours" / MARKER).exists()
    with pytest.raises(ValueError, match="not a valid name"):
        with writing(Path(), force=True):
            pass


def test_results_do_not_lie_inside_one_another(tmp_path: Path) -> None:
    check_apart({"--out": tmp_path / "a", "--report": tmp_path / "ab"})
    for other in ("a", "a/b", "a/../a/b"):
        with pytest.raises(BadInput, match="out and report need different paths"):
            check_apart({"--out": tmp_path / "a", "--report": tmp_path / other})


def test_a_folder_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("measured for a year")
    with pytest.raises(BadInput, match="is a file and is not replaced by a folder"):
        with writing(tmp_path / "data", force=True) as partial:
            partial.mkdir()
    assert (tmp_path / "data").read_text() == "measured for a year"
    with writing(tmp_path / "own") as partial:
        partial.mkdir()
    with pytest.raises(BadInput, match="is a folder and is not replaced by a file"):
        check_output(tmp_path / "own", force=True, folder=False)
