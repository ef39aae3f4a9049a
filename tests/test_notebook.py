"""docs/alexnet_in_an_hour.ipynb, run from a clean kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.runs import environment

NOTEBOOK = ROOT / "docs/alexnet_in_an_hour.ipynb"
EXECUTE = """
import nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], 4)
for cell in notebook.cells:
    cell.pop("outputs", None)
    if cell.cell_type == "code":
        cell.outputs = []
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def outputs(path: Path) -> str:
    """All text that the cells of a notebook print, and the media types of everything else that they show."""
    cells = json.loads(path.read_text())["cells"]
    shown = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr"], "there is a warning"
    # Printed text may be split anywhere, even within a line.
    return "".join("".join(output.get("text", "")) or " ".join(output.get("data", {})) + "\n" for output in shown)


EXPECTED = (
    "60,965,224 parameters",
    "659,272 neurons",
    "one tower per device",
    "conv1: 55 x 55 x 96  -> pooled 27 x 27",
    "step 540  epoch 12  test: loss",
    "fc7: {'tower': 2, 'unit': 256}",
    "equal bit for bit: True",
)


@pytest.mark.slow
@pytest.mark.long
def test_it_runs_from_a_clean_kernel(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    arguments = [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(tmp_path / "done.ipynb")]
    done = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, env=environment() | {"PATH": path, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = outputs(tmp_path / "done.ipynb")
    assert [line for line in EXPECTED if line not in text] == []
    assert text.count("image/png") >= 5


def test_the_published_outputs_are_what_it_prints():
    text = outputs(NOTEBOOK)
    assert [line for line in EXPECTED if line not in text] == []
    assert NOTEBOOK.stat().st_size < 1_500_000
