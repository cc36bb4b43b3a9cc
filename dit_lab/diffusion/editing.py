"""Walks that begin with pictures: from some way back (SDEdit, arXiv 2108.01073), or drawing a part of them anew.

A part is drawn anew by replacement: after each step the pixels that are kept become those of the picture itself, with
the noise of that step (Song et al. 2021, arXiv 2011.13456, appendix I.2; RePaint, arXiv 2201.09865, equation 8, without
its resampling, by which the two parts would agree better). Pictures are what the model denoises: pixels, or latents.
"""

import torch

from dit_lab.diffusion.checks import check, clips, finite, seeded_noise, stepping
from dit_lab.diffusion.objectives import process_of
from dit_lab.diffusion.sampling import SAMPLERS, samplers_for
from dit_lab.diffusion.solvers import shortened
from dit_lab.program import quoted


def from_picture(
    model, pictures, *, strength=1.0, mask=None, sampler="ddim", steps=50, eta=0.0, seed=0, process=None,
    clip_x0=None,
) -> dict:  # fmt: skip
    """The options of one `sample` or `record` that begins with `pictures: b c h w`, one a label, or one for all.

    The walk is the last `strength` (0 to 1) of the `steps`, and begins with the pictures as noisy as its first step is:
    0.3 keeps nearly all of them, 0.9 little. What `mask` (`h w` or `b 1 h w`, bools) says is drawn anew, the rest kept;
    at strength 1 the part to be drawn begins with noise alone. Raises ValueError on pictures that the model cannot
    have drawn, and where no step is left.
    """
    check(model.config, SAMPLERS, sampler, 1.0, None, None, eta, seed, None, process, clip_x0)
    pictures = fitting(model.config, pictures)
    mask = None if mask is None else fitting_mask(mask, pictures)
    full = process_of(model.config) if process is None else process
    clip = clips(model.config, full, clip_x0)
    timesteps = shortened(full, sampler, steps, clip).timesteps[::-1].tolist()
    kept = walked_of(len(timesteps), strength)
    walk = shortened(full, sampler, timesteps[len(timesteps) - kept :], clip)
    anew = mask if kept == len(timesteps) else None
    options = dict(
        eta=eta,
        steps=timesteps[len(timesteps) - kept :],
        noise=beginning(pictures, walk.levels(kept - 1), anew, seed, 1 + kept),
        sampler=sampler if mask is None else Keeping(pictures, mask, sampler, samplers_for(full)),
    )
    given = dict(process=process, clip_x0=clip_x0, size=sized(model.config, pictures))
    return options | {name: value for name, value in given.items() if value is not None}


def beginning(pictures, level: tuple[float, float], anew, seed: int, draws: int):
    """The noise of one walk, of so many `draws`: first the pictures at the level (a, s), then what the seed goes on to.

    Where `anew` says, the first is noise alone. Raises ValueError where it is asked for another batch or another walk.
    """
    plain, (a, s), left = seeded_noise(seed), level, iter(range(draws))

    def noise(shape):
        number, z = next(left, None), plain(shape)
        if number is None:
            raise ValueError("from_picture makes the options of one walk, and this is another: make them again")
        if number:
            return z
        if len(pictures) not in (1, shape[0]) or tuple(pictures.shape[1:]) != tuple(shape[1:]):
            raise ValueError(f"give one picture for all labels or one a label, of {shape}, not {tuple(pictures.shape)}")
        start = a * pictures.expand(shape) + s * z
        return start if anew is None else torch.where(anew, z, start)

    return noise


class Keeping:
    """A sampler that steps as `sampler` where `mask` says and keeps the pictures elsewhere, as noisy as the step's end.

    Their noise is the step's own, of which a sampler gives those pixels none.
    """

    def __init__(self, pictures, mask, sampler, fitting):
        self.pictures, self.mask, self.sampler = pictures, mask, sampler
        self.step = stepping(sampler, SAMPLERS, fitting)

    def __call__(self, process, now, before, ask, noise, eta):
        a, s = process.levels(now.i - 1)
        drawn = self.step(process, now, before, ask, noise, eta)
        return torch.where(self.mask.to(now.x.device), drawn, a * self.pictures.to(now.x) + s * noise)


def walked_of(steps: int, strength) -> int:
    """How many of the `steps` are walked, as diffusers counts them. Raises ValueError where none is."""
    if not (finite(strength) and 0 <= strength <= 1):
        raise ValueError(f"strength must be a number from 0 to 1, not {quoted(strength)}")
    kept = int(steps * strength)
    if not kept:
        raise ValueError(f"strength {strength:g} leaves none of {steps} steps: take more of either")
    return kept


def fitting(config, pictures):
    """The pictures in fp32 on the CPU. Raises ValueError where they are none that the model could draw."""
    shape = tuple(getattr(pictures, "shape", ()))
    if not isinstance(pictures, torch.Tensor) or len(shape) != 4 or not shape[0] or shape[1] != config.in_channels:
        told = f"of shape {shape}" if shape else quoted(pictures)
        raise ValueError(f"pictures must be a tensor b {config.in_channels} h w, as the model draws, not {told}")
    pictures = pictures.detach().to("cpu", torch.float32)
    if not pictures.isfinite().all():
        raise ValueError("the pictures hold NaN or Inf: give others")
    return pictures


def fitting_mask(mask, pictures):
    """The mask on the CPU. Raises ValueError where it does not fit the pictures, or says that nothing is drawn."""
    (b, _, h, w), shape = pictures.shape, tuple(getattr(mask, "shape", ()))
    if (
        not isinstance(mask, torch.Tensor)
        or mask.dtype != torch.bool
        or shape not in ((h, w), (1, 1, h, w), (b, 1, h, w))
    ):
        told = f"{mask.dtype} of {shape}" if isinstance(mask, torch.Tensor) else quoted(mask)
        raise ValueError(f"mask must be bools of {(h, w)}, true where the picture is drawn anew, not {told}")
    if not mask.any():
        raise ValueError("the mask keeps every pixel, so nothing is left to draw: make a part of it true")
    return mask.cpu()


def sized(config, pictures) -> tuple[int, int] | None:
    """The size to ask `sample` for, None where it is the trained one."""
    size = tuple(pictures.shape[2:])
    return None if size == tuple(config.size) else size
