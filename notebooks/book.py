"""The course as a static, searchable site: `python notebooks/book.py [OUT]`, into build/book unless told otherwise.

The solved notebooks become pages as they were saved. What gives an answer away is folded there: what a `reveal` showed,
the words after it, and the solutions.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a checkout in which dit_lab is not installed

from running import ROOT, VIEW, code
from versions import HERE, Folded, sources, tags

from dit_lab.panels.terms import TERMS
from dit_lab.program import run as program

NEEDED = "sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml"


def book(out: Path = ROOT / "build" / "book", /) -> None:
    """Build the site; a link that leads nowhere, or anything else that Sphinx warns of, ends it.

    Args:
        out: the folder that the site goes into, as html/index.html.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        told = f"the book needs {', '.join(missing)}, not installed here: pip install -r requirements-dev.txt"
        raise ValueError(told)
    from sphinx.cmd.build import build_main

    pages = stage(out / "pages")
    arguments = ["-b", "html", "-q", "-W", "--keep-going", "-n", "-j", "auto"]
    if build_main([*arguments, "-d", str(out / "doctrees"), str(pages), str(out / "html")]):
        raise ValueError(f"the book in {out} is not whole; what is wrong with it stands above")
    print(f"{out / 'html' / 'index.html'}")


def stage(folder: Path) -> Path:
    """Lay all pages of the book out in a folder, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "book", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    for path in sources():
        notebook = nbformat.read(HERE / "solved" / f"{path.stem}.ipynb", as_version=4)
        nbformat.write(paged(notebook), folder / "notebooks" / f"{path.stem}.ipynb")
    results = ROOT / "docs" / "results" / "course.md"
    (folder / "results.md").write_text(results.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "glossary.md").write_text(glossary(), encoding="utf-8")
    return folder


def paged(notebook):
    """A solved notebook as a page: answers folded, the cell that installs left out, no views that want a kernel."""
    for number, cell in enumerate(code(notebook)):
        kinds, folded = {*tags(cell)}, []
        if number == 0:
            folded = ["remove-cell"]
        elif kinds & {"solution", "guess"}:
            folded = ["hide-input"]
        elif "reveal(" in cell.source:
            folded = ["hide-output"]
        cell.metadata["tags"] = [*tags(cell), *folded]
        cell.outputs = [output for output in cell.outputs if VIEW not in output.get("data", {})]
    for cell in notebook.cells:
        if "after" in tags(cell):
            Folded.fold(cell)
    return notebook


def glossary() -> str:
    """The terms that the panels explain, as a page."""
    entries = [
        f"{each['term']}\n: {each['text']} ({each['source']})\n\n  `{each['equation']}`"
        for each in sorted(TERMS.values(), key=lambda each: each["term"].lower())
    ]
    return "# Glossary\n\n" + "\n\n".join(entries) + "\n"


if __name__ == "__main__":
    program(book, "notebooks/book.py")
