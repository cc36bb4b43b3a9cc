"""Two hundred drawn pictures of four shapes, as a person's folders of pictures: `python tests/shapes.py FOLDER`."""

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = "circle", "cross", "square", "star"


def draw(folder: Path, each: int = 50, sides=(40, 56)) -> None:
    """Shapes of four classes, `each` of every one, of any colour and size, as a person's folders of pictures."""
    chance = random.Random(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            picture = Image.new("RGB", [chance.randint(*sides) for _ in "wh"], colour(chance, 0, 110))
            shape(ImageDraw.Draw(picture), name, picture.size, chance)
            picture.save(folder / name / f"{number:03}.jpg", quality=92)


def colour(chance, low: int, high: int) -> tuple:
    return tuple(chance.randint(low, high) for _ in "rgb")


def shape(pen, name: str, size: tuple, chance) -> None:
    """One shape near the middle."""
    side, fill, turn = min(size), colour(chance, 130, 255), chance.uniform(0, math.pi)
    x, y = (each / 2 + chance.uniform(-0.12, 0.12) * side for each in size)
    radius = side * chance.uniform(0.2, 0.32)
    at = lambda part, reach: (
        x + reach * radius * math.cos(turn + part * math.tau),
        y + reach * radius * math.sin(turn + part * math.tau),
    )
    if name == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif name == "square":
        pen.polygon([at(k / 4, 1.1) for k in range(4)], fill=fill)
    elif name == "star":
        pen.polygon([at(k / 10, 1.2 if k % 2 else 0.5) for k in range(10)], fill=fill)
    else:
        for k in range(2):
            pen.line([at(k / 4, 1), at(k / 4 + 0.5, 1)], fill=fill, width=max(2, int(radius * 0.55)))


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
