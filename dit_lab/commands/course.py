"""`python -m dit_lab course`: the notebooks, what each is for, and how far one has come."""

import json
import re
from pathlib import Path

from dit_lab.course import EXERCISES, NOTEBOOKS, passed

FOLDER = Path(__file__).parents[2] / "notebooks"  # in a checkout; an installed package comes without
LINE = re.compile(r"^\*\*(\w+):\*\* +(.+?)(?=\n\n|\n\*\*|\Z)", re.DOTALL | re.MULTILINE)


def course_command() -> None:
    """List the notebooks of the course with their aim, the time they take, and the exercises answered rightly here."""
    done = passed()
    for number, title in NOTEBOOKS.items():
        names = [name for name, exercise in EXERCISES.items() if exercise.notebook == number]
        told = opening(number)
        right = sum(name in done for name in names)
        progress = f"{right} of {len(names)} exercises done" if names else "no exercises"
        print(f"{number:2}  {told.get('title', title)}: {progress}")
        print(*(f"    {told[name]}\n" for name in ("Aim", "Time") if name in told), sep="", end="")
    share = len(done & {*EXERCISES})
    print(f"\n{share} of {len(EXERCISES)} exercises done. ", end="")
    print("make notebooks opens them." if FOLDER.is_dir() else "The notebooks are in the project's repository.")


def opening(number: int) -> dict[str, str]:
    """What a notebook says of itself in its first cell: its title, and the lines that begin with a name."""
    for path in FOLDER.glob(f"{number:02}_*.ipynb"):
        words = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        lines = {name: " ".join(line.split()) for name, line in LINE.findall(words)}
        return lines | {"title": re.sub(r"^# (\d+\. )?", "", words.partition("\n")[0])}
    return {}
