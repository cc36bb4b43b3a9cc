"""Writing a cache of latents, which `latents` reads: a data set through a VAE, shard by shard, each of them whole."""

import sys
from pathlib import Path

import torch
from einops import rearrange
from tqdm.auto import tqdm

from dit_lab.data.codecs import Autoencoder
from dit_lab.data.images import Images
from dit_lab.data.latents import write_shard
from dit_lab.data.latents_index import VERSION, opened_shard, shard_path, shard_range, with_header
from dit_lab.data.pictures import DataError
from dit_lab.data.vaes import is_folder, zoo_vaes
from dit_lab.program import quoted

NAMED = 3  # differences in one sentence


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
    return str(Path(vae).resolve()) if vae not in zoo_vaes() and is_folder(vae) else vae


def check_folder(out: Path, made: dict) -> None:
    """Raise ValueError when the folder holds latents made from or with something else."""
    for path in sorted(out.glob("shard-*.safetensors")):
        try:
            there = with_header(path)[1]["about"]
        except DataError:
            continue  # damaged: written anew
        if there.get("version") != VERSION:
            raise ValueError(f"{out} holds latents that another version of dit_lab made; choose another folder")
        changed = [name for name, value in made.items() if there.get(name) != value]
        if changed:
            told = ", ".join(f"{name} {plain(there.get(name))} (now {plain(made[name])})" for name in changed[:NAMED])
            more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
            raise ValueError(f"{out} holds latents made with {told}{more}; choose another folder")


def plain(value) -> str:
    """A value in a sentence, short and on one line, texts without quotes."""
    return quoted(value, 40).strip("'")


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
