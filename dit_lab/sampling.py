"""Samplers and guidance, as generators of `Step` (DiT paper, section 3.1; DDIM, arXiv 2010.02502).

A sampler is one function in `SAMPLERS` that goes from x_t to x_{t-1}. Logging, previews, plots and traces are the
caller's: they read the steps as they come.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from einops import rearrange, repeat

from dit_lab.diffusion import Diffusion, at, split_output, whole


@dataclass(frozen=True)
class Step:
    """One denoising step; tensors are `b c h w` in fp32.

    `x` is x_t, what the network saw at timestep `t`; `x0` and `eps` are the (guided) prediction and `previous` is
    x_{t-1}, so the last step's `previous` is the sample. `eps_uncond` is None where no guidance ran, `log_variance`
    (`b c h w`, or `b 1 1 1` where it is fixed) that of the ancestral step. `index` counts from 0, the noisiest.
    """

    index: int
    t: int
    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    eps_cond: torch.Tensor
    eps_uncond: torch.Tensor | None
    log_variance: torch.Tensor
    previous: torch.Tensor


def ddpm_step(diffusion, i, x, x0, eps, log_variance, noise, eta):
    """The ancestral step: the posterior's mean plus noise of the learned variance, none at the last (`i: b`)."""
    moving = (i > 0).to(x)[:, None, None, None]
    return diffusion.posterior_mean(x0, x, i) + moving * torch.exp(log_variance / 2) * noise


def ddim_step(diffusion, i, x, x0, eps, log_variance, noise, eta):
    """The DDIM step: deterministic at eta 0, as noisy as DDPM at eta 1 (2010.02502, equations 12 and 16; `i: b`)."""
    alpha_bar, previous = diffusion.alpha_bar, diffusion.alpha_bar_previous
    sigma = eta * np.sqrt((1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous))
    direction = np.sqrt(np.maximum(1 - previous - sigma**2, 0))
    return at(np.sqrt(previous), i, x) * x0 + at(direction, i, x) * eps + at(sigma, i, x) * noise


SAMPLERS = {"ddim": ddim_step, "ddpm": ddpm_step}


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: `scale` on the first `channels` (None: all), for timesteps within `interval`."""

    scale: float = 1.0
    channels: int | None = None
    interval: tuple[float, float] | None = None

    def active(self, t: int) -> bool:
        """Whether timestep `t` takes the second, unconditional pass at all."""
        low, high = self.interval or (-math.inf, math.inf)
        return self.scale != 1.0 and low <= t <= high

    def mix(self, cond, uncond):
        """uncond + scale (cond - uncond) on the guided channels, cond on the others: `b c h w, b c h w -> b c h w`."""
        guided = uncond + self.scale * (cond - uncond)
        return torch.cat([guided[:, : self.channels], cond[:, self.channels :]], dim=1) if self.channels else guided


def seeded_noise(seed: int) -> Callable[[Sequence[int]], torch.Tensor]:
    """The default noise: `noise(shape) -> tensor`, drawn on the CPU so that a seed means the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(*shape, generator=generator)


def sample(
    model, labels, *, sampler="ddim", steps=50, cfg_scale=1.0, cfg_channels=None, cfg_interval=None, eta=0.0, seed=0,
    noise=None, size=None, diffusion=None,
) -> Iterator[Step]:  # fmt: skip
    """Denoise one image a label, `labels: b` ints, yielding a `Step` for each of `steps`, noisiest first.

    The null label (`num_classes` of the model's config) may be asked for. `noise(shape)` is called once for x_T and
    once at every step, with `b c h w`; by default it follows `seed`. `eta` (0 to 1) is DDIM's. `size` is a side or
    (h, w) when it differs from the trained one; `diffusion` replaces the process that the model's config names.
    Raises ValueError, before any work, on arguments that make no sense.
    """
    config = model.config if size is None else replace(model.config, input_size=size)
    labels = whole_labels(labels, config.num_classes)
    check(config, sampler, cfg_scale, cfg_channels, cfg_interval, eta, seed, noise)
    diffusion = (diffusion or Diffusion.named(config.schedule, config.prediction)).respaced(steps)
    guidance = Guidance(cfg_scale, cfg_channels, cfg_interval)
    shape = (len(labels), config.in_channels, *config.size)
    noise = seeded_noise(seed) if noise is None else noise
    return walk(model, labels, diffusion, SAMPLERS[sampler], guidance, eta, noise, shape)


@torch.no_grad()
def walk(model, labels, diffusion, sampler, guidance, eta, noise, shape) -> Iterator[Step]:
    """The sampling loop behind `sample`, all arguments checked and resolved; `diffusion` is the shortened process."""
    device = next(model.parameters()).device
    y = torch.tensor(labels, device=device)
    x = drawn(noise, shape, device)
    for index, number in enumerate(reversed(range(len(diffusion.betas)))):
        i = torch.full_like(y, number)
        cond, uncond, v = predict(model, x, diffusion.model_time(i), y, guidance)
        x0, eps = diffusion.denoised(cond if uncond is None else guidance.mix(cond, uncond), x, i)
        halves = [None if half is None else diffusion.denoised(half, x, i)[1] for half in (cond, uncond)]
        log_variance = diffusion.log_variance(v, i, x)
        previous = sampler(diffusion, i, x, x0, eps, log_variance, drawn(noise, shape, device), eta)
        yield Step(index, int(diffusion.timesteps[number]), x, x0, eps, *halves, log_variance, previous)
        x = previous


def drawn(noise, shape, device):
    """One draw of `noise`, in fp32 on `device`. Raises ValueError when its shape is not the one asked for."""
    z = torch.as_tensor(noise(shape))
    if tuple(z.shape) != shape:
        raise ValueError(f"noise was asked for {shape} and gave {tuple(z.shape)}")
    return z.to(device, torch.float32)


def predict(model, x, t, y, guidance: Guidance):
    """One network call, doubled for guidance: `x: b c h w; t, y: b -> cond, uncond (or None), v (or None)`.

    The variance value is the conditional half's, as in the original. The network runs in its own dtype. A model
    without classes is never doubled: both halves would be the same.
    """
    guided = model.config.num_classes > 0 and guidance.active(int(t[0]))
    if guided:
        null = torch.full_like(y, model.config.num_classes)
        x, t, y = repeat(x, "b ... -> (two b) ...", two=2), repeat(t, "b -> (two b)", two=2), torch.cat([y, null])
    output, v = split_output(model(x.to(next(model.parameters()).dtype), t, y).float(), x)
    if not guided:
        return output, None, v
    cond, uncond = rearrange(output, "(two b) c h w -> two b c h w", two=2)
    return cond, uncond, None if v is None else v[: len(cond)]


def generate(model, labels, **options) -> torch.Tensor:
    """The final sample, `b c h w` in fp32; `options` are those of `sample`."""
    for step in sample(model, labels, **options):
        final = step.previous
    return final


def whole_labels(labels, num_classes: int) -> list[int]:
    """`labels`, a list, array or tensor of whole numbers, as a list. Raises ValueError on others."""
    plain = labels.tolist() if hasattr(labels, "tolist") else labels
    plain = list(plain) if isinstance(plain, Iterable) else []
    if not plain:
        raise ValueError(f"labels must be a list of at least one whole number, not {labels!r}")
    for label in plain:
        if not whole(label) or not 0 <= label <= num_classes:
            raise ValueError(f"labels must be whole numbers from 0 to {num_classes} (the null label), not {label!r}")
    return [int(label) for label in plain]


def check(config, sampler, cfg_scale, cfg_channels, cfg_interval, eta, seed, noise=None) -> None:
    """Raise ValueError, in one sentence, on sampling arguments that make no sense for a model of this config."""
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise ValueError(f"there is no sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    if not (isinstance(eta, Real) and 0 <= eta <= 1):
        raise ValueError(f"eta must be between 0 and 1, not {eta!r}")
    if not (isinstance(cfg_scale, Real) and math.isfinite(cfg_scale)):
        raise ValueError(f"cfg_scale must be a finite number, not {cfg_scale!r}")
    if cfg_channels is not None and not (whole(cfg_channels) and 1 <= cfg_channels <= config.in_channels):
        raise ValueError(f"cfg_channels must be a whole number from 1 to {config.in_channels}, not {cfg_channels!r}")
    if cfg_interval is not None and not rising(cfg_interval):
        raise ValueError(f"cfg_interval must be two timesteps in rising order, not {cfg_interval!r}")
    if not (whole(seed) and -(2**63) <= seed < 2**64):
        raise ValueError(f"seed must be a whole number of at most 64 bits, not {seed!r}")
    if noise is not None and not callable(noise):
        raise ValueError(f"noise must be a function of a shape that gives a tensor, not a {type(noise).__name__}")


def rising(pair) -> bool:
    """Whether `pair` is two numbers, the second not below the first."""
    numbers = isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(end, Real) for end in pair)
    return numbers and pair[0] <= pair[1]
