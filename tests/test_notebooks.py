"""The course: every notebook runs from top to bottom, and its saved outputs are whole, clean and its own."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from shared import ROOT

from dit_lab.inside import plots

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What makes each notebook short: new values for names of its cell tagged `parameters`.
SHORT = {"train_a_small_dit": dict(device="cpu", preset="DiT-nano/2", width=32, steps=4, batch_size=8, judged=10)}

# Calls that draw: pyplot's, and every function of ours that returns a figure.
OF_OURS = [name for name, drawn in vars(plots).items() if getattr(drawn, "__annotations__", {}).get("return") is Figure]
DRAWS = ["plt.show(", *(f"{name}(" for name in OF_OURS)]
MACHINE = re.compile(r"(?<![\w.])(/(home|root|work|tmp|Users|mnt|var)/|[A-Z]:\\)")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag: str) -> list[int]:
    """The places of the cells with a tag."""
    return [place for place, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


def texts(outputs) -> list[str]:
    """All that is readable in a cell's outputs."""
    return [output.get("text", "") or str(output.get("data", {}).get("text/plain", "")) for output in outputs]


def printed(notebook) -> str:
    """All that is readable in a notebook's outputs."""
    return "\n".join(text for cell in code(notebook) for text in texts(cell.outputs))


def kinds(cell) -> list[str]:
    """What a cell shows, in order; what it prints, and how it is cut into pieces, aside."""
    shown = [output for output in cell.outputs if output.output_type != "stream"]
    return [",".join(sorted(output.get("data", {}))) for output in shown]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Execute a notebook with short parameters in an empty folder, once: `run(path) -> the executed notebook`."""
    done = {}

    def execute(path: Path):
        if path not in done:
            notebook = read(path)
            values = "\n".join(f"{name} = {value!r}" for name, value in SHORT[path.stem].items())
            injected = nbformat.v4.new_code_cell(f"{values}\nimport sys\nprint(sys.executable)")
            injected.metadata["tags"] = ["injected-parameters"]
            notebook.cells.insert(tagged(notebook, "parameters")[0] + 1, injected)
            resources = {"metadata": {"path": str(tmp_path_factory.mktemp(path.stem))}}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PYTHONPATH", str(ROOT))
                # The tensors are tiny: more threads only wait for each other.
                patch.setenv("OMP_NUM_THREADS", "1")
                NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
            done[path] = notebook
        return done[path]

    return execute


def test_there_is_a_course():
    assert NOTEBOOKS
    assert {path.stem for path in NOTEBOOKS} == set(SHORT), "give every notebook short parameters in SHORT"


@every_notebook
def test_it_runs_from_top_to_bottom_on_this_interpreter_and_every_check_it_prints_holds(path, run):
    notebook = run(path)
    [place] = tagged(notebook, "injected-parameters")
    assert texts(notebook.cells[place].outputs)[0].strip() == sys.executable
    assert re.search(r": True$", printed(notebook), re.MULTILINE)
    assert not re.search(r".*: False$", printed(notebook), re.MULTILINE)


@every_notebook
def test_its_saved_outputs_are_of_the_kind_that_its_code_makes(path, run):
    notebook = run(path)
    executed = [cell for cell in code(notebook) if "injected-parameters" not in cell.metadata.get("tags", [])]
    for saved, fresh in zip(code(read(path)), executed, strict=True):
        assert kinds(saved) == kinds(fresh), saved.source
        assert any(map(str.strip, texts(saved.outputs))) == any(map(str.strip, texts(fresh.outputs))), saved.source


@every_notebook
def test_it_was_saved_after_one_run_in_order_without_errors_or_warnings(path):
    cells = code(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.source
            assert "Warning" not in "".join(texts([output]))


@every_notebook
def test_every_cell_that_draws_holds_its_picture(path):
    drawing = [cell for cell in code(read(path)) if any(call in cell.source for call in DRAWS)]
    assert drawing
    for cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


@every_notebook
def test_its_outputs_show_without_a_kernel_and_tell_nothing_of_the_machine(path):
    notebook = read(path)
    for cell in code(notebook):
        for output in cell.outputs:
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {}), "GitHub shows no widgets"
        for text in [cell.source, *texts(cell.outputs)]:
            assert not MACHINE.search(text), text
            assert "\r" not in text, "half a progress bar"
    assert path.stat().st_size < 1.5e6


@every_notebook
def test_its_kernel_is_plain_python3_and_it_holds_no_other_metadata(path):
    metadata = read(path).metadata
    assert metadata.kernelspec.name == "python3" and metadata.kernelspec.language == "python"
    assert set(metadata) <= {"kernelspec", "language_info"}


@every_notebook
def test_one_cell_is_tagged_for_parameters_and_sets_all_that_makes_it_short(path):
    notebook = read(path)
    [place] = tagged(notebook, "parameters")
    assigned = [node.targets[0].id for node in ast.parse(notebook.cells[place].source).body if type(node) is ast.Assign]
    assert set(SHORT[path.stem]) <= set(assigned)


@every_notebook
def test_it_teaches_in_words_before_every_section_and_links_only_to_https(path):
    notebook = read(path)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", words)
    assert all(link.startswith("https://") for link in links)
    sections = [int(number) for number in re.findall(r"^## (\d+)\. ", words, re.MULTILINE)]
    assert sections == list(range(1, len(sections) + 1))


def test_the_small_dit_that_was_saved_draws_digits_that_can_be_read():
    notebook = read(ROOT / "notebooks/train_a_small_dit.ipynb")
    shares = {scale: int(share) for scale, share in re.findall(r"guidance (\d): +(\d+)%", printed(notebook))}
    assert shares["2"] >= 90 and shares["2"] >= shares["1"]
