"""`python -m dit_lab course`: every notebook with its aim and time, and what was answered rightly here."""

import re

import pytest
from shared import ROOT

from dit_lab.course import EXERCISES, NOTEBOOKS, check


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    """A record of progress of its own."""
    monkeypatch.setenv("DIT_LAB_COURSE", str(tmp_path / "course.json"))


def test_it_lists_every_notebook_with_what_it_says_of_itself(command):
    code, told, complained = command("course")
    assert code == 0 and not complained
    numbers = [int(number) for number in re.findall(r"^([ \d]\d)  \S.*: (?:\d of \d|no) exercises", told, re.MULTILINE)]
    assert numbers == list(NOTEBOOKS)
    there = list((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert told.count("computing") >= len(there)


def test_it_counts_what_was_answered_rightly(command, capsys):
    before = command("course")[1]
    assert f"\n0 of {len(EXERCISES)} exercises done" in before and " 5  " in before
    check.simple_loss(EXERCISES["simple_loss"].solution)
    capsys.readouterr()
    after = command("course")[1]
    assert f"\n1 of {len(EXERCISES)} exercises done" in after
    [line] = [line for line in after.splitlines() if line.startswith(" 5  ")]
    assert line.endswith("1 of 3 exercises done")


def test_without_the_notebooks_it_lists_what_the_package_knows(command, tmp_path, monkeypatch):
    monkeypatch.setattr("dit_lab.commands.course.FOLDER", tmp_path / "none")
    told = command("course")[1]
    assert f"{1:2}  {NOTEBOOKS[1]}: 0 of 3" in told and "in the project's repository" in told
