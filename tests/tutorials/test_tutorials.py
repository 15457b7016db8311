"""Tutorials on a real kernel, as a reader runs them, and without a network."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    "The notebook after a run on a kernel of its own that reaches this machine only."
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        store_widget_state=True,
        resources={"metadata": {"path": str(folder)}},
    )
    offline = os.pathsep.join(
        [str(ROOT / "tests" / "offline"), os.environ.get("PYTHONPATH", "")]
    ).strip(os.pathsep)
    return client.execute(env={**os.environ, "PYTHONPATH": offline})


def views(notebook: nbformat.NotebookNode) -> list[str]:
    "The widgets that the notebook shows."
    outputs = (o for cell in notebook.cells for o in cell.get("outputs", []))
    return [o["data"][VIEW]["model_id"] for o in outputs if VIEW in o.get("data", {})]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path, tmp_path):
    link = tmp_path / "nbs"  # a folder of its own: what a tutorial writes is not left in the book
    link.mkdir()
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    notebook = executed(nbformat.read(path, as_version=4), link)
    state = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    assert set(views(notebook)) <= set(state), "a shown widget has no state"


def test_the_kernel_reaches_no_network(tmp_path):
    source = "import socket\ntry:\n    socket.create_connection(('example.org', 80), 1)\nexcept OSError as error:\n    print(error)"
    notebook = executed(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path
    )
    assert "no network in tests" in notebook.cells[0].outputs[0].text


def test_a_shown_widget_has_state(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("import ipywidgets"),
        nbformat.v4.new_code_cell("ipywidgets.IntSlider(3)"),
    ]
    notebook = executed(nbformat.v4.new_notebook(cells=cells), tmp_path)
    assert (
        len(views(notebook)) == 1
        and views(notebook)[0] in notebook.metadata["widgets"][STATE]["state"]
    )
