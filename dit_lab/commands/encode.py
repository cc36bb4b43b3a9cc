"""`python -m dit_lab encode`: a data set through a VAE once, into a cache that training reads (`latents`).

Several processes share the shards (`accelerate launch --multi_gpu --num_processes 8 -m dit_lab encode …`): process r of
w encodes the shards r, r + w, ...; the last one to finish writes the index.
"""

from pathlib import Path
from typing import Literal

import torch
from tqdm.auto import tqdm

from dit_lab.data import CROPS, Autoencoder, Images, named_classes, open_data, open_vae
from dit_lab.data.encoding import about, check_folder, encode_shard, name_of, whole
from dit_lab.data.latents import write_index
from dit_lab.data.latents_index import INDEX, shard_count, shard_range
from dit_lab.data.pictures import say
from dit_lab.files import make_folder, writable
from dit_lab.training import device_of, processes
from dit_lab.training.lock import hold

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def encode_command(
    *,
    data: str,
    vae: str,
    out: Path,
    split: str = "train",
    size: int | None = None,
    crop: Literal[tuple(CROPS)] = "middle",
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
        split: Which part of the data to encode; rest, of a set with a single one, leaves a tenth out for evaluate.
        size: Make pictures squares of this side (default: as they are).
        crop: How: the middle square, resized, or as ADM, DiT and SiT prepare ImageNet (adm), which ADM's reference
            batches are made with.
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
    with hold(out, "encoding"):  # from now on, so that nobody waits for what is then refused
        with crew.main_process_first():  # the others then find what it has put into the cache
            images = open_data(data, split=split, size=size, labelled=labelled, crop=crop)
        if not isinstance(images, Images):
            raise ValueError(f"{data} holds latents already; give pictures")
        if (classes := named_classes(images.names, out / INDEX)) and crew.is_main_process:
            say(classes)
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
