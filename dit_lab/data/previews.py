"""Latents without their VAE: shown in approximate colours where these are known, else in false ones.

A preview has `decode(latents: b c h w) -> b 3 h w` in [-1, 1], `missing`, what is not there and why, and `note`, the
sentences for the reader, or "".
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import einsum, rearrange, reduce

from dit_lab.data.rules import NUMBER, each
from dit_lab.data.vaes import cut, zoo_vaes
from dit_lab.files import check_fields, read_json

# Four directions into RGB that keep latent channels apart; the first is brightness. Any fixed choice would do.
FALSE_COLOURS = torch.tensor([[0.30, 0.30, 0.30], [0.30, 0.0, -0.30], [-0.15, 0.30, -0.15], [0.15, -0.25, 0.20]])
# The same of Stable Diffusion's VAE (1.x and 2.x, sd-vae-ft-mse and -ema, DiT's), fitted: rows are scaled latent
# channels, columns RGB in [-1, 1]. Source: comfyanonymous/ComfyUI, comfy/latent_formats.py, SD15.latent_rgb_factors.
SD_COLOURS = torch.tensor(
    [[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]]
)
SD_VAE = re.compile(r"stabilityai/sd-vae-ft-\w+(-original)?|facebook/DiT-XL-2-(256|512)")
PREVIEW, PREVIEW_BYTES = "preview.json", 2**20
COLOUR = each(NUMBER, 3, 3)
PARTS = {"weight": each(COLOUR, 1024), "bias": COLOUR}
WAY_OUT = "give one with --vae FOLDER_OR_HUB_ID"


@dataclass(frozen=True)
class FalseColours:
    """Latents without a VAE at hand: `b c h w -> b 3 h w`, every channel a colour; shapes are right, hues are not."""

    missing: str = "No VAE is at hand"

    @property
    def note(self) -> str:
        """What is not there, what is shown instead, and the way out."""
        return f"{self.missing}. Latents are shown in false colours, whose hues are not the picture's; {WAY_OUT}."

    def decode(self, latents):
        return false_colours(latents)


@dataclass(frozen=True, eq=False)
class LinearPreview:
    """RGB as a linear function of a latent's channels, at the latent's size: `b c h w -> b 3 h w`.

    `weight: c 3` and `bias: 3` were fitted to a VAE's latents (`fit_preview`) as its codec makes them, scaled and all;
    colours are about right, detail is gone.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    missing: str = ""

    @property
    def note(self) -> str:
        """As that of `FalseColours`; none where nothing is missing."""
        told = "Latents are shown in approximate colours, one dot each"
        return f"{self.missing}. {told}; {WAY_OUT}." if self.missing else ""

    def decode(self, latents):
        mixed = einsum(latents.float().cpu(), self.weight, "b c h w, c rgb -> b rgb h w")
        return (mixed + rearrange(self.bias, "rgb -> rgb 1 1")).clamp(-1, 1)


def fit_preview(latents, images) -> LinearPreview:
    """The linear preview nearest to the pictures, by least squares: `latents: b c h w, images: b 3 (h s) (w s)`."""
    h, w = latents.shape[-2:]
    pooled = reduce(images, "b rgb (h p) (w q) -> (b h w) rgb", "mean", h=h, w=w).double()
    known = rearrange(latents, "b c h w -> (b h w) c").double()
    known = torch.cat([known, torch.ones_like(known[:, :1])], dim=1)
    *weight, bias = torch.linalg.lstsq(known, pooled).solution.float()
    return LinearPreview(torch.stack(weight), bias)


def without_vae(hint: str, channels: int, reason: str) -> FalseColours | LinearPreview:
    """How latents of a VAE that did not open are shown, with the reason in the note."""
    known, missing = preview_of(hint), f"No VAE: {cut(reason, 200)}"
    if known is None or len(known.weight) != channels:
        return FalseColours(missing)
    return LinearPreview(known.weight, known.bias, missing)


def preview_of(hint: str) -> LinearPreview | None:
    """The linear preview of a VAE that a checkpoint names: kept beside it, or published; None where there is none.

    A file that holds something else counts as none.
    """
    kept = zoo_vaes().get(hint, Path(hint)) / PREVIEW
    try:
        said = read_json(kept, PREVIEW_BYTES)
        check_fields(said, **PARTS)
    except (OSError, ValueError):
        return LinearPreview(SD_COLOURS, torch.zeros(3)) if SD_VAE.fullmatch(hint) else None
    return LinearPreview(*(torch.tensor(said[name], dtype=torch.float32) for name in PARTS))


def false_colours(latents):
    """`b c h w -> b 3 h w` in [-1, 1]: the first four channels mixed by `FALSE_COLOURS`, others left out."""
    channels = latents[:, :4].float().cpu()
    return torch.einsum("bchw,cr->brhw", channels, FALSE_COLOURS[: channels.shape[1]]).clamp(-1, 1)
