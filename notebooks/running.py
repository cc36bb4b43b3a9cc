"""A notebook executed in a kernel of its own, and its outputs as they are saved: whole, clean, the same everywhere."""

import os
import re
import tempfile
from copy import deepcopy
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert.preprocessors import ClearMetadataPreprocessor, CoalesceStreamsPreprocessor

from dit_lab.program import quoted

ROOT = Path(__file__).parents[1]
MACHINE = re.compile(r"(?<![\w.:/])(/(home|root|work|tmp|Users|mnt|var|opt|content)/|[A-Z]:\\)")
VIEW = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"\d+%\|.*\| \d+/\d+ \[")  # tqdm's


def execute(notebook, fast: bool = False, seconds: int | None = None):
    """Execute a notebook in an empty folder, with a record of progress of its own: `-> the notebook, tidied`.

    With `fast` it does a little of everything; a cell that takes longer than `seconds` ends it. Raises
    CellExecutionError where a cell fails; the notebook then holds what was there until then.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {
            "PYTHONPATH": str(ROOT),
            "FAST": "1" if fast else "",
            "DIT_LAB_COURSE": str(Path(folder, "progress", "course.json")),
        }
        env.pop("MPLBACKEND", None)  # the notebook's own is what counts
        metadata = deepcopy(notebook.metadata)
        client = NotebookClient(
            notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": folder}},
            store_widget_state=False,
        )  # fmt: skip
        try:
            client.execute(env=env)
        finally:
            tidy(notebook)
            notebook.metadata = metadata  # without this Python's version
    return notebook


def tidy(notebook) -> None:
    """Leave of the outputs what is the same at every run: pieces of text joined, no times, no bars that have ended."""
    for cell in code(notebook):
        cell.outputs = [each for each in cell.outputs if VIEW not in each.get("data", {}) or not BAR.search(text(each))]
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    ClearMetadataPreprocessor(
        clear_notebook_metadata=False, preserve_cell_metadata_mask={"tags"}, enabled=True
    ).preprocess(notebook, {})


def code(notebook) -> list:
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(output) -> str:
    """What is readable of an output."""
    data = output.get("data", {})
    return "".join([output.get("text", ""), *(str(data.get(f"text/{kind}", "")) for kind in ("plain", "markdown"))])


def faults(notebook) -> list[str]:
    """What may not be in saved outputs, a sentence each: errors, warnings, paths of a machine, views without a page."""
    found = []
    for cell in code(notebook):
        where = quoted(cell.source.partition("\n")[0])
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if VIEW in kinds and not kinds & {"text/html", "image/png"}:
            found.append(f"{where} shows a widget and nothing that is seen without a kernel")
        for output in cell.outputs:
            told, data = text(output), output.get("data", {})
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"{where} complains: {quoted(output.get('evalue', told).strip(), 300)}")
            if "Warning" in told:
                found.append(f"{where} shows a warning: {quoted(told, 300)}")
            if path := MACHINE.search(told + str(data.get("text/html", ""))):
                found.append(f"{where} shows a path of this machine: {quoted(path.group())}")
            if "\r" in told:
                found.append(f"{where} shows half a progress bar")
    return found


__all__ = ["CellExecutionError", "ROOT", "code", "execute", "faults", "text"]
