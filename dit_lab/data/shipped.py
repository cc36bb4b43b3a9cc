"""Small data sets that ship with the package, so that a notebook has them at once and without a network.

A set of pictures is a folder of the zoo with one PNG a split, all its pictures in rows, and `about.json`: whose they
are, and every picture's label. Latents are a cache as any (`latents`). `python -m dit_lab.zoo.data` makes them.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
from einops import rearrange

from dit_lab.data.pixels import DataError, opened, shown
from dit_lab.data.rules import Rule, each, text, whole
from dit_lab.files import check_fields, read_json, write_json

ABOUT = "about.json"
# The sets by the name that `open_data` takes, and the folder of the zoo that holds each.
SETS = {"mnist-small": "mnist_small", "cifar10-latents-small": "cifar10_latents_small"}
COLUMNS = 50  # pictures in a row of the PNG
SPLITS = Rule(
    lambda x: isinstance(x, dict) and 0 < len(x) <= 10 and all(map(text(2**16).fits, [*x, *x.values()])),
    "labels by split",
)
FIELDS = {"size": each(whole(1, 2**10), 2, 2), "names": each(text(100), 10), "splits": SPLITS}


def folder_of(name: str) -> Path:
    """Where a set lies."""
    return Path(str(files("dit_lab.zoo"))) / SETS[name]


def shipped_pictures(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The pictures of a split, `n 1 h w` in uint8, their labels, `n` in int64, and the classes' names.

    Raises DataError on a split that there is not, and on a folder that is not whole.
    """
    try:
        about = read_json(folder / ABOUT)
        check_fields(about, **FIELDS)
        if split not in about["splits"]:
            raise DataError(f"{shown(folder.name)} has no split {shown(split)}; it has {', '.join(about['splits'])}")
        labels, (h, w) = np.array(list(map(int, about["splits"][split]))), about["size"]
        with opened(folder / f"{split}.png") as picture:
            atlas = np.asarray(picture.convert("L"))
        pixels = rearrange(atlas, "(row h) (column w) -> (row column) 1 h w", h=h, w=w)[: len(labels)]
        if len(pixels) != len(labels) or labels.max() >= len(about["names"]):
            raise ValueError(f"{len(pixels)} pictures and {len(labels)} labels in {len(about['names'])} classes")
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"the data set in {folder} is not whole ({error}); install the package anew") from error
    return np.ascontiguousarray(pixels), labels.astype(np.int64), about["names"]


def ship_pictures(folder: Path, splits: dict, told: dict) -> None:
    """Write sets of grey pictures (an `Images` by split, in ten classes at most), and what is `told` of them."""
    from PIL import Image

    about = {**told, "splits": {}}
    for split, images in splits.items():
        rows = -(-len(images) // COLUMNS)
        padded = np.zeros((rows * COLUMNS, *images.shape), np.uint8)
        padded[: len(images)] = images.pixels
        atlas = rearrange(padded, "(row column) 1 h w -> (row h) (column w)", column=COLUMNS)
        Image.fromarray(atlas).save(folder / f"{split}.png", optimize=True)
        about |= {"size": list(images.shape[1:]), "names": images.names}
        about["splits"][split] = "".join(map(str, images.labels.tolist()))
    write_json(folder / ABOUT, about)
