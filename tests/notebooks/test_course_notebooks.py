"""The course: one source, two versions; what is solved passes, what is not stops and says why; outputs are clean."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from shared import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))

import build
from running import CellExecutionError, code, execute, faults, text
from versions import CHECKED, HELPERS, exercise, learners, solved, sources, tags

from dit_lab.course import EXERCISES

SOURCES = sources()
HERE = Path(__file__).parent
MOST_BYTES = 3e6
MOST_SECONDS = 120  # of a cell, far more than there are: what hangs ends here
FOLDED = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
QUESTION = re.compile(r"""^predict\((["'])(.+?)\1, """)
PICTURES = {"image/png", "text/html"}
LOOK = f"import sys\n\nsys.path.insert(0, {str(HERE)!r})\nimport figure_labels\n\nfigure_labels.note_all()"
TRY = """\
from dit_lab.course import check as judge

try:
{stub}
{check}
except judge.Wrong as wrong:
    print("refused:", wrong)
else:
    print("passed: {name}")
"""

every_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def saved(path: Path, version: str = ""):
    """A version of a source, as it was saved."""
    return nbformat.read(build.place(path, version), as_version=4)


def words(notebook) -> str:
    """All that is told in a notebook, code aside."""
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def printed(cells: list) -> str:
    """All that is readable in the outputs of some cells."""
    return "\n".join(text(output) for cell in cells for output in cell.outputs)


def kinds(cell) -> list[str]:
    """What a cell shows, in order; what it prints aside."""
    shown = [output for output in cell.outputs if output.output_type != "stream"]
    return [",".join(sorted(output.get("data", {}))) for output in shown]


def checks(notebook) -> list[str]:
    """The exercises that a notebook checks, in its order."""
    return [name for cell in code(notebook) for name in CHECKED.findall(cell.source) if name not in HELPERS]


def typed(path: Path):
    """The learner's notebook with every stub filled in: from what is folded below it, and with the solved guesses."""
    notebook, guesses = saved(path), [cell for cell in saved(path, "solved").cells if "guess" in tags(cell)]
    for number, cell in enumerate(notebook.cells):
        if "stub" in tags(cell):
            folded = next((each for each in notebook.cells[number:] if "folded" in tags(each)), None)
            cell.source = (
                guesses.pop(0).source if QUESTION.match(cell.source) else FOLDED.search(folded.source).group(1)
            )
    return notebook


def trial(stub, check) -> str:
    """Code that gives a stub to the check behind it."""
    line = next(line for line in check.source.splitlines() if CHECKED.match(line))
    indented = lambda source: "\n".join(f"    {line}" for line in source.splitlines())
    return TRY.format(stub=indented(stub.source), check=f"    {line}", name=exercise(check))


@pytest.fixture(scope="module")
def run():
    """Execute a learner's notebook with all filled in, fast and once: `run(path) -> (notebook, lacking, trials)`.

    `lacking` is what its figures lack, `trials` what the checks said of its stubs.
    """
    done = {}

    def first_time(path: Path):
        notebook, learner = typed(path), saved(path)
        stubs = [
            (cell, next(each for each in learner.cells[number:] if exercise(each)))
            for number, cell in enumerate(learner.cells)
            if "stub" in tags(cell) and not QUESTION.match(cell.source)
        ]
        tried = [nbformat.v4.new_code_cell(trial(*pair)) for pair in stubs]
        ours = nbformat.v4.new_code_cell("print(sys.executable, *figure_labels.LACKING, sep='\\n')")
        notebook.cells = [nbformat.v4.new_code_cell(LOOK), *notebook.cells, ours, *tried]
        execute(notebook, fast=True, seconds=MOST_SECONDS)
        interpreter, *lacking = printed([ours]).splitlines()
        assert interpreter == sys.executable, "the kernel is not this Python"
        notebook.cells = notebook.cells[1 : -1 - len(tried)]
        return notebook, lacking, [printed([cell]) for cell in tried]

    return lambda path: done[path] if path in done else done.setdefault(path, first_time(path))


def test_there_is_a_course():
    assert SOURCES and len({path.stem[:2] for path in SOURCES}) == len(SOURCES)
    made = {path.stem for version in ("", "solved") for path in (ROOT / "notebooks" / version).glob("*.ipynb")}
    assert made <= {path.stem for path in SOURCES}, "a notebook without a source"


@every_notebook
def test_both_versions_are_what_their_source_makes(path):
    for made, there in (learners, saved(path)), (solved, saved(path, "solved")):
        fresh = made(path, build.repository())
        for cell in code(there):
            cell.outputs, cell.execution_count = [], None
        assert there.cells == fresh.cells, f"python notebooks/build.py {path.stem} makes it anew"
        assert there.metadata == fresh.metadata


@every_notebook
def test_the_learners_shows_no_output_no_guess_and_no_solution_but_folded(path):
    notebook = saved(path)
    assert not any(cell.outputs or cell.execution_count for cell in code(notebook))
    assert not any({"solution", "guess"} & {*tags(cell)} for cell in notebook.cells)
    stubs = [cell for cell in notebook.cells if "stub" in tags(cell)]
    assert all("..." in cell.source for cell in stubs)
    for cell in notebook.cells:
        if {"folded", "after"} & {*tags(cell)}:
            assert cell.source.count("<details>") == cell.source.count("</details>") == 1


@every_notebook
def test_filled_in_as_it_says_the_learners_is_the_solved_one(path):
    assert [cell.source for cell in code(typed(path))] == [cell.source for cell in code(saved(path, "solved"))]


@every_notebook
def test_guesses_ask_what_the_learner_is_asked_and_every_question_is_answered(path):
    asked, guessed = (
        [QUESTION.match(cell.source).group(2) for cell in code(notebook) if QUESTION.match(cell.source)]
        for notebook in (saved(path), saved(path, "solved"))
    )
    assert asked == guessed and len({*asked}) == len(asked)
    assert all(question.startswith(f"{int(path.stem[:2])}.") for question in asked)
    source = "\n".join(cell.source for cell in code(saved(path)))
    assert asked and all(re.search(rf"reveal\(\s*[\"']{re.escape(question)}[\"']", source) for question in asked)


@every_notebook
def test_its_exercises_are_those_of_the_course_and_it_names_them(path):
    notebook = saved(path)
    due = [name for name, each in EXERCISES.items() if each.notebook == int(path.stem[:2])]
    assert sorted(checks(notebook)) == sorted(due)
    told = re.search(r"^\*\*Exercises:\*\* (.+)$", notebook.cells[0].source, re.MULTILINE)
    assert re.findall(r"`(\w+)`", told.group(1) if told else "") == checks(notebook)


@every_notebook
def test_filled_in_it_runs_from_top_to_bottom_and_every_check_holds(path, run):
    notebook, _, _ = run(path)
    told = printed(code(notebook))
    assert all(f"{name} is right." in told for name in checks(notebook))
    assert not re.search(r": False$", told, re.MULTILINE)
    assert "No guess yet" not in told and "Guess first" not in told
    assert not faults(notebook)


@every_notebook
def test_every_stub_is_refused_by_its_check(path, run):
    _, _, trials = run(path)
    assert all(told.startswith("refused: ") and "stub" in told for told in trials), trials


@every_notebook
def test_every_figure_has_a_title_and_labels_on_its_axes(path, run):
    _, lacking, _ = run(path)
    assert not lacking


@every_notebook
def test_the_learners_stops_at_its_first_check_with_its_message(path):
    notebook = saved(path)
    if not checks(notebook):
        execute(notebook, fast=True, seconds=MOST_SECONDS)
        return
    with pytest.raises(CellExecutionError):
        execute(notebook, fast=True, seconds=MOST_SECONDS)
    reached = [cell for cell in code(notebook) if cell.execution_count]
    assert exercise(reached[-1]) == checks(notebook)[0]
    [error] = [output for output in reached[-1].outputs if output.output_type == "error"]
    assert error.ename == "Wrong" and "stub" in error.evalue


@every_notebook
def test_its_saved_outputs_are_of_the_kind_that_its_code_makes(path, run):
    notebook, _, _ = run(path)
    for there, fresh in zip(code(saved(path, "solved")), code(notebook), strict=True):
        assert kinds(there) == kinds(fresh), there.source
        assert bool(printed([there]).strip()) == bool(printed([fresh]).strip()), there.source


@every_notebook
def test_it_was_saved_after_one_run_in_order_and_its_outputs_are_clean_and_small(path):
    notebook = saved(path, "solved")
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert not faults(notebook)
    assert not re.search(r": False$", printed(code(notebook)), re.MULTILINE)
    assert build.place(path, "solved").stat().st_size < MOST_BYTES


@every_notebook
def test_every_picture_is_followed_by_what_there_is_to_see(path):
    cells = saved(path, "solved").cells
    shown = [number for number, cell in enumerate(cells) if cell.cell_type == "code" and seen(cell)]
    assert shown
    for number in shown:
        following = cells[number + 1]
        assert following.cell_type == "markdown" and following.source.startswith("*Figure: "), cells[number].source


def seen(cell) -> bool:
    """Whether a cell shows a picture or a page."""
    return any(PICTURES & output.get("data", {}).keys() for output in cell.outputs)


@every_notebook
def test_it_says_at_its_top_what_it_is_for_and_at_its_end_what_would_falsify_it(path):
    notebook = saved(path)
    first = notebook.cells[0].source
    assert re.match(rf"# {int(path.stem[:2])}\. \S", first)
    assert all(re.search(rf"^\*\*{name}:\*\* \S", first, re.MULTILINE) for name in ("Aim", "Before", "Time"))
    titles = re.findall(r"^## (.+)$", words(notebook), re.MULTILINE)
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", words(notebook), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert titles[len(numbers) :] == ["Summary", "What would falsify this?"]


@every_notebook
def test_its_links_lead_to_https(path):
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]+)\)", words(saved(path))))


@every_notebook
def test_one_cell_holds_what_may_be_changed_and_its_figures_are_those_of_the_results(path):
    notebook = saved(path, "solved")
    [parameters] = [cell for cell in code(notebook) if "parameters" in tags(cell)]
    assert parameters.source.startswith('fast = os.environ.get("FAST") == "1"')
    figures = build.figures(notebook)
    assert figures and "figures" in tags(code(notebook)[-1])
    page = (ROOT / "docs/results/course.md").read_text(encoding="utf-8")
    assert all(f"| {name} | {value} |" in page for name, value in figures.items()), "build it with --run"
