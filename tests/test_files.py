"""Atomic writes."""

from pathlib import Path

import pytest

from keras_backdoor._safe.files import MARKER, writing


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
