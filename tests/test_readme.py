"""What the README says: its Python runs, its commands exist, its tree is the tree."""

import re
import shlex
from pathlib import Path

import pytest

from dit_lab.commands.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
TREE = next(block for _, block in BLOCKS if block.startswith("dit_lab/\n"))
CALLS = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("python -m dit_lab ")]


def test_the_python_in_the_readme_runs():
    names = {}
    for code in (block for kind, block in BLOCKS if kind == "python"):
        # XL/2 takes gigabytes and tells nothing that S/8 does not.
        exec(code.replace("DiT-XL/2", "DiT-S/8"), names)
    assert names["images"].shape == (3, 1, 28, 28)
    assert names["rows"].shape == (4, 1, 49)
    assert [round(sum(p.numel() for p in names[name].parameters()) / 1e6, 1) for name in ("model", "small")] == [
        58.9,
        52.0,
    ]


@pytest.mark.parametrize("call", CALLS)
def test_every_option_of_a_command_in_the_readme_exists(call, capsys, monkeypatch):
    _, _, _, name, *arguments = shlex.split(call)
    assert name in COMMANDS
    monkeypatch.setattr("sys.argv", ["dit_lab", name, "--help"])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().out
    assert not [word for word in arguments if word.startswith("--") and not re.search(rf"{word}\b", told)]


def test_the_readme_has_commands():
    assert len(CALLS) >= 4


def test_the_tree_names_every_module_and_none_that_is_gone():
    named = set(re.findall(r"[\w]+\.(?:py|txt)", TREE))
    there = {path.name for folder in ("dit_lab",) for path in (ROOT / folder).rglob("*.py")} | {"app.py"}
    assert there - named <= {"__init__.py"}
    assert named - there <= {"imagenet_classes.txt"}


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", TEXT))
def test_a_link_or_picture_leads_to_a_file(link):
    assert (ROOT / link).is_file()
