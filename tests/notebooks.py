"""Runs the notebook of docs/, as its reader would or in seconds. To run it and keep what its cells print:

python tests/notebooks.py
"""

from __future__ import annotations

import copy
import os
import pathlib
import re
import tempfile
from collections.abc import Callable

import nbclient
import nbformat

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "t5x_mini.ipynb"

# A command of the notebook, over all its lines. Braces in it are Python.
_COMMAND = re.compile(r"^!((?:.*\\\n)*.*)$", flags=re.MULTILINE)
_PARAMETERS = "STEPS = FINETUNE_STEPS = 2"
_IN_THIS_PROCESS = f"import sys; sys.path.append({str(ROOT / 'tests')!r}); import test_docs"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def strict(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Commands that fail stop it; in a notebook they don't."""
    return _with_commands(notebook, _checked)


def at_tiny_settings(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Two steps of tiny models, in the kernel's own process: most of a short command is its start."""

    def in_this_process(command: str) -> str:
        joined = " ".join(command.replace("\\\n", " ").split())
        if "finetune" in joined:
            joined += " --gin.EVAL_LIMIT=8"
        return f"{_IN_THIS_PROCESS}\ntest_docs.run(f{joined!r}, test_docs.pathlib.Path('kept'))"

    def replaced(command: str) -> str:
        return in_this_process(command) if re.match(r"t5x-mini \w", command) else _checked(command)

    changed = _with_commands(notebook, replaced)
    (parameters,) = [cell for cell in changed.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = _PARAMETERS
    return changed


def run(notebook: nbformat.NotebookNode, folder: pathlib.Path, **variables: str) -> nbformat.NotebookNode:
    """The notebook with what its cells print, run in `folder` by a fresh kernel that finds this checkout.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; the message has the cell, and its error.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    client = nbclient.NotebookClient(
        copy.deepcopy(notebook),
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
        record_timing=False,
        timeout=1800,
    )
    return client.execute(env=environment)


def printed(notebook: nbformat.NotebookNode, name: str) -> str:
    """What the cell of this id printed."""
    (cell,) = [cell for cell in notebook.cells if cell.id == name]
    return "".join(output.text for output in cell.outputs if _is_printed(output))


def _with_commands(notebook: nbformat.NotebookNode, change: Callable[[str], str]) -> nbformat.NotebookNode:
    changed = copy.deepcopy(notebook)
    for cell in changed.cells:
        if cell.cell_type == "code":
            cell.source = _COMMAND.sub(lambda found: change(found[1]), cell.source)
    return changed


def _is_printed(output: nbformat.NotebookNode) -> bool:
    return output.output_type == "stream" and output.name == "stdout"


def _checked(command: str) -> str:
    return f"!{command}\nassert _exit_code == 0, _exit_code"


def _as_seen(text: str) -> str:
    """What a terminal shows in the end: without what was written over, and without bars below a bar."""
    text = re.sub(r"\n\r?[^\n]*\x1b\[A", "", text)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))


def _keep_outputs() -> None:
    """Runs the notebook at its own settings, and writes it with what its cells printed."""
    notebook = read()
    with tempfile.TemporaryDirectory() as folder:
        made = run(strict(notebook), pathlib.Path(folder), JAX_PLATFORMS="cpu")
    for cell, ran in zip(notebook.cells, made.cells, strict=True):
        if cell.cell_type == "code":
            # Without warnings, which are those of this machine, and with all that was printed in one piece.
            shown = _as_seen("".join(output.text for output in filter(_is_printed, ran.outputs)))
            cell.outputs = [output for output in ran.outputs if output.output_type != "stream"]
            cell.outputs[:0] = [nbformat.v4.new_output("stream", text=shown)] if shown else []
            cell.execution_count = ran.execution_count
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    _keep_outputs()
