"""Samplers and guidance, as generators of `Step` (DiT paper, section 3.1; DDIM, arXiv 2010.02502).

A sampler is one function in `SAMPLERS` that goes from x_t to x_{t-1}; those of the ODE are in `solvers`, of the SDE in
`stochastic`. Logging, previews, plots and traces are the caller's: they read the steps as they come.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat

from dit_lab.diffusion.checks import check, clips, drawn, fitted, seeded_noise, stepping, whole_labels
from dit_lab.diffusion.gaussian import Diffusion
from dit_lab.diffusion.objectives import process_of
from dit_lab.diffusion.process import split_output
from dit_lab.diffusion.solvers import REMEMBERED, SOLVERS, Now, shortened
from dit_lab.diffusion.stochastic import STOCHASTIC


@dataclass(frozen=True)
class Step:
    """One denoising step; tensors are `b c h w` in fp32.

    `x` is x_t, what the network saw at timestep `t`; `x0` and `eps` are the (guided) prediction and `previous` is
    x_{t-1}, so the last step's `previous` is the sample. `eps_uncond` is None where no guidance ran, `log_variance`
    (`b c h w`, or `b 1 1 1` where it is fixed) that of the ancestral step, None in flow matching, whose timesteps
    need not be whole. `index` counts from 0, the noisiest.
    """

    index: int
    t: int | float
    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    eps_cond: torch.Tensor
    eps_uncond: torch.Tensor | None
    log_variance: torch.Tensor | None
    previous: torch.Tensor


def ddpm_step(process, now, before, ask, noise, eta):
    """The ancestral step: the posterior's mean plus noise of the learned variance, none at the last."""
    i = torch.full((len(now.x),), now.i, device=now.x.device)
    mean = process.posterior_mean(now.x0, now.x, i)
    return mean + torch.exp(now.log_variance / 2) * noise if now.i > 0 else mean


def ddim_step(process, now, before, ask, noise, eta):
    """The DDIM step: deterministic at eta 0, as noisy as DDPM at eta 1 (2010.02502, equations 12 and 16)."""
    (a, s), (a_next, s_next) = process.levels(now.i), process.levels(now.i - 1)
    sigma = eta * s_next * math.sqrt(1 - (a * s_next / (a_next * s)) ** 2)
    return a_next * now.x0 + math.sqrt(s_next**2 - sigma**2) * now.eps + sigma * noise


SAMPLERS = {"ddim": ddim_step, "ddpm": ddpm_step, **SOLVERS, **STOCHASTIC}


def samplers_for(process) -> list[str]:
    """The samplers that can walk a process: flow matching has no posterior to draw an ancestral step from."""
    return [name for name in SAMPLERS if name != "ddpm" or isinstance(process, Diffusion)]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: `scale` on the first `channels` (None: all), for timesteps within `interval`."""

    scale: float = 1.0
    channels: int | None = None
    interval: tuple[float, float] | None = None
    guide: Callable | None = None  # (cond, uncond, scale) -> their mix, a function of the caller's own

    def active(self, t: float) -> bool:
        """Whether timestep `t` takes the second, unconditional pass at all."""
        low, high = self.interval or (-math.inf, math.inf)
        return self.scale != 1.0 and low <= t <= high

    def mix(self, cond, uncond):
        """uncond + scale (cond - uncond) on the guided channels, cond on the others: `b c h w, b c h w -> b c h w`."""
        guided = self.guide(cond, uncond, self.scale) if self.guide else uncond + self.scale * (cond - uncond)
        return torch.cat([guided[:, : self.channels], cond[:, self.channels :]], dim=1) if self.channels else guided


def sample(
    model, labels, *, sampler="ddim", steps=50, cfg_scale=1.0, cfg_channels=None, cfg_interval=None, eta=0.0, seed=0,
    noise=None, size=None, process=None, clip_x0=None, guide=None,
) -> Iterator[Step]:  # fmt: skip
    """Denoise one image a label, `labels: b` ints, yielding a `Step` for each of `steps`, noisiest first.

    `sampler` is a name of `SAMPLERS` or a function like those, and `guide(cond, uncond, scale)` one that mixes the two
    passes where guidance runs. `steps` are a number or timesteps, noisiest first (`spacing`). The null label
    (`num_classes` of the model's config) may be asked for. `noise(shape)` is called once for x_T and once at each step,
    with `b c h w`; by default it follows `seed`. `eta` (0 to 1) is DDIM's. `size` is a side or (h, w) when it differs
    from the trained one; `process` replaces the one that the config names. `clip_x0` is `clips`'; where nothing is
    clipped, the walk begins where x0 can be read (`Diffusion.readable`). Raises ValueError, before any work, on
    arguments that make no sense.
    """
    config = model.config if size is None else replace(model.config, input_size=size)
    labels = whole_labels(labels, config.num_classes, config.null_label)
    check(config, SAMPLERS, sampler, cfg_scale, cfg_channels, cfg_interval, eta, seed, noise, process, clip_x0, guide)
    process = process_of(config) if process is None else process
    clip = clips(config, process, clip_x0)
    process = shortened(process, sampler, steps, clip)
    step = stepping(sampler, SAMPLERS, samplers_for(process))
    guidance = Guidance(float(cfg_scale), cfg_channels, cfg_interval, guide and fitted("guide", guide))
    shape = (len(labels), config.in_channels, *config.size)
    noise = seeded_noise(seed) if noise is None else noise
    return walk(model, labels, process, step, guidance, float(eta), noise, shape, clip)


@torch.no_grad()
def walk(model, labels, process, sampler, guidance, eta, noise, shape, clip) -> Iterator[Step]:
    """The sampling loop behind `sample`, all arguments checked and resolved; `process` is the shortened one."""
    device, numbers = next(model.parameters()).device, range(len(process.timesteps))
    y = torch.tensor(labels, device=device)
    null = torch.full_like(y, model.config.num_classes)
    guided = [model.config.num_classes > 0 and guidance.active(t) for t in process.timesteps.tolist()]
    network = told(model, process, y, null if any(guided) else None)

    def predicted(x, number):
        """The step's Now, and eps of the conditional and the unconditional half."""
        i = torch.full_like(y, number)
        cond, uncond, v = predict(network, x, process.model_time(i), y, null if guided[number] else None)
        x0, eps = process.denoised(cond if uncond is None else guidance.mix(cond, uncond), x, i, clip)
        halves = [None if half is None else process.denoised(half, x, i)[1] for half in (cond, uncond)]
        # The bound teaches v to excuse a wrong x0 by more noise than there is; a walk believes it between the variances
        # (2102.09672, section 3.1). With eps it stays near them, and is taken as it comes, as the original takes it.
        v = v if v is None or process.prediction == "eps" else v.clamp(-1, 1)
        return Now(number, x, x0, eps, process.log_variance(v, i, x)), halves

    ask = lambda x, number: predicted(x, number)[0][2:4]  # x0 and eps
    x, before = drawn(noise, shape, device), ()
    for index, number in enumerate(reversed(numbers)):
        now, halves = predicted(x, number)
        x = sampler(process, now, before, ask, drawn(noise, shape, device), eta)
        yield Step(index, process.timesteps[number].item(), *now[1:4], *halves, now.log_variance, x)
        before = (now, *before)[:REMEMBERED]


def told(model, process, y, null):
    """The network as a walk asks it, `x: b c h w; t, y: b -> b (2c) h w` in fp32; it runs in its own dtype.

    A model that can make things ahead (`ahead`, see `dit_lab.models.fast`) is told of all timesteps and labels.
    """
    dtype, network = next(model.parameters()).dtype, model
    if hasattr(model, "ahead"):
        times = process.model_time(torch.arange(len(process.timesteps), device=y.device))
        network = model.ahead(times, (y if null is None else torch.cat([y, null])).unique())
    return lambda x, t, y: network(x.to(dtype), t, y).float()


def predict(network, x, t, y, null=None):
    """One network call, doubled for guidance: `x: b c h w; t, y, null: b -> cond, uncond (or None), v (or None)`.

    The variance value is the conditional half's, as in the original. Without `null` labels, outside the interval or in
    a model without classes, it is not doubled. Nothing here waits for the device.
    """
    if null is not None:
        x, t, y = repeat(x, "b ... -> (two b) ...", two=2), repeat(t, "b -> (two b)", two=2), torch.cat([y, null])
    output, v = split_output(network(x, t, y), x)
    if null is None:
        return output, None, v
    cond, uncond = rearrange(output, "(two b) c h w -> two b c h w", two=2)
    return cond, uncond, None if v is None else v[: len(cond)]


def generate(model, labels, **options) -> torch.Tensor:
    """The final sample, `b c h w` in fp32; `options` are those of `sample`."""
    for step in sample(model, labels, **options):
        final = step.previous
    return final
