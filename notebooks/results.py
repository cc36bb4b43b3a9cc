"""What a full run of each notebook took, and the figures that it ended with, kept in docs/results and as a page."""

import os
import platform
from pathlib import Path

import torch

from dit_lab.files import atomic, read_json, write_json
from dit_lab.models import pick_device

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGE = """\
# The course, run in full

Every notebook, solved and executed from top to bottom by `python notebooks/build.py --run`: how long it took, and the
figures that it ended with. Reading, guessing and writing take longer. Core minutes are what the CPU's cores computed,
all together; they depend less on what else the machine had to do.

| notebook | minutes | core minutes | on |
| --- | ---: | ---: | --- |
{rows}

{figures}
"""


def record(name: str, words: str, minutes: float, of_core: float, figures: dict[str, str]) -> None:
    """Note a full run of a notebook, whose first words are `words`, on the kind of device that computes here."""
    path = RESULTS / "course.json"
    known = read_json(path) if path.exists() else {}
    run = {"minutes": round(minutes, 1), "core_minutes": round(of_core, 1), "machine": machine(), "figures": figures}
    known.setdefault(name, {})["title"] = words.partition("\n")[0].removeprefix("# ")
    known[name][pick_device("auto").type] = run
    write_json(path, dict(sorted(known.items())))
    with atomic(RESULTS / "course.md") as partial:
        partial.write_text(page(known), encoding="utf-8")


def page(known: dict) -> str:
    """All runs as a page."""
    runs = [(each["title"], run) for _, each in sorted(known.items()) for kind, run in each.items() if kind != "title"]
    rows = [f"| {title} | {run['minutes']:.1f} | {run['core_minutes']:.1f} | {run['machine']} |" for title, run in runs]
    told = []
    for title, run in runs:
        lines = [f"| {name} | {value} |" for name, value in run["figures"].items()]
        if lines:
            head = f"## {title}\n\nOn {run['machine']}.\n\n| figure | value |\n| --- | --- |\n"
            told.append(head + "\n".join(lines))
    return PAGE.format(rows="\n".join(rows), figures="\n\n".join(told)).rstrip() + "\n"


def machine() -> str:
    """What computes here, in words."""
    kind = pick_device("auto").type
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return "an Apple GPU" if kind == "mps" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
