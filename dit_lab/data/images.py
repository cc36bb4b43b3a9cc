"""Labelled images to train on: scikit-learn's digits, the small sets that ship, what `datasets` opens, or latents."""

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from dit_lab.data.kept import decoded
from dit_lab.data.latents import Latents, is_cache, open_latents
from dit_lab.data.picture_folders import LABEL_COLUMNS
from dit_lab.data.pictures import Encoded
from dit_lab.data.pixels import CROPS, DataError, as_pixels, shown
from dit_lab.data.shipped import SETS, folder_of, shipped_pictures
from dit_lab.data.splits import opened_splits, part, values_of
from dit_lab.program import quoted

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
# A set that would fill more memory than this is decoded batch by batch instead of at once.
MEMORY_LIMIT = 4 * 2**30
LOOKED_AT = 256
NAMED = 5


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures `pixels: n c h w` in uint8 (an array, or `Encoded`), `labels: n` in int64, and the classes' `names`.

    Without classes `names` is empty and every label is 0, which is the null label of a model without classes. `crop`
    is which of `CROPS` made them squares, where one did.
    """

    pixels: np.ndarray | Encoded
    labels: np.ndarray
    names: list[str]
    crop: str = "middle"

    def __len__(self):
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every picture."""
        return tuple(self.pixels.shape[1:])

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """What tells this set from another in a file: its size, and checksums of labels and of evenly spread pictures.

        Of a set with no more than `LOOKED_AT` pictures, of them all. A crop that is not the usual one is told too.
        """
        spread = np.unique(np.linspace(0, len(self) - 1, LOOKED_AT).astype(int))
        pictures = zlib.crc32(self.pixels[spread].tobytes())
        cropped = {} if self.crop == "middle" else {"crop": self.crop}
        labels = zlib.crc32(self.labels.tobytes())
        return {"pictures": len(self), "labels": labels, "pictures_checksum": pictures, **cropped}

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


def open_data(
    source: str | Path, *, split="train", size: int | None = None, labelled: bool = True, crop: str = "middle"
) -> Images | Latents:
    """Open `digits` (scikit-learn's), a local folder of parquet files or pictures, a hub id, or latents.

    Offline like the digits are `mnist-small`, 5,000 of MNIST's digits and 1,000 of its test digits, and
    `cifar10-latents-small`, the latents of 3,000 pictures by the zoo's VAE. Latents are a folder that
    `python -m dit_lab encode` wrote; what else a folder is, `folders` finds out. `size` makes every picture a square
    of that side: its middle square resized, or, with the `crop` adm, as ADM, DiT and SiT prepare ImageNet. A set with a
    single split also has the splits `tenth`, a tenth to hold back, always the same, and `rest`. Without `labelled`
    there are no classes. Raises DataError, in one sentence, on a set that cannot be opened or used.
    """
    check_asked(source, size, crop)
    folder = folder_of(str(source)) if str(source) in SETS else Path(os.path.expanduser(source))
    if str(source) == "digits" or (str(source) in SETS and not is_cache(folder)):
        pixels, labels, names = scikit_digits(split) if str(source) == "digits" else shipped_pictures(folder, split)
        pixels = pixels if size is None else resized(pixels, size, crop)
        return Images(pixels, labels, names, crop) if labelled else Images(pixels, np.zeros_like(labels), [], crop)
    if is_cache(folder):
        return cached(folder, split, size, labelled)
    splits, homes = opened_splits(str(source))
    return from_dataset(part(splits, split, str(source)), size, labelled, splits, homes, crop)


def check_asked(source: str | Path, size: int | None, crop: str) -> None:
    """Raise DataError on what no data set can be asked for."""
    if size is not None and size < 1:
        raise DataError(f"size must be at least 1, not {quoted(size)}")
    if not str(source):
        raise DataError("give a data set: digits, a hub id, or a folder")
    if crop not in CROPS:
        raise DataError(f"crop must be {' or '.join(CROPS)}, not {quoted(crop)}")
    if size is None and crop != "middle":
        raise DataError(f"the crop {crop} resizes pictures: say with --size to which side")


def cached(folder: Path, split: str, size: int | None, labelled: bool) -> Latents:
    """A cache of latents. Raises DataError also where something else is asked for than was encoded."""
    latents = open_latents(folder)
    if size is not None:
        raise DataError(f"{shown(folder)} holds latents, which have no other size; say --size when encoding")
    if (there := latents.about["split"]) != split:
        raise DataError(f"{shown(folder)} holds the latents of the split {shown(there)}, not {shown(split)}")
    return latents if labelled else replace(latents, labels=np.zeros_like(latents.labels), names=[])


def scikit_digits(split: str = "train") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scikit-learn's 1,797 digits of 8 x 8, 17 grey levels; every sixth is kept apart as the test split."""
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise DataError(f"digits has no split {quoted(split)}; it has train and test")
    digits = load_digits()
    kept = (np.arange(len(digits.target)) % 6 == 5) == (split == "test")
    pixels = np.rint(digits.images[kept, None] * 255 / 16).astype(np.uint8)
    return pixels, digits.target[kept].astype(np.int64), [str(digit) for digit in range(10)]


def resized(pixels: np.ndarray, size: int, crop: str = "middle") -> np.ndarray:
    """Grey pictures in memory at another side: `n 1 h w -> n 1 size size` in uint8."""
    from PIL import Image

    return np.stack([as_pixels(Image.fromarray(picture), True, size, crop=crop) for (picture,) in pixels])


def from_dataset(dataset, size=None, labelled=True, splits: dict | None = None, homes=(), crop="middle") -> Images:
    """Images from a `datasets.Dataset` with a picture and a label column; large sets stay encoded. Raises DataError.

    Classes without names are those of all its `splits`, so that a number means the same in each; `homes` is where
    files that it names may lie, as `Encoded` takes it.
    """
    import datasets

    if len(dataset) == 0:
        raise DataError("the data set is empty")
    labels, names = labels_of(dataset, splits or {}) if labelled else (np.zeros(len(dataset), dtype=np.int64), [])
    image = column(dataset, IMAGE_COLUMNS, "a picture")
    pictures = dataset.select_columns([image])
    if not isinstance(dataset.features[image], datasets.Image):
        raise DataError(f"the column {image} holds {shown(dataset.features[image])}, not pictures")
    encoded = Encoded(pictures.with_format("arrow"), size, homes, crop)
    if encoded.nbytes > MEMORY_LIMIT:
        encoded.look()
        return Images(encoded, labels, names, crop)
    pixels = decoded(encoded)
    return Images(pixels, labels[encoded.shown(range(len(labels)))], names, crop)


def labels_of(dataset, splits: dict) -> tuple[np.ndarray, list[str]]:
    """A data set's labels, `n` in int64, and its classes' names.

    Text and numbers without names become as many classes as there are in all the splits, in their order.
    """
    name = column(dataset, LABEL_COLUMNS, "a label")
    values = values_of(dataset, name)
    missing = next((place for place, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(f"picture {missing} has no label (the column {name} is empty there)")
    names = getattr(dataset.features[name], "names", None)
    if not all(isinstance(value, int) for value in values) and not all(isinstance(value, str) for value in values):
        raise DataError(f"the column {name} holds {shown(dataset.features[name])}, not a class a picture")
    if names is None:
        others = (values_of(other, name) for other in splits.values() if name in other.features)
        names = classes_of(values, others)
        values = list(map({value: number for number, value in enumerate(names)}.get, values))
    labels = np.array(values, dtype=np.int64)
    if (wrong := (labels < 0) | (labels >= len(names))).any():
        place = int(np.argmax(wrong))
        raise DataError(f"the label {labels[place]} of picture {place} is not one of 0 to {len(names) - 1}")
    return labels, [name if isinstance(name, str) else str(int(name)) for name in names]


def classes_of(values: list, others: Iterable[list]) -> list:
    """The classes that labels without names are, in order, those that only `others` have too. Raises DataError."""
    if isinstance(values[0], int) and min(values) < 0:
        place = values.index(min(values))
        raise DataError(f"the label {values[place]} of picture {place} is below 0, and no class")
    kind = type(values[0])
    more = {value for other in others for value in other if type(value) is kind and (kind is str or value >= 0)}
    return sorted(more.union(values))


def column(dataset, names: Sequence[str], what: str) -> str:
    """The first of `names` among a data set's columns. Raises DataError naming what is there."""
    for name in names:
        if name in dataset.features:
            return name
    advice = "to train without classes, give train or encode --no-labelled" if names is LABEL_COLUMNS else ""
    there = ", ".join(map(shown, list(dataset.features)[:NAMED])) or "no columns"
    raise DataError(f"no column with {what} ({', '.join(names)}) in this data set, which has {there}", advice)
