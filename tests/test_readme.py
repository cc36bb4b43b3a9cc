"""What README, docs and notebooks say: Python runs, commands exist, the tree is the tree, the walk can be walked."""

import json
import re
import shlex

import pytest
from shared import ROOT

from dit_lab.commands.cli import COMMANDS, EXPERIMENTS

PATTERNS = "README.md", "docs/**/*.md", "dit_lab/zoo/*/README.md", "notebooks/*.ipynb"
PAGES = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
TREE = next(block for _, block in BLOCKS if block.startswith("dit_lab/\n"))
WALK = TEXT.partition("### A class label's way")[2].partition("\n## ")[0]


def text_of(page):
    """What a page says; of a notebook, without what its cells showed."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text.replace("\\\n", " ")


def calls():
    """Every command line of ours in the pages, its continued lines joined, from the command's name on."""
    for page in PAGES:
        for line in re.findall(r"-m dit_lab (\w.*?)(?= -->|[#`\n])", text_of(page)):
            words = shlex.split(line)
            yield pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)}"[:120])


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


@pytest.mark.parametrize("words", list(calls()))
def test_every_option_of_a_command_in_the_pages_exists(words, command):
    name = words[:2] if words[0] == "experiment" else words[:1]
    code, told, _ = command(*name, "--help")
    assert code == 0 and f"usage: dit_lab {' '.join(name)}" in told
    assert not [word for word in words if word.startswith("--") and not re.search(rf"{word}\b", told)]


def test_the_pages_have_commands():
    told = [param.values[0] for param in calls()]
    assert {words[0] for words in told} == COMMANDS.keys()
    assert {words[1] for words in told if words[0] == "experiment"} == EXPERIMENTS.keys()


def test_the_tree_names_every_wing_and_room_at_the_top_and_none_that_is_gone():
    named = re.findall(r"^  (\w+(?:/|\.py)) +\w", TREE, flags=re.MULTILINE)
    wings = [f"{path.parent.name}/" for path in ROOT.glob("dit_lab/*/__init__.py")]
    rooms = [path.name for path in ROOT.glob("dit_lab/*.py") if not path.name.startswith("__")]
    assert sorted(named) == sorted([*wings, *rooms])
    assert all((ROOT / name).exists() for name in re.findall(r"^(\w+(?:/|\.py)) ", TREE, flags=re.MULTILINE))
    assert max(map(len, TREE.splitlines())) <= 120


def test_the_walk_goes_through_seven_rooms_and_names_what_is_in_them():
    rooms = re.findall(
        r"^\d\. \[`([\w/]+\.py)`\]\(dit_lab/([\w/]+\.py)\)(.*?)(?=^\d\. |\Z)", WALK, re.DOTALL | re.MULTILINE
    )
    assert len(rooms) == 7 and all(shown == led_to for shown, led_to, _ in rooms)
    for room, _, told in rooms:
        code = (ROOT / "dit_lab" / room).read_text(encoding="utf-8")
        for name in re.findall(r"`([A-Z]\w+)`", told):
            assert re.search(rf"\b{name}\b", code), f"{room} has no {name}"


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", TEXT))
def test_a_link_or_picture_leads_to_a_file(link):
    assert (ROOT / link).is_file()
