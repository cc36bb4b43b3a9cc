"""Solvers of the probability-flow ODE, which carries noise to pictures without adding any.

Along x = a x0 + s eps the ODE is dx = x0 da + eps ds with the network's x0 and eps: for flow matching, where
da = -dt and ds = dt, that is the velocity; for a diffusion, DDIM. One function a solver, as in `sampling.SAMPLERS`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch

from dit_lab.diffusion.process import Process
from dit_lab.diffusion.whole import whole
from dit_lab.program import quoted


class Now(NamedTuple):
    """Where a sampler stands: step `i` of the process, x_t there, and the (guided) prediction, each `b c h w`."""

    i: int
    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    log_variance: torch.Tensor | None


# (process, now, up to `REMEMBERED` earlier `Now`s, the latest first, ask(x, i) -> x0, eps, noise, eta) -> x one step on
Sampler = Callable[..., torch.Tensor]
REMEMBERED = 2
FEW = 15  # steps below which a third-order walk takes its last but one in second order, as diffusers does


def euler_step(process, now, before, ask, noise, eta):
    """Straight on: x0 and eps stay what they are. First order; on a diffusion it is DDIM."""
    a, s = process.levels(now.i - 1)
    return a * now.x0 + s * now.eps


def heun_step(process, now, before, ask, noise, eta):
    """Euler's step, then again with the mean of both ends' predictions. Second order, two network calls a step."""
    (a, s), (a_next, s_next) = process.levels(now.i), process.levels(now.i - 1)
    x = a_next * now.x0 + s_next * now.eps
    if now.i == 0:  # the clean picture has no prediction of its own
        return x
    x0, eps = ask(x, now.i - 1)
    return now.x + (a_next - a) * (now.x0 + x0) / 2 + (s_next - s) * (now.eps + eps) / 2


def dpmpp_step(process, now, before, ask, noise, eta):
    """DPM-Solver++(2M): x0 drawn on as a line through the last two (2211.01095, algorithm 2).

    Second order, from its second step on; the first is Euler's.
    """
    return exponential(process, now, along_line(process, now, before))


def dpmpp3_step(process, now, before, ask, noise, eta):
    """DPM-Solver++(3M): x0 drawn on as a parabola through the last three (2211.01095, appendix B).

    Its authors' code and diffusers take half of the parabola's bend, and so does this: its errors fall in second order.
    With all of it (twice `of_bend`), and begun exactly, they would in third.
    """
    early = len(before) < 2 or log_snr(process, before[1].i) == -math.inf
    if early or now.i == 0 or (now.i == 1 and len(process.timesteps) < FEW):
        return dpmpp_step(process, now, before, ask, noise, eta)
    following, here, last, first = (log_snr(process, i) for i in (now.i - 1, now.i, *(each.i for each in before)))
    h, r, q = following - here, (here - last) / (following - here), (last - first) / (following - here)
    slope, slope_before = (now.x0 - before[0].x0) / r, (before[0].x0 - before[1].x0) / q
    bend = (slope - slope_before) / (r + q)
    shrunk = math.expm1(-h)
    of_slope, of_bend = -(shrunk / h + 1) / shrunk, ((shrunk + h) / h**2 - 0.5) / shrunk
    return exponential(process, now, now.x0 + of_slope * (slope + r * bend) + of_bend * bend)


def unipc_step(process, now, before, ask, noise, eta):
    """UniPC of order 2 with B(h) = e^h - 1: x_t is mended by what the network said there, then as DPM-Solver++(2M).

    (2302.04867, algorithms 1 and 2.) What the line of the step before had drawn is replaced by a curve that also goes
    through the new x0; the network is not asked again.
    """
    if before and now.i:
        curve = along_curve(process, now, before) - along_line(process, before[0], before[1:])
        moved = exponential(process, before[0]._replace(x=torch.zeros_like(now.x)), curve)
        now = now._replace(x=now.x + moved)
    return exponential(process, now, along_line(process, now, before))


def exponential(process, now, x0):
    """The step from x_t to the next that is exact while x0 stays: `x0: b c h w -> b c h w`."""
    if now.i == 0:
        return x0
    (_, s), (a_next, s_next) = process.levels(now.i), process.levels(now.i - 1)
    h = log_snr(process, now.i - 1) - log_snr(process, now.i)
    return s_next / s * now.x - a_next * math.expm1(-h) * x0


def along_line(process, now, before):
    """x0 halfway to the next step, on the line through the last two: `-> b c h w`.

    It is a line in log SNR, as the paper has it. Where the walk began with pure noise, as flow matching does, it is one
    in s: log SNR has no place for the first step, and those after it are as long there however many there are, so that
    the line in it is off by a first-order error in each.
    """
    if not before or now.i == 0:
        return now.x0
    steps = now.i - 1, now.i, before[0].i
    if process.levels(len(process.timesteps) - 1)[0] > 0:
        there, here, last = (log_snr(process, i) for i in steps)
    else:
        there, here, last = (-process.levels(i)[1] for i in steps)
    return now.x0 + (there - here) / (here - last) / 2 * (now.x0 - before[0].x0)


def along_curve(process, now, before):
    """The x0 that UniC puts in the place of the line's, from `before[0]` to `now`: `-> b c h w` (its equation 9)."""
    last = before[0]
    if len(before) < 2:
        return (last.x0 + now.x0) / 2
    here, there, first = (log_snr(process, each.i) for each in (now, *before))
    h = here - there
    phi = math.expm1(-h) / -h - 1
    b1, b2 = phi / math.expm1(-h), 2 * (phi / -h - 0.5) / math.expm1(-h)
    if first == -math.inf:
        return last.x0 + b1 * (now.x0 - last.x0)
    r = (first - there) / h
    of_first = (b2 - b1) / (r - 1)
    return last.x0 + of_first / r * (before[1].x0 - last.x0) + (b1 - of_first) * (now.x0 - last.x0)


def log_snr(process, i: int) -> float:
    """Half the log of the signal-to-noise ratio, log(a / s): the time in which DPM-Solver takes its steps."""
    a, s = process.levels(i)
    return math.log(a / s) if a > 0 else -math.inf


SOLVERS = {
    "euler": euler_step, "heun": heun_step, "dpmpp": dpmpp_step, "dpmpp3": dpmpp3_step, "unipc": unipc_step,
}  # fmt: skip
# Timestep 0 has next to no noise: in log SNR it would be one huge step, so these leave it out, as diffusers does; the
# SDE's, whose noise for that step the last one could not take away, goes to the picture from further out, like SiT's.
WITHOUT_FIRST = {"dpmpp", "dpmpp3", "unipc", "dpmpp_sde", "sde"}


def shortened(process: Process, sampler: str, steps: int | Sequence[int], clip: bool) -> Process:
    """The process in the `steps` that a sampler takes of it, from where x0 can be read unless it is clipped.

    `steps` is their number, then they are even, or the timesteps themselves, noisiest first.
    """
    process = process if clip else process.readable()
    if isinstance(steps, Sequence) and not isinstance(steps, str):
        return picked(process, steps)
    return process.respaced(steps, first=sampler not in WITHOUT_FIRST)


def how_many(steps: int | Sequence[float]) -> int:
    """The number of steps, where they are a number and where they are timesteps."""
    return steps if isinstance(steps, int) else len(steps)


def picked(process: Process, timesteps: Sequence[float]) -> Process:
    """A process in the `timesteps` named, noisiest first. Raises ValueError on others than it has.

    Of a diffusion they need not be whole: between two of its steps the log of noise to signal, s / a, is a line.
    """
    if hasattr(process, "picked"):
        return process.picked(timesteps)
    if not hasattr(process, "betas"):
        raise ValueError("steps of a process of one's own are even: say how many, not which")
    rising, most = list(reversed(timesteps)), max(there := process.timesteps.tolist())
    numbers = all(isinstance(t, Real) and not isinstance(t, bool) and there[0] <= t <= most for t in rising)
    if not rising or not numbers or any(low >= high for low, high in pairwise(rising)):
        raise ValueError(f"steps must be a number, or falling timesteps from {most} to 0, not {quoted(timesteps)}")
    if all(whole(t) and t in there for t in rising):
        kept = [there.index(t) for t in rising]
        alpha_bar, told = np.array([process.levels(i)[0] ** 2 for i in kept]), process.timesteps[kept]
    else:
        levels = np.array([process.levels(i) for i in range(len(there))])
        log_ratio = np.interp(rising, there, np.log(levels[:, 1] / levels[:, 0]))
        alpha_bar, told = 1 / (1 + np.exp(2 * log_ratio)), np.array(rising, np.float32)
    return replace(process, betas=1 - alpha_bar / np.append(1.0, alpha_bar[:-1]), timesteps=told)
