"""Labelled images to train on: scikit-learn's digits, anything that `datasets` opens, or a cache of latents."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from dit_lab.data.latents import Latents, is_cache, open_latents
from dit_lab.data.pictures import DataError, Encoded, as_pixels

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "cls", "fine_label")
# A set that would fill more memory than this is decoded batch by batch instead of at once.
MEMORY_LIMIT = 4 * 2**30
LOOKED_AT = 256


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures `pixels: n c h w` in uint8 (an array, or `Encoded`), `labels: n` in int64, and the classes' `names`.

    Without classes `names` is empty and every label is 0, which is the null label of a model without classes.
    """

    pixels: np.ndarray | Encoded
    labels: np.ndarray
    names: list[str]

    def __len__(self):
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every picture."""
        return tuple(self.pixels.shape[1:])

    @cached_property
    def fingerprint(self) -> dict[str, int]:
        """What tells this set from another in a file: its size, and checksums of labels and of evenly spread pictures.

        Of a set with no more than `LOOKED_AT` pictures, of them all.
        """
        spread = np.unique(np.linspace(0, len(self) - 1, LOOKED_AT).astype(int))
        pictures = zlib.crc32(self.pixels[spread].tobytes())
        return {"pictures": len(self), "labels": zlib.crc32(self.labels.tobytes()), "pictures_checksum": pictures}

    @property
    def labels_shown(self) -> np.ndarray:
        """Each place's label as shown, `n`: where a picture that did not decode was replaced, the replacement's."""
        encoded = isinstance(self.pixels, Encoded)
        return self.labels[self.pixels.shown(range(len(self)))] if encoded else self.labels

    @property
    def codec(self) -> str:
        """What the channels are, as a checkpoint's `codec_hint` says it."""
        return "pixels"

    def batch(self, indices: Sequence[int], mirrored=None, noise=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures in [-1, 1] and their labels: `indices: b -> (b c h w, b)`.

        `mirrored: b` in bool says which to flip left to right; `noise` is for latents, pictures have no distribution.
        """
        pixels = torch.from_numpy(self.pixels[indices])
        if isinstance(self.pixels, Encoded):
            indices = self.pixels.shown(indices)  # only now: decoding found out
        if mirrored is not None:
            pixels = torch.where(rearrange(torch.as_tensor(mirrored), "b -> b 1 1 1"), pixels.flip(-1), pixels)
        return pixels.float() / 127.5 - 1, torch.from_numpy(self.labels[indices])


def open_data(source: str | Path, *, split="train", size: int | None = None, labelled: bool = True) -> Images | Latents:
    """Open `digits` (scikit-learn's, offline), a local folder of parquet files or pictures, a hub id, or latents.

    Latents are a folder that `python -m dit_lab encode` wrote. `size` crops every picture to its middle square and
    resizes it to that side; without `labelled` there are no classes. Raises DataError, in one sentence, on a set that
    cannot be opened or used.
    """
    if size is not None and size < 1:
        raise DataError(f"size must be at least 1, not {size}")
    if not str(source):
        raise DataError("give a data set: digits, a hub id, or a folder")
    if str(source) == "digits":
        images = scikit_digits(split, size)
        return images if labelled else Images(images.pixels, np.zeros_like(images.labels), [])
    if is_cache(folder := Path(source).expanduser()):
        return cached(folder, split, size, labelled)
    return from_dataset(opened_dataset(str(source), split), size, labelled)


def cached(folder: Path, split: str, size: int | None, labelled: bool) -> Latents:
    """A cache of latents. Raises DataError also where something else is asked for than was encoded."""
    latents = open_latents(folder)
    if size is not None:
        raise DataError(f"{folder} holds latents, which have no other size; say --size when encoding")
    if (there := latents.about["split"]) != split:
        raise DataError(f"{folder} holds the latents of the split {there}, not {split}")
    return latents if labelled else replace(latents, labels=np.zeros_like(latents.labels), names=[])


def scikit_digits(split: str = "train", size: int | None = None) -> Images:
    """Scikit-learn's 1,797 digits of 8 x 8, 17 grey levels; every sixth is kept apart as the test split."""
    from PIL import Image
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise DataError(f"digits has no split {split!r}; it has train and test")
    digits = load_digits()
    kept = (np.arange(len(digits.target)) % 6 == 5) == (split == "test")
    pixels = np.rint(digits.images[kept, None] * 255 / 16).astype(np.uint8)
    if size is not None:
        pixels = np.stack([as_pixels(Image.fromarray(picture), True, size) for (picture,) in pixels])
    return Images(pixels, digits.target[kept].astype(np.int64), [str(digit) for digit in range(10)])


def opened_dataset(source: str, split: str):
    """A `datasets.Dataset` from a folder or the hub. Raises DataError; what looks like a path never goes to the hub."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise DataError(f"{source} is a file; give the folder it lies in")
        if source.count("/") > 1 or source.startswith(("/", ".", "~")) or source.endswith("/") or "\\" in source:
            raise DataError(f"there is no folder {source}")
    from datasets import load_dataset

    try:
        return load_dataset(str(folder) if folder.is_dir() else source, split=split)
    except Exception as error:  # this library, its file formats and its network each raise errors of their own
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        if folder.is_dir():
            raise DataError(f"the folder {source} does not open as a data set: {reason}") from error
        raise DataError(
            f"there is no folder {source}, and as a hub id it does not open: {reason}; "
            "without the hub, give a local folder of parquet files, or of pictures with a subfolder a class"
        ) from error


def from_dataset(dataset, size: int | None = None, labelled: bool = True) -> Images:
    """Images from a `datasets.Dataset` with a picture and a label column; large sets stay encoded. Raises DataError."""
    import datasets

    if len(dataset) == 0:
        raise DataError("the data set is empty")
    labels, names = labels_of(dataset) if labelled else (np.zeros(len(dataset), dtype=np.int64), [])
    image = column(dataset, IMAGE_COLUMNS, "a picture")
    pictures = dataset.select_columns([image])
    if not isinstance(dataset.features[image], datasets.Image):
        raise DataError(f"the column {image} holds {dataset.features[image]}, not pictures")
    encoded = Encoded(pictures.with_format("arrow"), size)
    if encoded.nbytes > MEMORY_LIMIT:
        return Images(encoded, labels, names)
    pixels = encoded.all()
    return Images(pixels, labels[encoded.shown(range(len(labels)))], names)


def labels_of(dataset) -> tuple[np.ndarray, list[str]]:
    """A data set's labels, `n` in int64, and its classes' names; text becomes classes in alphabetical order."""
    name = column(dataset, LABEL_COLUMNS, "a label")
    values = dataset.select_columns([name]).with_format("arrow")[:][name].to_pylist()
    missing = next((place for place, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(f"picture {missing} has no label (the column {name} is empty there)")
    names = getattr(dataset.features[name], "names", None)
    if names is None and all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        values = list(map({text: number for number, text in enumerate(names)}.get, values))
    if not all(isinstance(value, int) for value in values):
        raise DataError(f"the column {name} holds {dataset.features[name]}, not a class a picture")
    labels = np.array(values, dtype=np.int64)
    # Numbers without names are taken for classes only while that leaves no more classes than pictures.
    classes = len(names or labels)
    if ((labels < 0) | (labels >= classes)).any():
        place = int(np.argmax((labels < 0) | (labels >= classes)))
        raise DataError(f"the label {labels[place]} of picture {place} is not one of 0 to {classes - 1}")
    return labels, list(names or map(str, range(labels.max() + 1)))


def column(dataset, names: Sequence[str], what: str) -> str:
    """The first of `names` among a data set's columns. Raises DataError naming what is there."""
    for name in names:
        if name in dataset.features:
            return name
    hint = "; to train without classes, say --no-labelled" if names is LABEL_COLUMNS else ""
    there = ", ".join(dataset.features) or "no columns"
    raise DataError(f"no column with {what} ({', '.join(names)}) in this data set, which has {there}{hint}")
