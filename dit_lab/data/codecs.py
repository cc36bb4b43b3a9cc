"""Between pictures and what a model denoises: pixels, a VAE's latents, or latents shown in approximate colours.

Latent models denoise a VAE's latents, less its shift, times its scaling factor (0.18215 in the DiT paper, section 4;
1.0 for tiny autoencoders). Where its config has a mean and a standard deviation a channel, `latents_mean` and
`latents_std`, they are (z - latents_mean) / latents_std times the factor: the mean goes in the shift's place, as in
diffusers' pipelines of Stable Diffusion XL, the only ones that read an AutoencoderKL's.

A codec has `encode(images: b c h w in [-1, 1]) -> latents: b c h w`, `decode(latents: b c h w) -> b 3 h w` in [-1, 1]
and `note`, sentences for the reader or ""; one that only shows latents (`previews`) has no `encode`.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from einops import rearrange, repeat

from dit_lab.data.previews import WAY_OUT, FalseColours, LinearPreview, false_colours, without_vae
from dit_lab.data.vae_config import STATISTICS
from dit_lab.data.vaes import TILE, factor_of, open_named_vae, open_vae
from dit_lab.files import checksum
from dit_lab.program import quoted

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
        return {**checksums, "scaling_factor": scaling, "shift_factor": shift, **self.statistics}

    @property
    def encoder_checksum(self) -> str:
        """What tells its latents from another VAE's: the encoder, the scaling and statistics, not the decoder."""
        encoder = {name: tensor for name, tensor in self.vae.state_dict().items() if name.startswith(ENCODER)}
        placing = {"scaling": self.scaling, **self.statistics}
        return checksum(encoder | {name: torch.tensor(values) for name, values in placing.items()})

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
        scale, shift = self.placing
        place = lambda latents: (torch.cat([part.float() for part in latents]).cpu() - shift) * scale
        if not hasattr(parts[0], "latent_dist"):
            return place(part.latents for part in parts), None
        spread = torch.cat([part.latent_dist.std.float() for part in parts]).cpu()
        return place(part.latent_dist.mean for part in parts), spread * scale

    @torch.no_grad()
    def decode(self, latents):
        scale, shift = self.placing
        parts = self.portions(latents.float().cpu() / scale + shift, self.factor)
        return torch.cat([self.vae.decode(part).sample for part in parts]).float().cpu().clamp(-1, 1)

    @property
    def scaling(self) -> tuple[float, float]:
        """(scaling factor, shift) of the VAE's config."""
        return self.vae.config.scaling_factor, getattr(self.vae.config, "shift_factor", None) or 0.0

    @property
    def statistics(self) -> dict[str, list[float]]:
        """Mean and standard deviation of its own latents, a value a channel, by their names in the config, or none."""
        known = {name: getattr(self.vae.config, name, None) for name in STATISTICS}
        return {name: list(map(float, values)) for name, values in known.items() if values is not None}

    @property
    def placing(self) -> tuple:
        """(scale, shift), which make a model's latents of the VAE's, `(z - shift) * scale`: numbers, or `c 1 1`."""
        scaling, shift = self.scaling
        if not self.statistics:
            return scaling, shift
        mean, std = (rearrange(torch.tensor(self.statistics[name]), "c -> c 1 1") for name in STATISTICS)
        return scaling / std, mean

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

    A named VAE that cannot be opened, that a checkpoint's word does not fetch from the hub (`open_named_vae`), or whose
    latents have not the model's `channels`, leaves a linear preview where its colours are known, else false colours,
    with a note; one asked for raises ValueError.
    """
    if vae is not None:
        return Autoencoder(open_vae(vae, channels).to(device))
    if hint == "pixels":
        return Pixels()
    if hint is None:
        return FalseColours()
    try:
        return Autoencoder(open_named_vae(hint, channels).to(device))
    except ValueError as error:
        return without_vae(hint, channels, str(error))


def codec_of(loaded, vae: str | None = None, device="cpu"):
    """The codec of a checkpoint (`Loaded`), as `open_codec`; noted where its latents were made by another encoder."""
    codec = open_codec(loaded.codec_hint, vae, channels=loaded.config.in_channels, device=device)
    known = loaded.made.get("encoder_checksum")
    if known is None or not isinstance(codec, Autoencoder) or codec.encoder_checksum == known:
        return codec
    told = f"The VAE {shown(vae or loaded.codec_hint)} is not the one that made the latents this model learnt from"
    why = "its encoder has other weights, or scales otherwise"
    return replace(codec, note=f"{told} ({why}): pictures may come out wrong.")


def picture_codec(loaded, vae: str | None = None, device="cpu") -> Pixels | Autoencoder:
    """The codec of a checkpoint (`Loaded`) for judging what it draws.

    Raises ValueError where there is only a preview, which is no picture, and where the VAE that the checkpoint names is
    not the one that made its latents; one asked for (`vae`) may have another encoder.
    """
    codec = codec_of(loaded, vae, device)
    if not isinstance(codec, Pixels | Autoencoder):
        raise ValueError(f"only pictures can be judged, not a preview of latents. {codec.missing}; {WAY_OUT}")
    if codec.note and vae is None:
        raise ValueError(f"{codec.note} To judge them all the same, say --vae {shown(loaded.codec_hint)}")
    return codec


def shown(name: str) -> str:
    """A VAE's name in a sentence, as one would type it, on one line and of bounded length."""
    return quoted(name)[1:-1]
