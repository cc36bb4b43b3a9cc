"""Labelled images to train on: scikit-learn's digits, anything that `datasets` opens, or a cache of latents."""

import os
import zlib
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from dit_lab.data.folders import opened_folder
from dit_lab.data.latents import Latents, is_cache, open_latents
from dit_lab.data.picture_folders import LABEL_COLUMNS
from dit_lab.data.pictures import Encoded
from dit_lab.data.pixels import DataError, as_pixels, shown
from dit_lab.program import quoted

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
# A set that would fill more memory than this is decoded batch by batch instead of at once.
MEMORY_LIMIT = 4 * 2**30
LOOKED_AT = 256
NAMED = 5


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

    Latents are a folder that `python -m dit_lab encode` wrote; what else a folder is, `folders` finds out. `size` crops
    every picture to its middle square and resizes it to that side; without `labelled` there are no classes. Raises
    DataError, in one sentence, on a set that cannot be opened or used.
    """
    if size is not None and size < 1:
        raise DataError(f"size must be at least 1, not {quoted(size)}")
    if not str(source):
        raise DataError("give a data set: digits, a hub id, or a folder")
    if str(source) == "digits":
        images = scikit_digits(split, size)
        return images if labelled else Images(images.pixels, np.zeros_like(images.labels), [])
    if is_cache(folder := Path(os.path.expanduser(source))):
        return cached(folder, split, size, labelled)
    splits, homes = opened_splits(str(source))
    return from_dataset(part(splits, split, str(source)), size, labelled, splits, homes)


def cached(folder: Path, split: str, size: int | None, labelled: bool) -> Latents:
    """A cache of latents. Raises DataError also where something else is asked for than was encoded."""
    latents = open_latents(folder)
    if size is not None:
        raise DataError(f"{shown(folder)} holds latents, which have no other size; say --size when encoding")
    if (there := latents.about["split"]) != split:
        raise DataError(f"{shown(folder)} holds the latents of the split {shown(there)}, not {shown(split)}")
    return latents if labelled else replace(latents, labels=np.zeros_like(latents.labels), names=[])


def scikit_digits(split: str = "train", size: int | None = None) -> Images:
    """Scikit-learn's 1,797 digits of 8 x 8, 17 grey levels; every sixth is kept apart as the test split."""
    from PIL import Image
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise DataError(f"digits has no split {quoted(split)}; it has train and test")
    digits = load_digits()
    kept = (np.arange(len(digits.target)) % 6 == 5) == (split == "test")
    pixels = np.rint(digits.images[kept, None] * 255 / 16).astype(np.uint8)
    if size is not None:
        pixels = np.stack([as_pixels(Image.fromarray(picture), True, size) for (picture,) in pixels])
    return Images(pixels, digits.target[kept].astype(np.int64), [str(digit) for digit in range(10)])


def opened_splits(source: str) -> tuple[dict, Sequence[Path] | None]:
    """The data sets of a folder or a hub id by split, and where files that they name may lie, as `Encoded` takes it.

    Raises DataError; what looks like a path never goes to the hub, nor what `datasets` calls a kind of file, as which
    it would open the current folder.
    """
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        with explained(f"the folder {shown(source)} does not open as a data set"):
            return opened_folder(folder)
    if folder.exists():
        raise DataError(f"{shown(source)} is a file; give the folder it lies in")
    if source.count("/") > 1 or source.startswith(("/", ".", "~")) or source.endswith("/") or "\\" in source:
        raise DataError(f"there is no folder {shown(source)}")
    from datasets import config, load_dataset
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as kinds
    from huggingface_hub.constants import HF_HUB_CACHE

    if source in kinds:
        raise DataError(f"there is no folder {source}, and {source} is a kind of file, no data set; give a folder")
    homes = [Path(HF_HUB_CACHE, f"datasets--{source.replace('/', '--')}"), Path(config.DOWNLOADED_DATASETS_PATH)]
    elsewhere = "without the hub, give a local folder of parquet files, or of pictures with a subfolder a class"
    with explained(f"there is no folder {shown(source)}, and as a hub id it does not open", elsewhere):
        return load_dataset(source), homes


@contextmanager
def explained(what: str, advice: str = ""):
    """Around opening a data set: whatever `datasets`, its file formats and its network raise becomes a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError("; ".join(filter(None, (f"{what}: {shown(reason)}", advice)))) from error


def part(splits: dict, split: str, source: str):
    """One of the splits, or what is cut out of them: `train[:100]`, `train+test`. Raises DataError naming those."""
    import datasets

    try:
        wanted = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(splits[name]) for name in splits})
    except (ValueError, AssertionError) as error:
        there = ", ".join(map(shown, list(splits)[:NAMED]))
        raise DataError(f"{shown(source)} has no split {shown(split)}; it has {there}") from error
    return datasets.concatenate_datasets([splits[cut.splitname].select(range(cut.from_, cut.to)) for cut in wanted])


def from_dataset(dataset, size=None, labelled=True, splits: dict | None = None, homes=()) -> Images:
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
    encoded = Encoded(pictures.with_format("arrow"), size, homes)
    if encoded.nbytes > MEMORY_LIMIT:
        encoded.look()
        return Images(encoded, labels, names)
    pixels = encoded.all()
    return Images(pixels, labels[encoded.shown(range(len(labels)))], names)


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


def values_of(dataset, name: str) -> list:
    """What is in a column, as Python's values."""
    return dataset.select_columns([name]).with_format("arrow")[:][name].to_pylist()


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
    hint = "; to train without classes, say --no-labelled" if names is LABEL_COLUMNS else ""
    there = ", ".join(map(shown, list(dataset.features)[:NAMED])) or "no columns"
    raise DataError(f"no column with {what} ({', '.join(names)}) in this data set, which has {there}{hint}")
