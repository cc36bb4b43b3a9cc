"""Which steps a walk takes where they are not even: lists of timesteps, noisiest first, for `sample`'s `steps`.

A list is all that a walk, a recorded run and its file know of them: `sample(model, labels, steps=karras(process, 20))`.
"""

import numpy as np

from dit_lab.diffusion.flow import Flow
from dit_lab.diffusion.process import Process
from dit_lab.diffusion.whole import check_steps
from dit_lab.program import quoted

RHO = 7.0


def karras(process: Process, steps: int, rho: float = RHO) -> list[float]:
    """Steps even in the noise to the power 1 / rho, more of them near the picture (2206.00364, equation 5).

    The noise is s / a of a diffusion and, as in diffusers, t of a flow; they reach from a full `process`'s last step
    at which x0 can be read to its first. Of a diffusion they are not whole; rounded, the lowest would fall together.
    """
    check_steps(steps)
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho must be a number above 0, not {quoted(rho)}")
    process = process.readable()
    levels = np.array([process.levels(i) for i in range(len(process.timesteps))])
    noise = levels[:, 1] if isinstance(process, Flow) else levels[:, 1] / levels[:, 0]
    kept = np.linspace(noise[-1] ** (1 / rho), noise[0] ** (1 / rho), steps) ** rho
    kept[0] = noise[-1]  # which the powers may have rounded off the end
    if isinstance(process, Flow):
        return told(process, kept)
    # The embedding takes fp32, so that is what they are rounded to.
    return np.interp(np.log(kept), np.log(noise), process.timesteps).astype(np.float32).tolist()


def shifted(process: Process, steps: int, shift: float) -> list[float]:
    """A flow's even steps moved to more noise, t' = shift t / (1 + (shift - 1) t) (2403.03206, equation 23).

    More pixels show the same picture through more noise: the paper takes 3 at 1024 x 1024. Raises ValueError on a
    diffusion, whose noise ends where it was trained to.
    """
    check_steps(steps)
    if not isinstance(process, Flow):
        raise ValueError("a shift is for flow matching; this model is a diffusion, whose uneven steps are Karras'")
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift must be a number above 0, 1 for even steps, not {quoted(shift)}")
    t = np.arange(steps, 0, -1) / steps
    return told(process, shift * t / (1 + (shift - 1) * t))


def told(process: Flow, t) -> list[float]:
    """What the network of a full flow is told at t, an array."""
    return process.model_time(t * process.steps - 1).tolist()
