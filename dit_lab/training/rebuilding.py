"""What a VAE's training leaves: the VAE in diffusers' format, its scale, and how near rebuilt pictures are to real.

The scaling factor is one over the standard deviation of the latents, drawn as training draws them (arXiv 2112.10752,
appendix G), so that a diffusion model meets numbers of unit size.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from einops import reduce, repeat
from torch import nn

from dit_lab.data import Autoencoder, Images, write_grid
from dit_lab.data.vae_config import STATISTICS
from dit_lab.data.vaes import FILES
from dit_lab.files import add_line, atomic, write_json, write_tensors
from dit_lab.training.folder import LOG

FIGURES, GRID = "figures.json", "rebuilt.png"
READ = 64  # pictures that are read at once
SHOWN = 16


@torch.no_grad()
def write_vae(
    vae: nn.Module, images: Images, places: tuple, out: Path, step: int, *, scaled: bool = True, most: int | None = None
) -> dict:
    """Write a VAE with its figures, a grid of pairs (real, rebuilt) of held-back pictures, and a line of the log.

    `places` are those of the pictures it was trained on, and of those held back; of each at most `most`, evenly spread,
    are measured. The factor that scales its latents is measured on the first and written to its config, unless another
    one is to stay (`scaled` is false). Returns the figures.
    """
    trained, held = (spread(each, most) for each in places)
    size, measured = deviation(vae, images, trained), figures_of(vae, images, held)
    if scaled:
        vae.register_to_config(scaling_factor=round(1 / size, 5), shift_factor=None, **dict.fromkeys(STATISTICS))
    seen = figures_of(vae, images, spread(trained, len(held)))
    figures = {
        "step": step, **measured, "pictures_held_back": len(held), "psnr_of_pictures_trained_on": seen["psnr"],
        "latent_deviation": round(size, 6), "pictures_of_the_deviation": len(trained),
        "scaling_factor": vae.config.scaling_factor, "parameters": sum(each.numel() for each in vae.parameters()),
    }  # fmt: skip
    write_tensors(out / FILES[1], {name: each.cpu().contiguous() for name, each in vae.state_dict().items()}, {})
    with atomic(out / FILES[0]) as partial:
        partial.write_text(vae.to_json_string())
    shown = images.batch(spread(held, SHOWN))[0]
    write_grid(out / GRID, torch.cat([coloured(shown), rebuilt(vae, shown)], dim=-1))
    write_json(out / FIGURES, figures)
    add_line(out / LOG, figures)
    return figures


def spread(places: np.ndarray, most: int | None) -> np.ndarray:
    """At most so many of the places, evenly spread."""
    if most is None or len(places) <= most:
        return places
    return places[np.linspace(0, len(places) - 1, most).astype(int)]


def batches(images: Images, places: np.ndarray) -> Iterator[torch.Tensor]:
    """The pictures at these places, some at a time: `b 3 h w`."""
    for start in range(0, len(places), READ):
        yield coloured(images.batch(places[start : start + READ])[0])


def coloured(x):
    """Pictures as a VAE takes them: `b 1 h w or b 3 h w -> b 3 h w`."""
    return repeat(x, "b 1 h w -> b 3 h w") if x.shape[1] == 1 else x


def latents_of(vae: nn.Module, x) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latents, as the VAE gives them: `b 3 h w -> two of b c h w`."""
    given = [vae.encode(part).latent_dist for part in Autoencoder(vae).portions(x, 1)]
    return tuple(torch.cat([getattr(each, name).float().cpu() for each in given]) for name in ("mean", "std"))


def rebuilt(vae: nn.Module, x):
    """Pictures from their mean latents: `b c h w -> b 3 h w` in [-1, 1]."""
    portions = Autoencoder(vae).portions(coloured(x), 1)
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample.float().cpu() for part in portions]
    return torch.cat(parts).clamp(-1, 1)


def deviation(vae: nn.Module, images: Images, places: np.ndarray) -> float:
    """The standard deviation of all numbers of these pictures' latents, each drawn from its distribution."""
    sums, count = torch.zeros(2, dtype=torch.float64), 0
    for x in batches(images, places):
        mean, std = (each.double() for each in latents_of(vae, x))
        sums += torch.stack([mean.sum(), (mean.square() + std.square()).sum()])
        count += mean.numel()
    mean, square = (sums / count).tolist()
    return (square - mean**2) ** 0.5


def figures_of(vae: nn.Module, images: Images, places: np.ndarray) -> dict[str, float]:
    """How near rebuilt pictures, rounded to 8 bits, are to real ones, and what their latents tell.

    `psnr` is the mean over pictures in dB, with its deviation over them; `mean_absolute_error` of pixels in [0, 1];
    `kl` in nats a number of the latent.
    """
    bits = lambda x: ((x + 1) * 127.5).round() / 255
    found = {"squared": [], "absolute": [], "kl": []}
    for x in batches(images, places):
        mean, std = latents_of(vae, x)
        apart = bits(rebuilt(vae, x)) - bits(x)
        kl = (mean.square() + std.square() - 1 - 2 * std.log()) / 2
        for name, values in ("squared", apart.square()), ("absolute", apart.abs()), ("kl", kl):
            found[name].append(reduce(values, "b c h w -> b", "mean"))
    squared, absolute, kl = (torch.cat(parts).double() for parts in found.values())
    psnr = -10 * squared.clamp(min=1e-10).log10()  # one that is rebuilt exactly has 100 dB
    told = {
        "psnr": psnr.mean(), "psnr_deviation": psnr.std(correction=0), "mean_absolute_error": absolute.mean(),
        "kl": kl.mean(),
    }  # fmt: skip
    return {name: round(value.item(), 6) for name, value in told.items()}
