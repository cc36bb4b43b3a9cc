"""Samplers that add noise on the way: the reverse SDE (SiT, arXiv 2401.08740, section 2), and DPM-Solver++ for it.

The SDE has the ODE's marginals at every time, whatever its diffusion coefficient: what it adds in noise its drift takes
away again. One function a sampler, as in `sampling.SAMPLERS`; none adds noise in its last step, which goes to x0.
"""

import math
from collections.abc import Callable

from dit_lab.diffusion.solvers import Sampler, along_line, euler_step, log_snr


def with_diffusion(coefficient: Callable[[float, float], float]) -> Sampler:
    """The Euler-Maruyama step of the reverse SDE; `coefficient(a, s)` is its diffusion D where x_t = a x0 + s eps.

    The score is -eps / s, and time is counted in s, which in a flow is t itself: from s to s' it is Euler's step, less
    D (s - s') eps / s, plus noise of variance 2 D (s - s'). At 0 it is Euler's. First order.
    """

    def step(process, now, before, ask, noise, eta):
        straight = euler_step(process, now, before, ask, noise, eta)
        if now.i == 0:
            return straight
        (a, s), (_, s_next) = process.levels(now.i), process.levels(now.i - 1)
        diffusion, dt = coefficient(a, s), s - s_next
        return straight - diffusion * dt / s * now.eps + math.sqrt(2 * diffusion * dt) * noise

    return step


def dpmpp_sde_step(process, now, before, ask, noise, eta):
    """DPM-Solver++(2M) for the SDE (2211.01095; the midpoint rule, as diffusers' `sde-dpmsolver++` has it).

    Exact in law while x0 stays. From pure noise, where a flow begins, nothing is kept: the first step's noise is new.
    """
    if now.i == 0:
        return now.x0
    (_, s), (a_next, s_next) = process.levels(now.i), process.levels(now.i - 1)
    h = log_snr(process, now.i - 1) - log_snr(process, now.i)
    share = -math.expm1(-2 * h)  # of the next point's variance, what is not left of this one's
    kept = s_next / s * math.exp(-h) * now.x + a_next * share * along_line(process, now, before)
    return kept + s_next * math.sqrt(share) * noise


# D = s is SiT's choice of those that are 0 at the picture; over a whole walk the noise that it adds has variance 1.
STOCHASTIC = {"sde": with_diffusion(lambda a, s: s), "dpmpp_sde": dpmpp_sde_step}
FRESH = "ddpm", *STOCHASTIC  # all that put fresh noise in at every step, the ancestral one too; ddim does with an eta
