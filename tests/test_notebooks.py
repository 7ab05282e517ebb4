"""Every notebook runs from a copy, and is committed with its outputs."""

import os
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest
from conftest import ROOT
from jupyter_client.manager import AsyncKernelManager
from nbclient.util import run_sync

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[AsyncKernelManager]:
    """One kernel for all notebooks, which imports TensorFlow once."""
    manager = AsyncKernelManager(kernel_name="python3")
    scale = {"KERAS_BACKDOOR_SCALE": "smoke", "KERAS_BACKDOOR_QUIET": "1"}
    run_sync(manager.start_kernel)(env={**os.environ, **scale})
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore")
def test_it_runs(path: Path, tmp_path: Path, kernel: AsyncKernelManager) -> None:
    notebook = nbformat.read(path, as_version=4)
    start = f"%reset -f\nimport os\nos.chdir({str(tmp_path)!r})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=240)
    client.execute()
    client.kc.stop_channels()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_is_committed_with_outputs(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    assert any(c.outputs for c in cells)
    assert not any(o.output_type == "error" for c in cells for o in c.outputs)
    text = path.read_text()
    assert "/root/" not in text
    assert "/work/" not in text


def test_the_readme_lists_them() -> None:
    text = (ROOT / "notebooks" / "README.md").read_text()
    assert all(p.name in text for p in NOTEBOOKS)
