"""A data set through a VAE: into a cache, which `latents` reads, shard by shard, each of them whole, or in memory."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from tqdm.auto import tqdm

from dit_lab.data.codecs import Autoencoder
from dit_lab.data.images import Images
from dit_lab.data.latents import Latents, write_shard
from dit_lab.data.latents_index import VERSION, opened_shard, shard_path, shard_range, with_header
from dit_lab.data.pictures import DataError
from dit_lab.data.vaes import is_folder, open_vae, zoo_vaes
from dit_lab.files import checksum
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
        changed = [name for name in {**made, **there} if there.get(name) != made.get(name)]
        if changed:
            pairs = ((name, plain(there.get(name)), plain(made.get(name))) for name in changed[:NAMED])
            told = ", ".join(f"{name} {before} (now {now})" for name, before, now in pairs)
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
    mean, std, labels = moments_of(images, shard_range(shard, made), codec.moments, batch_size, bar)
    try:
        write_shard(out, shard, made, mean, std, labels)
    except OSError as error:
        raise OSError(f"{error}; the shards before it are kept, and the same command goes on from there") from error


def moments_of(images: Images, numbers: range, moments: Callable, batch_size: int, bar) -> tuple:
    """Some pictures and their mirror images encoded: `-> mean, std: n flip c h w, labels: n`; std may be None.

    Raises ValueError where a number is not finite.
    """
    parts = []
    for start in range(0, len(numbers), batch_size):
        x, labels = images.batch(numbers[start : start + batch_size])
        mean, std = moments(torch.cat([x, x.flip(-1)]))
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
    return torch.cat(mean), None if std[0] is None else torch.cat(std), torch.cat(labels)


def encoded(images: Images, codec: str | Autoencoder | Callable, *, batch_size: int = 64) -> Latents:
    """The latents of a data set in memory, for `train` as any other data: what the command `encode` would keep.

    `codec` is a VAE as `open_vae` takes it by name, an `Autoencoder`, or a function of one's own that gives the mean,
    or mean and standard deviation, of a model's latents: `x: b c h w in [-1, 1] -> b c h w, or two`. Raises ValueError
    on latents as data, and where the codec gives something else.
    """
    if not isinstance(images, Images):
        raise ValueError("these are no pictures: latents are encoded already")
    name = name_of(codec) if isinstance(codec, str) else "in memory"
    if isinstance(codec, str):
        codec = Autoencoder(open_vae(codec), together=batch_size)
    moments = codec.moments if isinstance(codec, Autoencoder) else lambda x: pair(codec(x), len(x))
    with tqdm(total=len(images), unit="", desc="encoding", delay=1) as bar:
        mean, std, labels = moments_of(images, range(len(images)), torch.no_grad()(moments), batch_size, bar)
    told = codec.about if isinstance(codec, Autoencoder) else {"encoder_checksum": checksum({"mean": mean})}
    made = {
        "version": VERSION, "vae": name, **told, "split": "in memory", "size": list(images.shape[1:]),
        "shape": list(mean.shape[2:]), "distribution": std is not None, **images.fingerprint,
        "shard_size": len(images), "precision": "fp32",
    }  # fmt: skip
    held = {"mean": mean.half()} if std is None else {"mean": mean.half(), "std": std.half()}
    return Latents(made, labels.numpy(), images.names, [held])


def pair(made, count: int) -> tuple:
    """What a function of one's own gave for `count` pictures, as mean and standard deviation or None."""
    parts = made if isinstance(made, tuple) else (made, None)
    tensors = [part for part in parts if part is not None]
    if len(parts) != 2 or not all(isinstance(x, torch.Tensor) and x.ndim == 4 and len(x) == count for x in tensors):
        raise ValueError(f"an encoder must give latents b c h w of its {count} pictures, or their mean and deviation")
    return tuple(part if part is None else part.detach().float().cpu() for part in parts)
