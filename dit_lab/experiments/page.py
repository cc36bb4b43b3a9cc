"""What came out of an experiment, as a page: its table, how its figures were made, and what people wrote around."""

import re
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from dit_lab.experiments.judge import ACCURACY, HELD_BACK, MEASURED, REBUILT
from dit_lab.files import atomic

WRITTEN = re.compile(r"<!-- written by .*? -->")  # whatever the command was called then
END = "<!-- end -->"


class Part(NamedTuple):
    """A further part of what came out: its heading, its figure, and its tables with what a reader must know."""

    title: str
    figure: Figure
    markdown: str


def sections(parts: dict[str, Part], stem: str) -> str:
    """The parts under their headings, each with its figure, `STEM_name.png`; nothing where there are none."""
    drawn = lambda name, part: f"![{part.title}]({stem}_{name}.png)"
    return "".join(f"\n\n## {p.title}\n\n{drawn(name, p)}\n\n{p.markdown}" for name, p in parts.items())


def by_model(table: dict, names) -> dict[str, list[dict]]:
    """The runs of each model that has any, in the order of `names`."""
    runs = {name: [row for row in table["runs"] if row["model"] == name] for name in names}
    return {name: rows for name, rows in runs.items() if rows}


def spelt(runs: list[dict], field: str, form: str) -> str:
    """`0.0461 ± 0.0003`, the mean of a field and half of its range; without the second for a single run."""
    values = [run[field] for run in runs]
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:{form}}" + (f" ± {half:{form}}" if len(values) > 1 else "")


def judged(runs: list[dict]) -> str:
    """Three columns of a table: the loss on unseen pictures, the Fréchet distance, and the share seen as asked."""
    columns = ("test_mse", ".4f"), ("frechet", ".1f"), ("agreement", ".0%")
    return " | ".join(spelt(runs, *column) for column in columns)


def verdict(claimed: list[dict], other: list[dict], field: str) -> str:
    """Whether the claimed one's field is lower with every seed: `held`, `failed`, or with how many; rows by seed."""
    lower = [one[field] < two[field] for one, two in zip(claimed, other, strict=True)]
    if len({*lower}) > 1:
        return f"{sum(lower)} of {len(lower)} seeds"
    return "held" if lower[0] else "failed"


def told(table: dict) -> str:
    """Under a table: how its figures were made."""
    settings, seeds = table["settings"], sorted({run["seed"] for run in table["runs"]})
    plain = lambda value: ", ".join(map(str, value)) if isinstance(value, list) else value
    left_out = (MEASURED, REBUILT, ACCURACY, HELD_BACK, *(name for name, value in settings.items() if value is None))
    said = "; ".join(f"{name} {plain(value)}" for name, value in settings.items() if name not in left_out)
    floor = settings.get(REBUILT)
    rebuilt = "" if floor is None else f", between test pictures and what the VAE makes of them {floor:.2f}"
    known = ACCURACY in settings  # results that are older do not say it
    read = f" and reads {settings[ACCURACY]:.1%} of {settings[HELD_BACK]:,} that were held back" if known else ""
    half = " Figures are means over the seeds ± half of their range." if len(seeds) > 1 else ""
    return (
        f"Seeds {', '.join(map(str, seeds))}; {said}.{half} The Fréchet distance is that of the project's own "
        f"classifier, which saw real training pictures only{read}; between real training and test pictures it is "
        f"{settings[MEASURED]:.2f}{rebuilt}."
    )


def write_page(page: Path, title: str, command: str, written: str) -> None:
    """Put what a command wrote between its marks in a page; what people wrote around them stays."""
    begin = f"<!-- written by {command} -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# {title}\n\n{begin}{END}\n"
    before, after = WRITTEN.split(text, maxsplit=1)[0], text.partition(END)[2]
    with atomic(page) as partial:
        partial.write_text(f"{before}{begin}\n{written}\n{END}{after}", encoding="utf-8")


def save_figure(figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
