"""Between pictures and what a model denoises: pixels, a VAE's latents, or latents shown in approximate colours.

Latent models denoise a VAE's latents, less its shift, times its scaling factor (0.18215 in the DiT paper, section 4;
1.0 for tiny autoencoders). A codec has `encode(images: b c h w in [-1, 1]) -> latents: b c h w`,
`decode(latents: b c h w) -> b 3 h w` in [-1, 1] and `note`, a sentence for the reader or ""; one that only shows
latents (`LinearPreview`, `FalseColours`) has no `encode`.
"""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from einops import einsum, rearrange, reduce, repeat

from dit_lab.data.vaes import TILE, factor_of, open_vae, zoo_vaes
from dit_lab.files import checksum

# Four directions into RGB that keep latent channels apart; the first is brightness. Any fixed choice would do.
FALSE_COLOURS = torch.tensor([[0.30, 0.30, 0.30], [0.30, 0.0, -0.30], [-0.15, 0.30, -0.15], [0.15, -0.25, 0.20]])
# The same of Stable Diffusion's VAE (1.x and 2.x, sd-vae-ft-mse and -ema, DiT's), fitted: rows are scaled latent
# channels, columns RGB in [-1, 1]. Source: comfyanonymous/ComfyUI, comfy/latent_formats.py, SD15.latent_rgb_factors.
SD_COLOURS = torch.tensor(
    [[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]]
)
SD_VAE = re.compile(r"stabilityai/sd-vae-ft-\w+(-original)?|facebook/DiT-XL-2-(256|512)")
PREVIEW = "preview.json"
ENCODER = ("encoder.", "quant_conv.")


@dataclass(frozen=True)
class Pixels:
    """The model's channels are the picture's: `b 1 h w` (grey) or `b 3 h w -> b 3 h w`."""

    note: str = ""
    factor: ClassVar[int] = 1

    def encode(self, images):
        return images

    def decode(self, latents):
        if latents.shape[1] not in (1, 3):
            return false_colours(latents)
        return (repeat(latents, "b 1 h w -> b 3 h w") if latents.shape[1] == 1 else latents).clamp(-1, 1)


@dataclass(frozen=True)
class FalseColours:
    """Latents without a VAE at hand: `b c h w -> b 3 h w`, every channel a colour; shapes are right, hues are not."""

    note: str = (
        "No VAE is at hand: latents are shown in false colours, whose hues are not the picture's. "
        "Give one with --vae FOLDER_OR_HUB_ID."
    )

    def decode(self, latents):
        return false_colours(latents)


@dataclass(frozen=True, eq=False)
class LinearPreview:
    """RGB as a linear function of a latent's channels, at the latent's size: `b c h w -> b 3 h w`.

    `weight: c 3` and `bias: 3` were fitted to a VAE's latents (`fit_preview`); colours are about right, detail is gone.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    note: str = ""

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


@dataclass(frozen=True)
class Autoencoder:
    """A diffusers VAE: `images b c (h s) (w s) -> latents b c h w -> images b 3 (h s) (w s)`, with its own scaling.

    What goes through it at once is at most the pixels of a `TILE`, unless `together` says otherwise, so that memory
    stays flat; a picture with a longer side goes in overlapping tiles that are blended (diffusers' tiling): each has
    statistics of its own in the group norms, so that its colours are not exactly the whole picture's.
    """

    vae: torch.nn.Module = field(repr=False)
    note: str = ""
    together: int | None = None  # pictures at once, instead of as many as have the pixels of a tile

    @property
    def about(self) -> dict:
        """What tells this VAE, and what it makes of pictures, from another of the same name."""
        scaling, shift = self.scaling
        checksums = {"encoder_checksum": self.encoder_checksum, "vae_checksum": checksum(self.vae.state_dict())}
        return {**checksums, "scaling_factor": scaling, "shift_factor": shift}

    @property
    def encoder_checksum(self) -> str:
        """What tells its latents from another VAE's: the encoder and the scaling, not the decoder."""
        encoder = {name: tensor for name, tensor in self.vae.state_dict().items() if name.startswith(ENCODER)}
        return checksum(encoder | {"scaling": torch.tensor(self.scaling)})

    @property
    def factor(self) -> int:
        """Pixels a latent has along each side."""
        return factor_of(self.vae)

    def encode(self, images):
        """The latents, of an AutoencoderKL their mean: `images: b c h w in [-1, 1] -> b c h w`; grey becomes RGB."""
        return self.moments(images)[0]

    @torch.no_grad()
    def moments(self, images):
        """Mean and standard deviation of the latents, the latter None without a distribution: `-> (b c h w, b c h w)`.

        Raises ValueError on pictures whose sides the VAE does not halve evenly.
        """
        if any(side % self.factor for side in images.shape[-2:]):
            h, w = images.shape[-2:]
            raise ValueError(f"the VAE takes sides that divide by {self.factor}, not {h} x {w} (h w); give a --size")
        images = repeat(images, "b 1 h w -> b 3 h w") if images.shape[1] == 1 else images
        parts = [self.vae.encode(part) for part in self.portions(images, 1)]
        scaling, shift = self.scaling
        place = lambda latents: torch.cat([(part.float() - shift) * scaling for part in latents]).cpu()
        if not hasattr(parts[0], "latent_dist"):
            return place(part.latents for part in parts), None
        spread = torch.cat([part.latent_dist.std.float() for part in parts]).cpu()
        return place(part.latent_dist.mean for part in parts), spread * scaling

    @torch.no_grad()
    def decode(self, latents):
        scaling, shift = self.scaling
        images = [self.vae.decode(part / scaling + shift).sample for part in self.portions(latents, self.factor)]
        return torch.cat(images).float().cpu().clamp(-1, 1)

    @property
    def scaling(self) -> tuple[float, float]:
        """(scaling factor, shift) of the VAE's config."""
        return self.vae.config.scaling_factor, getattr(self.vae.config, "shift_factor", None) or 0.0

    def portions(self, x, pixels: int):
        """Parts of a batch that go through the VAE at once: `x: b c h w`, a value stands for a square of `pixels`."""
        h, w = (side * pixels for side in x.shape[-2:])
        self.vae.use_tiling = max(h, w) > TILE
        weight = next(self.vae.parameters())
        together = self.together or max(1, TILE**2 // (h * w))
        return (part.to(weight.device, weight.dtype) for part in x.split(together))


def open_codec(
    hint: str | None, vae: str | None = None, *, channels: int, device="cpu"
) -> Pixels | FalseColours | LinearPreview | Autoencoder:
    """The codec that a checkpoint names (`hint`), or the VAE asked for: a folder, hub id (diffusers') or zoo name.

    A named VAE that cannot be opened, or whose latents have not the model's `channels`, leaves a linear preview where
    its colours are known, else false colours, with a note; one asked for raises ValueError.
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
        return without_vae(hint, channels, str(error))


def codec_of(loaded, vae: str | None = None, device="cpu"):
    """The codec of a checkpoint (`Loaded`), as `open_codec`; noted where its latents were made by another encoder."""
    codec = open_codec(loaded.codec_hint, vae, channels=loaded.config.in_channels, device=device)
    known = loaded.made.get("encoder_checksum")
    if known is None or not isinstance(codec, Autoencoder) or codec.encoder_checksum == known:
        return codec
    told = f"The VAE {vae or loaded.codec_hint} is not the one that made the latents this model learnt from"
    why = "its encoder has other weights, or scales otherwise"
    return replace(codec, note=f"{told} ({why}): pictures may come out wrong.")


def picture_codec(loaded, vae: str | None = None, device="cpu") -> Pixels | Autoencoder:
    """The codec of a checkpoint (`Loaded`) for judging what it draws.

    Raises ValueError where there is only a preview, which is no picture, and where the VAE that the checkpoint names is
    not the one that made its latents; one asked for (`vae`) may have another encoder.
    """
    codec = codec_of(loaded, vae, device)
    if not isinstance(codec, Pixels | Autoencoder):
        raise ValueError(f"only pictures can be judged, not a preview of latents. {codec.note}")
    if codec.note and vae is None:
        raise ValueError(f"{codec.note} To judge them all the same, say --vae {loaded.codec_hint}")
    return codec


def without_vae(hint: str, channels: int, reason: str) -> FalseColours | LinearPreview:
    """How latents of a VAE that did not open are shown, with the reason in the note."""
    known = preview_of(hint)
    if known is None or len(known.weight) != channels:
        told = "Latents are shown in false colours, whose hues are not the picture's"
        return FalseColours(f"No VAE: {reason}. {told}; give another VAE with --vae.")
    told = "Latents are shown in approximate colours, one dot each"
    return LinearPreview(known.weight, known.bias, f"No VAE: {reason}. {told}; give another VAE with --vae.")


def preview_of(hint: str) -> LinearPreview | None:
    """The linear preview of a VAE that a checkpoint names: kept beside it, or published; None where there is none."""
    kept = zoo_vaes().get(hint, Path(hint)) / PREVIEW
    if kept.is_file():
        about = json.loads(kept.read_text(encoding="utf-8"))
        return LinearPreview(*(torch.tensor(about[name], dtype=torch.float32) for name in ("weight", "bias")))
    return LinearPreview(SD_COLOURS, torch.zeros(3)) if SD_VAE.fullmatch(hint) else None


def false_colours(latents):
    """`b c h w -> b 3 h w` in [-1, 1]: the first four channels mixed by `FALSE_COLOURS`, others left out."""
    channels = latents[:, :4].float().cpu()
    return torch.einsum("bchw,cr->brhw", channels, FALSE_COLOURS[: channels.shape[1]]).clamp(-1, 1)
