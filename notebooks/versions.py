"""One source, two versions: what `notebooks/source/NN_name.py` becomes for the learner, and what it becomes solved.

A source is a notebook in jupytext's percent format. What differs between the versions is said by the tags of its cells,
and taken out by nbconvert's tag remover:

    stub       the learner's cell: the interesting line is missing; right behind it comes what stands in its place
    solution   the filled cell; the learner finds it folded, below the check that follows
    guess      a prediction that the solved notebook makes, so that there is something to reveal
    after      words that give an answer away; the learner finds them folded
    parameters the one cell of what may be changed, as papermill knows it
    figures    the last code cell: it prints `name: number` lines, which go into docs/results/course.md
"""

import re
from pathlib import Path

import jupytext
import nbformat
from nbconvert.preprocessors import Preprocessor, TagRemovePreprocessor

from dit_lab.program import quoted

HERE = Path(__file__).parent
TAGS = {"stub", "solution", "guess", "after", "parameters", "figures"}
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
CHECKED = re.compile(r"^check\.(\w+)\(", re.MULTILINE)
HELPERS = "hint", "solution", "progress"  # what `check` has besides the exercises
SETUP = """\
# In a checkout this runs as it is. {elsewhere}
%matplotlib inline
import sys

if "google.colab" in sys.modules:
    {colab}
    from google.colab import output

    output.enable_custom_widget_manager()
sys.path += ["..", "../.."]  # for a checkout in which dit_lab is not installed"""
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"
COLAB = "https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
HOW = (
    "*This is the notebook to work in: where there is a `...`, something is missing. Guesses go into `predict`, code "
    "into the functions. `check` says what is wrong with an answer, and `check.hint` helps, one hint at a time.*"
)
SOLVED = "*This is the solved version: guesses are made, right or wrong, and the exercises are filled in.*"


def sources() -> list[Path]:
    """The sources of all notebooks that there are, in their order."""
    return sorted((HERE / "source").glob("[0-9][0-9]_*.py"))


def source(path: Path, repository: str = ""):
    """The notebook that a source is, with the cell that installs at its top. Raises ValueError on one that cannot be.

    `repository` is where the project lies on GitHub, as `owner/name`, for Colab.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    cells = [nbformat.v4.new_code_cell(setup(repository))]
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode({"tags": tags(cell)} if tags(cell) else {})
    notebook.cells[1:1] = cells
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem[:2]}-{number:03}"
    notebook.update(metadata=nbformat.from_dict(METADATA), nbformat=4, nbformat_minor=5)
    check_order(path, notebook.cells)
    return notebook


def setup(repository: str) -> str:
    """The first code cell."""
    if repository:
        return SETUP.format(
            elsewhere="On Colab it installs dit_lab.",
            colab=f"%pip install --quiet git+https://github.com/{repository}",
        )
    return SETUP.format(
        elsewhere="On Colab, upload the project's folder as dit_lab.zip first.",
        colab="%pip install --quiet dit_lab.zip",
    )


def tags(cell) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def check_order(path: Path, cells: list) -> None:
    """Raise ValueError, the cell named, where tags are unknown or do not stand in the order that makes two versions."""
    kinds = [cell.cell_type == "code" and {*tags(cell)} or set() for cell in cells] + [set()]
    if not (cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")):
        raise ValueError(f"{path.name} must begin with words, and they with a title: # %% [markdown], # # Title")
    for number, cell in enumerate(cells):
        wrong = ""
        if unknown := {*tags(cell)} - TAGS:
            wrong = f"the tag {quoted(min(unknown))}; there are {', '.join(sorted(TAGS))}"
        elif "stub" in kinds[number] and not kinds[number + 1] & {"solution", "guess"}:
            wrong = "a stub with no solution or guess right behind it"
        elif kinds[number] & {"solution", "guess"} and "stub" not in kinds[number - 1]:
            wrong = "a solution or guess with no stub right before it"
        elif "solution" in kinds[number] and not any(CHECKED.search(each.source) for each in cells[number + 1 :][:2]):
            wrong = "a solution that no check follows within two cells"
        if wrong:
            raise ValueError(f"{path.name} has {wrong}: {quoted(cell.source.partition(chr(10))[0])}")
    if sum("parameters" in kind for kind in kinds) != 1:
        raise ValueError(f'{path.name} needs one cell of parameters: # %% tags=["parameters"]')


class Told(Preprocessor):
    """Below the title a sentence is added that says which version this is, and the badge where there is a place."""

    def __init__(self, sentence: str, link: str = ""):
        super().__init__()
        self.sentence, self.link = sentence, link

    def preprocess_cell(self, cell, resources, number):
        if number == 0:
            title, _, words = cell.source.partition("\n")
            badge = [BADGE.format(link=self.link)] if self.link else []
            cell.source = "\n\n".join([title, *badge, self.sentence, words.strip()])
        return cell, resources


class Folded(Preprocessor):
    """Solutions become folded words below the check that asks for them, and words `after` an answer are folded."""

    def preprocess(self, notebook, resources):
        cells, held = [], []
        for cell in notebook.cells:
            if "solution" in tags(cell):
                held.append(cell)
                continue
            cells.append(self.fold(cell) if "after" in tags(cell) else cell)
            if held and (name := exercise(cell)):
                cells.append(below(name, held))
                held = []
        notebook.cells = cells
        return notebook, resources

    @staticmethod
    def fold(cell):
        """A cell of words that give an answer away, folded."""
        cell.source = f"<details><summary>Read on when you have seen it</summary>\n\n{cell.source}\n\n</details>"
        return cell


def below(name: str, solutions: list):
    """What stands below a check: how to get a hint, and the solution, folded."""
    code = "\n\n\n".join(cell.source for cell in solutions)
    told = (
        f'Stuck? `check.hint("{name}")` in a cell of its own gives a hint, and run again the next one.\n\n'
        f"<details><summary>Solution</summary>\n\n```python\n{code}\n```\n\n</details>"
    )
    return nbformat.v4.new_markdown_cell(told, id=f"{solutions[0].id}-folded", metadata={"tags": ["folded"]})


def exercise(cell) -> str:
    """The exercise that a code cell checks first; empty where it checks none."""
    names = CHECKED.findall(cell.source) if cell.cell_type == "code" else []
    return next((name for name in names if name not in HELPERS), "")


def without(*kinds: str) -> TagRemovePreprocessor:
    """What takes cells of some tags out."""
    return TagRemovePreprocessor(remove_cell_tags=set(kinds), enabled=True)


def learners(path: Path, repository: str = ""):
    """The learner's notebook: stubs, no guesses, no outputs, solutions folded."""
    link = COLAB.format(repository=repository, name=path.stem) if repository else ""
    return made(path, repository, without("guess"), Folded(), Told(HOW, link))


def solved(path: Path, repository: str = ""):
    """The solved notebook, not yet executed."""
    return made(path, repository, without("stub"), Told(SOLVED))


def made(path: Path, repository: str, *steps: Preprocessor):
    """A source after some steps."""
    notebook = source(path, repository)
    for step in steps:
        notebook, _ = step.preprocess(notebook, {})
    return nbformat.from_dict(notebook)
