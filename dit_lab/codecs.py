"""Between what a model denoises and pictures: pixels, a VAE's latents, or latents shown in false colours.

Latent models denoise a VAE's latents times its scaling factor (0.18215 in the DiT paper, section 4; 1.0 for tiny
autoencoders). A codec is anything with `note` (a sentence for the reader, or "") and
`decode(latents: b c h w) -> b 3 h w` in [-1, 1].
"""

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten

import torch
from einops import rearrange, repeat

from dit_lab.checkpoints.places import HUB_ID, downloaded

# Four directions into RGB that keep latent channels apart; the first is brightness. Any fixed choice would do.
FALSE_COLOURS = torch.tensor([[0.30, 0.30, 0.30], [0.30, 0.0, -0.30], [-0.15, 0.30, -0.15], [0.15, -0.25, 0.20]])
VAES = ("AutoencoderKL", "AutoencoderTiny")
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
VAE_FILES = [f"{folder}{name}" for folder in ("", "vae/") for name in FILES]


@dataclass(frozen=True)
class Pixels:
    """The model's channels are the picture's: `b 1 h w` (grey) or `b 3 h w -> b 3 h w`."""

    note: str = ""

    def decode(self, latents):
        if latents.shape[1] not in (1, 3):
            return false_colours(latents)
        return (repeat(latents, "b 1 h w -> b 3 h w") if latents.shape[1] == 1 else latents).clamp(-1, 1)


@dataclass(frozen=True)
class FalseColours:
    """Latents without a VAE at hand: `b c h w -> b 3 h w`, every channel a colour; shapes are right, hues are not."""

    note: str = "No VAE is at hand: latents are shown in false colours. Give one with --vae FOLDER_OR_HUB_ID."

    def decode(self, latents):
        return false_colours(latents)


@dataclass(frozen=True)
class Autoencoder:
    """A diffusers VAE: `latents: b c h w -> images b 3 (h s) (w s)`, one at a time so that memory stays flat."""

    vae: torch.nn.Module = field(repr=False)
    note: str = ""

    @torch.no_grad()
    def decode(self, latents):
        config, weight = self.vae.config, next(self.vae.parameters())
        shift = getattr(config, "shift_factor", None) or 0.0
        latents = (latents.to(weight.device, weight.dtype) / config.scaling_factor) + shift
        images = [self.vae.decode(rearrange(latent, "c h w -> 1 c h w")).sample for latent in latents]
        return torch.cat(images).float().cpu().clamp(-1, 1)


def open_codec(
    hint: str | None, vae: str | None = None, *, channels: int, device="cpu"
) -> Pixels | FalseColours | Autoencoder:
    """The codec that a checkpoint names (`hint`), or the VAE asked for: a folder or a hub id, in diffusers' format.

    A named VAE that cannot be opened, or whose latents have not the model's `channels`, leaves false colours with a
    note; one asked for raises ValueError.
    """
    if vae is not None:
        return Autoencoder(open_vae(vae, channels).to(device))
    if hint == "pixels":
        return Pixels()
    if hint is None:
        return FalseColours()
    try:
        return Autoencoder(open_vae(hint, channels).to(device))
    except ValueError as error:
        return FalseColours(f"No VAE: {error}. Latents are shown in false colours; give another VAE with --vae.")


def open_vae(source: str, channels: int) -> torch.nn.Module:
    """An AutoencoderKL or AutoencoderTiny, or the `vae` of a pipeline. Raises ValueError."""
    folder = vae_folder(source)
    import diffusers  # here, not above: it takes seconds, and pictures and false colours do without it

    try:
        config = diffusers.AutoencoderKL.load_config(folder)
        if (name := config.get("_class_name")) not in VAES:
            raise ValueError(f"it holds a {name}, not one of {', '.join(VAES)}")
        if (there := config.get("latent_channels")) != channels:
            raise ValueError(f"its latents have {there} channels, the model's {channels}")
        # safetensors where it has them, else its .bin, which diffusers opens for tensors alone: code in it never runs.
        model = getattr(diffusers, name).from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = shorten(str(error), 200, placeholder=" …").rstrip(".")
        raise ValueError(f"could not open the VAE {source!r}: {reason}") from error
    return model.eval().requires_grad_(False)


def vae_folder(source: str) -> Path:
    """The folder that holds the VAE's `config.json`: of a VAE or a pipeline, on this disk or from the hub."""
    if Path(source).is_dir():
        folder = Path(source)
    elif HUB_ID.fullmatch(source):
        folder = downloaded(source, VAE_FILES)
    else:
        raise ValueError(f"could not open the VAE {source!r}: there is no such folder")
    return folder / "vae" if (folder / "vae").is_dir() else folder


def false_colours(latents):
    """`b c h w -> b 3 h w` in [-1, 1]: the first four channels mixed by `FALSE_COLOURS`, others left out."""
    channels = latents[:, :4].float().cpu()
    return torch.einsum("bchw,cr->brhw", channels, FALSE_COLOURS[: channels.shape[1]]).clamp(-1, 1)
