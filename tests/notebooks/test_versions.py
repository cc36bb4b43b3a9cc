"""How one source becomes two versions, and what is refused before any version is made."""

import sys

import nbformat
import pytest
from shared import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))

import build
import results
from running import VIEW, faults, tidy
from versions import learners, solved

SOURCE = """\
# %% [markdown]
# # 5. A title
#
# Words.

# %% tags=["parameters"]
fast = False

# %% tags=["stub"]
predict("5.1 how many", ...)

# %% tags=["guess"]
predict("5.1 how many", 3)

# %% tags=["stub"]
def simple_loss(eps, predicted):
    ...


# %% tags=["solution"]
def simple_loss(eps, predicted):
    return 1


# %%
check.simple_loss(simple_loss)

# %% [markdown] tags=["after"]
# It is 4.
"""


@pytest.fixture
def source(tmp_path):
    """A function that writes a source, with one text put in another's place, and returns its path."""

    def written(old: str = "", new: str = ""):
        assert old in SOURCE
        (path := tmp_path / "05_loss.py").write_text(SOURCE.replace(old, new) if old else SOURCE)
        return path

    return written


def sources_of(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_the_learners_has_stubs_and_folds_what_tells(source):
    *_, question, stub, check, below, after = sources_of(learners(source()))
    assert question == 'predict("5.1 how many", ...)' and stub.endswith("...") and check.startswith("check.")
    assert 'check.hint("simple_loss")' in below and "<details><summary>Solution</summary>" in below
    assert "```python\ndef simple_loss(eps, predicted):\n    return 1\n```" in below
    assert after.startswith("<details>") and "It is 4." in after


def test_the_solved_one_has_what_is_missing_there_and_nothing_folded(source):
    text = "\n".join(sources_of(solved(source())))
    assert 'predict("5.1 how many", 3)' in text and "return 1" in text
    assert "..." not in text.partition("fast = False")[2] and "<details>" not in text


def test_both_are_the_same_each_time_and_whole(source):
    for made in learners, solved:
        first, second = made(source()), made(source())
        nbformat.validate(first)
        assert first == second and len({cell.id for cell in first.cells}) == len(first.cells)


def test_with_a_repository_there_is_a_badge_and_colab_installs_from_there(source):
    notebook = learners(source(), "someone/dit_lab")
    assert "/github/someone/dit_lab/blob/main/notebooks/05_loss.ipynb)" in notebook.cells[0].source
    assert "git+https://github.com/someone/dit_lab" in notebook.cells[1].source
    assert "colab" not in learners(source()).cells[0].source


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('tags=["after"]', 'tags=["aftr"]', "has the tag 'aftr'; there are after, .*: 'It is 4"),
        ('# %% tags=["guess"]\npredict("5.1 how many", 3)\n', "", "a stub with no solution or guess right behind it"),
        ('# %% tags=["stub"]\npredict("5.1 how many", ...)\n', "", "a solution or guess with no stub right before"),
        ("check.simple_loss(simple_loss)", "pass", "a solution that no check follows"),
        ('tags=["parameters"]', "", "needs one cell of parameters"),
        ("# # 5. A title", "# A title", "must begin with words, and they with a title"),
    ],
)
def test_a_source_that_makes_no_two_versions_is_refused_with_the_place(source, old, new, told):
    with pytest.raises(ValueError, match=f"05_loss.py .*{told}"):
        learners(source(old, new))


def test_a_name_without_a_source_is_refused():
    with pytest.raises(ValueError, match="there is no source '99_none' in notebooks/source; there are "):
        build.build(("99_none",))


def output(kind="stream", **fields):
    """A notebook whose one cell shows one output."""
    cell = nbformat.v4.new_code_cell("show()", outputs=[nbformat.v4.new_output(kind, **fields)])
    return nbformat.v4.new_notebook(cells=[cell])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (dict(name="stderr", text="oh"), "complains: 'oh'"),
        (dict(kind="error", ename="E", evalue="bad", traceback=[]), "complains: 'bad'"),
        (dict(text="a DeprecationWarning: old"), "shows a warning"),
        (dict(text="in /home/me/x.py"), "a path of this machine: '/home/'"),
        (dict(kind="display_data", data={"text/html": "<b>/root/x</b>"}), "a path of this machine: '/root/'"),
        (dict(text="10 %\r20 %"), "half a progress bar"),
        (dict(kind="display_data", data={"application/vnd.jupyter.widget-view+json": {}}), "seen without a kernel"),
    ],
)
def test_outputs_that_may_not_be_saved_are_named(fields, told):
    [fault] = faults(output(**fields))
    assert fault.startswith("'show()' ") and told in fault


def test_clean_outputs_have_no_faults():
    assert not faults(output(text="https://arxiv.org/tmp/x and runs/digits: True"))


def test_a_progress_bar_that_was_shown_is_not_saved_and_other_widgets_are():
    data = [
        {VIEW: {}, "text/plain": told} for told in ("edited run:   0%|          | 0/4 [00:00<?, ?it/s]", "Slider()")
    ]
    notebook = nbformat.v4.new_notebook()
    outputs = [nbformat.v4.new_output("display_data", data=each) for each in data]
    notebook.cells = [nbformat.v4.new_code_cell(outputs=outputs)]
    tidy(notebook)
    assert [each.data["text/plain"] for each in notebook.cells[0].outputs] == ["Slider()"]


def test_figures_are_the_lines_that_the_tagged_cell_printed():
    notebook = output(text="first loss: 1.0\nread: 90%\n")
    assert build.figures(notebook) == {}
    notebook.cells[0].metadata["tags"] = ["figures"]
    assert build.figures(notebook) == {"first loss": "1.0", "read": "90%"}


def test_a_run_is_recorded_beside_the_others_and_a_new_one_takes_the_old_ones_place(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.record("05_loss", "# 5. A title\n\nWords", 2.04, 3.0, {"read": "90%"})
    results.record("01_noise", "# 1. Noise", 0.5, 0.5, {})
    results.record("05_loss", "# 5. A title", 1.0, 2.0, {"read": "80%"})
    page = (tmp_path / "course.md").read_text()
    assert page.index("| 1. Noise | 0.5 | 0.5 |") < page.index("| 5. A title | 1.0 | 2.0 |")
    assert "| read | 80% |" in page and "90%" not in page
