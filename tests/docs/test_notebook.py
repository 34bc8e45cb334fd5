"""docs/quickstart.ipynb runs from top to bottom; its own assertions are the test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from code_blocks import ROOT
from real_model import real_folder


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    real_folder()
    places = ":".join([str(ROOT), str(ROOT / "kernels")])
    monkeypatch.setenv("PYTHONPATH", places)
    notebook = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable  # this environment's, whatever is installed
    done = client.execute()
    said = "".join(
        output.get("text", "") for cell in done.cells for output in cell.get("outputs", [])
    )
    assert "reattention:" in said
    assert "answer NLL" in said
