"""`python -m dit_lab experiment gallery`: every figure of `inside.plots`, drawn from the zoo, beside its control."""

import re
import textwrap
from pathlib import Path

from tqdm.auto import tqdm

from dit_lab.data import Images, open_data
from dit_lab.experiments.page import save_figure, write_page
from dit_lab.experiments.plan import last_part
from dit_lab.experiments.sights import SECTIONS, Sight, Zoo
from dit_lab.experiments.sights.base import GUIDANCE
from dit_lab.files import make_folder, writable
from dit_lab.program import quoted

COMMAND = "python -m dit_lab experiment gallery"
SHAPE, CLASSES, FEWEST = (1, 28, 28), 10, 4  # of the digits; and steps, of which runs are cut into parts


def gallery_command(
    *, data: str = "ylecun/mnist", steps: int = 50, seed: int = 5, page: Path = Path("docs/inside.md")
) -> None:
    """Every figure of `inside.plots`, of the models that ship, as a page of pictures with what is seen there.

    Args:
        data: The digits that the models learnt from, with a train and a test split: a hub id or a local folder.
        steps: DDIM steps of a run, at guidance 2.
        seed: Of the noise.
        page: The page to write; its pictures go into a folder beside it, of the same name.
    """
    if steps < FEWEST:
        raise ValueError(f"steps must be at least {FEWEST}, not {steps}")
    if page.suffix != ".md":
        raise ValueError(f"the page must be named .md, not {quoted(str(page))}: its folder has the name without")
    folder = page.with_suffix("")
    files = {draw: folder / f"{draw.__name__}.png" for section in SECTIONS.values() for draw in section}
    writable(page, *files.values())
    zoo = Zoo(digits(data, "train"), digits(data, "test"), steps, seed)
    sights = {draw: draw(zoo) for draw in tqdm(files, desc="sights")}
    make_folder(folder)
    for draw, sight in tqdm(sights.items(), desc="pictures"):
        save_figure(sight.draw(), files[draw])
    about = settings(zoo, sights.values(), last_part(data))
    write_page(page, "A gallery of looks inside", COMMAND, f"{about}\n{told(sights, files, page.parent)}")
    print(f"{page}: {len(sights)} pictures in {folder}")


def digits(data: str, split: str) -> Images:
    """The real digits. Raises ValueError on pictures that the MNIST models cannot have learnt from."""
    found = open_data(data, split=split, size=SHAPE[-1])
    if not isinstance(found, Images) or found.shape != SHAPE or len(found.names) != CLASSES:
        raise ValueError(f"{quoted(data)} holds no grey pictures in {CLASSES} classes; give --data ylecun/mnist")
    return found


def settings(zoo: Zoo, sights, data: str) -> str:
    """Of which models all is, how they were run, and by which command."""
    models = dict.fromkeys(name for sight in sights for name in re.findall(r"`(\w+)`", sight.model))
    said = filled(
        f"Models of the zoo: {', '.join(f'`{name}`' for name in models)}. Runs have {zoo.steps} DDIM steps at guidance "
        f"{GUIDANCE:g} and the noise of seed {zoo.seed}; steps, blocks, heads and patches count from 0, and step 0 is "
        f"the noisiest. Real pictures are those of {data}. All of it was made by"
    )
    return f"{said}\n\n```\n{COMMAND}\n```"


def told(sights: dict, files: dict, beside: Path) -> str:
    """The sections, their sights in order."""
    lines = []
    for title, section in SECTIONS.items():
        lines += [f"\n## {title}", *(entry(sights[draw], files[draw].relative_to(beside)) for draw in section)]
    return "\n".join(lines)


def entry(sight: Sight, picture: Path) -> str:
    """A heading, the picture, and what is told of it."""
    parts = (
        f"\n### {sight.title}",
        f"![{sight.alt}]({picture.as_posix()})",
        filled(f"`{sight.draw.func.__name__}`: {sight.model}. {sight.seen}"),
        filled(f"*Control:* {sight.control}"),
    )
    return "\n\n".join(parts)


def filled(text: str) -> str:
    """A paragraph in lines of 120 letters at most."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
