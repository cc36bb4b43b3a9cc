"""Solvers of the probability-flow ODE, which carries noise to pictures without adding any.

Along x = a x0 + s eps the ODE is dx = x0 da + eps ds with the network's x0 and eps: for flow matching, where
da = -dt and ds = dt, that is the velocity; for a diffusion, DDIM. One function a solver, as in `sampling.SAMPLERS`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from dit_lab.diffusion.process import Process


class Now(NamedTuple):
    """Where a sampler stands: step `i` of the process, x_t there, and the (guided) prediction, each `b c h w`."""

    i: int
    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    log_variance: torch.Tensor | None


# (process, now, the `Now` before it or None, ask(x, i) -> x0, eps, noise, eta) -> x one step on
Sampler = Callable[..., torch.Tensor]


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
    """DPM-Solver++(2M): x0 drawn on as a line through the last two. Second order (2211.01095, algorithm 2)."""
    if now.i == 0:
        return now.x0
    (_, s), (a_next, s_next) = process.levels(now.i), process.levels(now.i - 1)
    here = log_snr(process, now.i)
    h = log_snr(process, now.i - 1) - here
    x0 = now.x0
    if before is not None:
        share = h / (here - log_snr(process, before.i)) / 2
        x0 = x0 + share * (x0 - before.x0)
    return s_next / s * now.x - a_next * math.expm1(-h) * x0


def log_snr(process, i: int) -> float:
    """Half the log of the signal-to-noise ratio, log(a / s): the time in which DPM-Solver takes its steps."""
    a, s = process.levels(i)
    return math.log(a / s) if a > 0 else -math.inf


SOLVERS = {"euler": euler_step, "heun": heun_step, "dpmpp": dpmpp_step}
# Timestep 0 has next to no noise: in log SNR it would be one huge step, so these leave it out, as diffusers does.
IN_LOG_SNR = {"dpmpp"}


def shortened(process: Process, sampler: str, steps: int, clip: bool) -> Process:
    """The process in the `steps` that a sampler takes of it, from where x0 can be read unless it is clipped."""
    return (process if clip else process.readable()).respaced(steps, first=sampler not in IN_LOG_SNR)
