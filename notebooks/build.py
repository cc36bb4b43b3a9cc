"""Make both versions of the notebooks from their sources: `python notebooks/build.py [NAME ...] [--run]`.

The learner's goes into `notebooks/`, the solved one, executed in full, into `notebooks/solved/`; minutes and final
figures go into `docs/results/course.md`. A solved notebook whose code is what was executed last keeps its outputs.
"""

import re
import resource
import sys
import time
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a checkout in which dit_lab is not installed

from results import record
from running import ROOT, code, execute, faults, text
from versions import HERE, learners, solved, sources, tags

from dit_lab.files import atomic
from dit_lab.program import quoted
from dit_lab.program import run as program

FIGURE = re.compile(r"^(.+?): +(.+)$", re.MULTILINE)
GITHUB = re.compile(r'^Repository = "https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?"$', re.MULTILINE)


def build(names: tuple[str, ...] = (), /, *, run: bool = False) -> None:
    """Make the learner's and the solved version of notebooks, executing those whose code has changed.

    Args:
        names: which ones, such as 05_training; all by default.
        run: execute them even where their code is what was executed last.
    """
    chosen = [path for path in sources() if not names or path.stem in names]
    if missing := {*names} - {path.stem for path in chosen}:
        there = ", ".join(path.stem for path in sources())
        raise ValueError(f"there is no source {quoted(min(missing))} in notebooks/source; there are {there}")
    for path in chosen:
        write(place(path), learners(path, repository()))
        minutes = write_solved(path, run)
        told = "executed as it is" if minutes is None else f"executed in {minutes:.1f} minutes"
        print(f"{path.stem}: {told}; solved it has {place(path, 'solved').stat().st_size / 1e6:.1f} MB", flush=True)


def write_solved(path: Path, run: bool) -> float | None:
    """Write the solved version; minutes that its execution took, None where the outputs that there were stay.

    Raises ValueError, and writes nothing, where an output may not be saved; CellExecutionError where a cell fails.
    """
    notebook, minutes = solved(path, repository()), None
    if run or not keep_outputs(notebook, place(path, "solved")):
        begun, computed = time.perf_counter(), seconds_of_kernels()
        execute(notebook)
        minutes, of_core = (time.perf_counter() - begun) / 60, (seconds_of_kernels() - computed) / 60
        if wrong := faults(notebook):
            raise ValueError(f"{path.stem} is not to be saved: {'; '.join(wrong)}")
        record(path.stem, notebook.cells[0].source, minutes, of_core, figures(notebook))
    write(place(path, "solved"), notebook)
    return minutes


def seconds_of_kernels() -> float:
    """What the kernels that have ended have computed, on all cores together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def keep_outputs(notebook, saved: Path) -> bool:
    """Put the saved outputs into a notebook whose code is that which made them; whether it is."""
    if not saved.exists():
        return False
    there = code(nbformat.read(saved, as_version=4))
    if [cell.source for cell in there] != [cell.source for cell in code(notebook)]:
        return False
    for cell, before in zip(code(notebook), there, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    return True


def figures(notebook) -> dict[str, str]:
    """What the cell tagged `figures` printed, by name."""
    cells = [cell for cell in code(notebook) if "figures" in tags(cell)]
    return dict(FIGURE.findall("".join(text(output) for cell in cells for output in cell.outputs)))


def place(path: Path, version: str = "") -> Path:
    """Where a version of a source lies."""
    return HERE / version / f"{path.stem}.ipynb"


def write(path: Path, notebook) -> None:
    """Write a notebook whole."""
    with atomic(path) as partial:
        partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def repository() -> str:
    """Where the project lies on GitHub, `owner/name`, if pyproject.toml says so in [project.urls]; else empty."""
    found = GITHUB.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found.group(1) if found else ""


if __name__ == "__main__":
    program(build, "notebooks/build.py")
