"""`python -m dit_lab encode`: a data set through a VAE once, into a cache that training reads (`latents`).

Several processes share the shards (`accelerate launch --multi_gpu --num_processes 8 -m dit_lab encode …`): process r of
w encodes the shards r, r + w, ...; the last one to finish writes the index.
"""

import sys
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from tqdm.auto import tqdm

from dit_lab.data import Autoencoder, DataError, Images, open_data, open_vae, zoo_vaes
from dit_lab.data.latents import (
    INDEX,
    VERSION,
    opened_shard,
    shard_count,
    shard_path,
    shard_range,
    with_header,
    write_index,
    write_shard,
)
from dit_lab.files import make_folder, writable
from dit_lab.training import device_of, processes

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def encode_command(
    *,
    data: str,
    vae: str,
    out: Path,
    split: str = "train",
    size: int | None = None,
    labelled: bool = True,
    shard_size: int = 4096,
    batch_size: int = 64,
    precision: Literal[tuple(DTYPES)] = "fp32",
    device: str = "auto",
) -> None:
    """Encode a data set by a VAE, pictures and their mirror images. Stopped at any moment, the same command goes on.

    Args:
        data: `digits`, a hub id such as uoft-cs/cifar10, or a local folder of parquet files or pictures.
        vae: A VAE in diffusers' format: a folder, a hub id such as stabilityai/sd-vae-ft-mse, or a name of the zoo.
        out: Folder for the latents; give it to training as its --data.
        split: Which part of the data to encode.
        size: Crop pictures to their middle square and resize it to this side (default: as they are).
        labelled: Keep the data's classes.
        shard_size: Pictures a file.
        batch_size: Pictures through the VAE at once.
        precision: What the VAE computes in; latents are kept in 16 bits.
        device: cpu, cuda, mps, or auto.
    """
    if shard_size < 1 or batch_size < 1:
        raise ValueError("shard_size and batch_size must be at least 1")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give the latents a folder")
    writable(out / INDEX)
    crew = processes()
    device = device_of(crew, device)
    with crew.main_process_first():  # the others then find what it has put into the cache
        images = open_data(data, split=split, size=size, labelled=labelled)
    if not isinstance(images, Images):
        raise ValueError(f"{data} holds latents already; give pictures")
    codec = Autoencoder(open_vae(vae), together=batch_size)
    made = about(images, codec, name_of(vae), split, shard_size, precision)
    check_folder(out, made)
    make_folder(out)
    codec.vae.to(device)
    mine = range(crew.process_index, shard_count(made), crew.num_processes)
    left = [shard for shard in mine if not whole(out, shard, made)]
    numbers = [len(shard_range(shard, made)) for shard in mine]
    done = sum(n for n, shard in zip(numbers, mine, strict=True) if shard not in left)
    bar = tqdm(total=sum(numbers), initial=done, unit="", desc="encoding", disable=not crew.is_main_process)
    with bar, torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        for shard in left:
            encode_shard(out, shard, made, images, codec, batch_size, bar)
    if write_index(out, made, images.names):
        print(f"{made['pictures']} pictures as latents of {' x '.join(map(str, made['shape']))} in {out}")


def about(images: Images, codec: Autoencoder, vae: str, split: str, shard_size: int, precision: str) -> dict:
    """What makes these latents these and no others, as JSON."""
    mean, std = codec.moments(images.batch([0])[0])
    return {
        "version": VERSION, "vae": vae, **codec.about, "split": split,
        "size": list(images.shape[1:]), "shape": list(mean.shape[1:]), "distribution": std is not None,
        **images.fingerprint, "shard_size": shard_size, "precision": precision,
    }  # fmt: skip


def name_of(vae: str) -> str:
    """How others will find the VAE: a name of the zoo and a hub id as they are, a folder by its whole path."""
    return str(Path(vae).resolve()) if vae not in zoo_vaes() and Path(vae).is_dir() else vae


def check_folder(out: Path, made: dict) -> None:
    """Raise ValueError when the folder holds latents made from or with something else."""
    for path in sorted(out.glob("shard-*.safetensors")):
        try:
            there = with_header(path)[1]["about"]
        except DataError:
            continue  # damaged: written anew
        if there.get("version") != VERSION:
            raise ValueError(f"{out} holds latents that another version of dit_lab made; choose another folder")
        changed = [
            f"{name} {there.get(name)} (now {value})" for name, value in made.items() if there.get(name) != value
        ]
        if changed:
            raise ValueError(f"{out} holds latents made with {', '.join(changed)}; choose another folder")


def whole(out: Path, shard: int, made: dict) -> bool:
    """Whether a shard is there already; one that is damaged is made anew, and said."""
    try:
        opened_shard(out, shard, made)
    except DataError as error:
        if shard_path(out, shard).exists():
            tqdm.write(f"dit_lab: {error}; it is written anew", file=sys.stderr)
        return False
    return True


def encode_shard(out: Path, shard: int, made: dict, images: Images, codec: Autoencoder, batch_size: int, bar) -> None:
    """Encode a shard's pictures and their mirror images, and write them."""
    numbers, parts = shard_range(shard, made), []
    for start in range(0, len(numbers), batch_size):
        x, labels = images.batch(numbers[start : start + batch_size])
        mean, std = codec.moments(torch.cat([x, x.flip(-1)]))
        if not all(x.isfinite().all() for x in (mean, std) if x is not None):
            first, last = numbers[start], numbers[start] + len(labels) - 1
            raise ValueError(
                f"the VAE makes NaN or Inf of pictures {first} to {last}: is it whole? In fp16 some overflow; take "
                "--precision fp32"
            )
        both = [x if x is None else rearrange(x, "(flip b) c h w -> b flip c h w", flip=2) for x in (mean, std)]
        parts.append((*both, labels))
        bar.update(len(labels))
    mean, std, labels = zip(*parts, strict=True)
    std = torch.cat(std) if made["distribution"] else None
    try:
        write_shard(out, shard, made, torch.cat(mean), std, torch.cat(labels))
    except OSError as error:
        raise OSError(f"{error}; the shards before it are kept, and the same command goes on from there") from error
