"""Opening a VAE of diffusers: from a folder, a pipeline, the zoo or the hub."""

from importlib.resources import files
from pathlib import Path
from textwrap import shorten

import torch

from dit_lab.checkpoints.places import HUB_ID, downloaded

VAES = ("AutoencoderKL", "AutoencoderTiny")
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
VAE_FILES = [f"{folder}{name}" for folder in ("", "vae/") for name in FILES]
# The largest side in pixels that goes through a VAE in one piece, and a tile's beyond it: the largest of DiT's pictures
# stays whole. Stable Diffusion's decoder then needs about 1 GiB in fp32: four maps of 256 channels, 1 kB a pixel each.
TILE = 512


def open_vae(source: str, channels: int | None = None) -> torch.nn.Module:
    """An AutoencoderKL or AutoencoderTiny, or the `vae` of a pipeline, whose latents have `channels`, where given.

    Raises ValueError.
    """
    folder = vae_folder(source)
    import diffusers  # here, not above: it takes seconds, and pictures and false colours do without it

    try:
        config = diffusers.AutoencoderKL.load_config(folder)
        if (name := config.get("_class_name")) not in VAES:
            raise ValueError(f"it holds a {name}, not one of {', '.join(VAES)}")
        if channels is not None and (there := config.get("latent_channels")) != channels:
            raise ValueError(f"its latents have {there} channels, the model's {channels}")
        # safetensors where it has them, else its .bin, which diffusers opens for tensors alone: code in it never runs.
        # Half precision is for the file: a CPU is slow in it.
        model = getattr(diffusers, name).from_pretrained(folder, torch_dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = shorten(str(error), 200, placeholder=" …").rstrip(".")
        raise ValueError(f"could not open the VAE {source!r}: {reason}") from error
    return tiles_set(model).eval().requires_grad_(False)


def factor_of(vae: torch.nn.Module) -> int:
    """Pixels a latent has along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def tiles_set(vae: torch.nn.Module) -> torch.nn.Module:
    """The VAE with diffusers' tiles of `TILE` pixels, wherever its config puts them."""
    factor = factor_of(vae)
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // factor
    vae.spatial_scale_factor = factor  # AutoencoderTiny's, which it takes to be 8
    return vae


def vae_folder(source: str) -> Path:
    """The folder that holds the VAE's `config.json`: of a VAE or a pipeline; in the zoo, on this disk or on the hub."""
    if source in (zoo := zoo_vaes()):
        return zoo[source]
    if Path(source).is_dir():
        folder = Path(source)
    elif HUB_ID.fullmatch(source):
        folder = downloaded(source, VAE_FILES)
    else:
        hint = "" if "/" in source else f", and the zoo has {', '.join(sorted(zoo)) or 'no VAE'}"
        raise ValueError(f"could not open the VAE {source!r}: there is no such folder{hint}")
    return folder / "vae" if (folder / "vae").is_dir() else folder


def zoo_vaes() -> dict[str, Path]:
    """The VAEs that ship with the package, by name."""
    return {path.name: path for path in Path(str(files("dit_lab.zoo"))).iterdir() if (path / FILES[1]).is_file()}
