"""The notebooks run as they are, their outputs are kept, and they are small."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")


def printed(notebook: Any) -> list[set[str]]:
    """Return of each cell of code the kinds of its outputs, without warnings on standard error."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [{one.output_type for one in cell.outputs if one.get("name") != "stderr"} for cell in cells]


def test_there_are_three() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"one_photograph", "labels_and_pool", "evaluate_your_model"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_small(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 400_000
    assert sum("display_data" in kinds for kinds in printed(notebook)) >= 2
    assert not any("error" in kinds for kinds in printed(notebook))
    assert str(ROOT) not in path.read_text()
    assert "/home/" not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    kept = nbformat.read(path, as_version=4)
    notebook = copy.deepcopy(kept)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, startup_timeout=300, resources=where).execute()  # raises on errors
    assert printed(notebook) == printed(kept)
