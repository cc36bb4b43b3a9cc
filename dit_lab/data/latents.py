"""A cache of latents: a data set encoded once by a VAE, so that training never runs it (DiT paper, section 4).

The cache is a folder of shards, safetensors files of `mean` and `std` (`n flip c h w` in fp16, flip 1 being the
left-right mirrored picture's, both scaled as a model sees them) and `labels: n`, and an index, `latents.json`, which is
written last. With mean and std a run draws a fresh latent each epoch, as encoding anew would.
"""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from safetensors.torch import save

from dit_lab.data.latents_index import (
    AGAIN,
    INDEX,
    VERSION,
    opened_shard,
    read_index,
    shard_count,
    shard_path,
)
from dit_lab.data.pictures import DataError
from dit_lab.files import atomic, write_json

SAME = ("encoder_checksum", "size", "pictures_checksum")
NAMED = 3  # faults in one sentence


@dataclass(frozen=True, eq=False)
class Latents:
    """Encoded pictures, with the contract of `images.Images`; of the shards' files only what is asked for is read.

    `about` is what the latents were made from and with (`encoding.about`), `slices` the shards' tensors by name.
    """

    about: dict
    labels: np.ndarray
    names: list[str]
    slices: list[dict] = field(repr=False)

    def __len__(self):
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every latent."""
        return tuple(self.about["shape"])

    @property
    def codec(self) -> str:
        """The VAE's name, for a checkpoint's `codec_hint`."""
        return self.about["vae"]

    @property
    def encoder(self) -> str:
        """What tells the encoder that made the latents, and their scaling, from others, whatever their VAE's name."""
        return self.about["encoder_checksum"]

    @property
    def fingerprint(self) -> dict:
        """What tells this set from another in a file."""
        same = {name: self.about[name] for name in (*SAME, "crop") if name in self.about}
        return {"pictures": len(self), "labels": zlib.crc32(self.labels.tobytes()), **same}

    def batch(self, indices: Sequence[int], mirrored=None, noise=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and their labels: `indices: b -> (b c h w, b)`.

        `mirrored: b` in bool takes the flipped picture's; `noise: b c h w`, standard normal, draws from each latent's
        distribution, whose mean it is without.
        """
        indices = np.asarray(indices)
        flips = np.zeros(len(indices), dtype=int) if mirrored is None else np.asarray(mirrored).astype(int)
        x = self.rows("mean", indices, flips)
        if noise is not None and self.about["distribution"]:
            x = x + self.rows("std", indices, flips) * noise
        return x, torch.from_numpy(self.labels[indices])

    def rows(self, name: str, indices, flips) -> torch.Tensor:
        """Rows of the tensors of that name over all shards: `indices: b, flips: b -> b c h w`."""
        per = self.about["shard_size"]
        places = zip(indices.tolist(), flips.tolist(), strict=True)
        read = [self.slices[i // per][name][i % per, flip] for i, flip in places]
        return torch.stack(read).float()


def is_cache(folder: Path) -> bool:
    """Whether a folder holds latents, finished or not."""
    return (folder / INDEX).is_file() or (folder.is_dir() and any(folder.glob("shard-*.safetensors")))


def open_latents(folder: str | Path) -> Latents:
    """Open a cache. Only headers and labels are read now. Raises DataError that names what is missing or damaged."""
    folder = Path(folder)
    about, names = read_index(folder)
    files, faults = [], []
    for shard in range(shard_count(about)):
        try:
            files.append(opened_shard(folder, shard, about)[0])
        except DataError as error:
            faults.append(str(error))
        if len(faults) > NAMED:  # an index can speak of more shards than one could look for
            break
    if faults:
        told = "; ".join(faults[:NAMED]) + ("; and more" if len(faults) > NAMED else "")
        raise DataError(f"the latents in {folder} are not whole: {told}. To mend them, {AGAIN}")
    labels = np.concatenate([file.get_tensor("labels").numpy() for file in files])
    last = max(len(names), 1) - 1
    if (wrong := (labels < 0) | (labels > last)).any():
        place = int(np.argmax(wrong))
        raise DataError(f"the label {labels[place]} of picture {place} in {folder} is not one of 0 to {last}")
    kept = ("mean", "std") if about["distribution"] else ("mean",)
    slices = [{name: file.get_slice(name) for name in kept} for file in files]
    return Latents(about, labels, names, slices)


def write_shard(folder: Path, shard: int, about: dict, mean, std, labels) -> None:
    """Write one shard, whole or not at all: `mean, std: n flip c h w` (std None where there is none), `labels: n`."""
    path = shard_path(folder, shard)
    tensors = {"mean": mean.half(), **({} if std is None else {"std": std.half()}), "labels": labels}
    second = mean.double() ** 2 if std is None else mean.double() ** 2 + std.double() ** 2
    sums = [reduce(x, "n flip c h w -> c", "sum").tolist() for x in (mean.double(), second)]
    # One entry of metadata: safetensors writes several in a random order, and a shard made again is the same bytes.
    content = save(tensors, {"dit_lab": json.dumps({"shard": shard, "about": about, "sums": sums})})
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_index(folder: Path, about: dict, names: list[str]) -> bool:
    """Write the index if all shards are there and whole; whoever finishes last does, and two write the same bytes."""
    try:
        sums = [opened_shard(folder, shard, about)[1] for shard in range(shard_count(about))]
    except DataError:
        return False
    values = 2 * about["pictures"] * math.prod(about["shape"][1:])
    first, second = np.sum(sums, axis=0) / values
    channels = {"mean": first.tolist(), "std": np.sqrt(second - first**2).tolist()}
    write_json(folder / INDEX, {"version": VERSION, "about": about, "names": names, "channels": channels})
    return True
