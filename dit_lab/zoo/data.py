"""`python -m dit_lab.zoo.data`: the small data sets that ship, cut out of MNIST and CIFAR-10, and encoded.

Of every class the first so many, in the order of the source, so that the same command writes the same pictures.
"""

from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from dit_lab.data import Autoencoder, Images, open_data, open_vae
from dit_lab.data.encoding import about, check_folder, moments_of
from dit_lab.data.latents import write_index, write_shard
from dit_lab.data.latents_index import INDEX
from dit_lab.data.shipped import ABOUT, SETS, ship_pictures
from dit_lab.files import make_folder, writable
from dit_lab.program import run

TOLD = {
    "source": "MNIST, Yann LeCun, Corinna Cortes, Christopher Burges: https://huggingface.co/datasets/ylecun/mnist",
    "licence": "CC BY-SA 3.0, copyright Yann LeCun and Corinna Cortes, derived from NIST's data",
}


def data_command(
    *, mnist: str = "ylecun/mnist", cifar10: str = "uoft-cs/cifar10", out: Path = Path("dit_lab/zoo"),
    digits: int = 500, test_digits: int = 100, latents: int = 300,
) -> None:  # fmt: skip
    """Write the small data sets that ship, into folders of their own.

    Args:
        mnist: MNIST: a hub id or a local folder.
        cifar10: CIFAR-10: a hub id or a local folder.
        out: Where the folders are.
        digits: Training digits a class.
        test_digits: Test digits a class.
        latents: Pictures of CIFAR-10 a class.
    """
    if min(digits, test_digits, latents) < 1:
        raise ValueError("digits, test_digits and latents must be at least 1")
    pictures, encoded = (out / folder for folder in SETS.values())
    writable(pictures / ABOUT, encoded / INDEX)
    splits = {"train": digits, "test": test_digits}
    kept = {split: first(open_data(mnist, split=split), count) for split, count in splits.items()}
    make_folder(pictures)
    ship_pictures(pictures, kept, TOLD)
    ship_latents(encoded, first(open_data(cifar10), latents), "cifar10_vae")


def first(images: Images, count: int) -> Images:
    """The first pictures of every class, `count` of each, in their order."""
    places = [np.flatnonzero(images.labels == label)[:count] for label in range(len(images.names))]
    if short := [name for name, found in zip(images.names, places, strict=True) if len(found) < count]:
        raise ValueError(f"the data has fewer than {count} pictures of {short[0]}")
    chosen = np.sort(np.concatenate(places))
    return Images(images.pixels[chosen], images.labels[chosen], images.names)


def ship_latents(folder: Path, images: Images, vae: str) -> None:
    """Encode pictures into one shard, their latents' means alone: the spread is small, and as large on disk."""
    codec = Autoencoder(open_vae(vae))
    made = about(images, codec, vae, "train", len(images), "fp32") | {"distribution": False}
    check_folder(folder, made)
    make_folder(folder)
    with tqdm(total=len(images), desc="encoding") as bar:
        mean, _, labels = moments_of(images, range(len(images)), codec.moments, 100, bar)
    write_shard(folder, 0, made, mean, None, labels)
    write_index(folder, made, images.names)


if __name__ == "__main__":
    run(data_command, "dit_lab.zoo.data")
