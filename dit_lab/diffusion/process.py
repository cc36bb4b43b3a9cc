"""From picture to noise, and what a network says about a point between: x_t = a x0 + s eps.

A process is a, the picture's factor, and s, the noise's, at each of its steps: `gaussian.Diffusion` (the paper's) or
`flow.Flow`. What the network, a callable `model(x, t, y) -> out`, predicts there is a row of `PREDICTIONS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce

from dit_lab.diffusion.weights import min_snr_weight


class Prediction(NamedTuple):
    """How a parametrisation reads: its training target, and x0 from its output, both linear in what they are given."""

    target: Callable  # (x0, eps, a, s) -> what the network should output
    x0: Callable  # (x, output, a, s) -> x0


PREDICTIONS = {
    "eps": Prediction(lambda x0, eps, a, s: eps, lambda x, out, a, s: (x - s * out) / a),
    "x0": Prediction(lambda x0, eps, a, s: x0, lambda x, out, a, s: out),
    "v": Prediction(lambda x0, eps, a, s: a * eps - s * x0, lambda x, out, a, s: a * x - s * out),
    "velocity": Prediction(lambda x0, eps, a, s: eps - x0, lambda x, out, a, s: (x - s * out) / (a + s)),
    "sit_velocity": Prediction(lambda x0, eps, a, s: x0 - eps, lambda x, out, a, s: (x + s * out) / (a + s)),
}


class Losses(NamedTuple):
    """Per-sample losses, each `b`: `loss = weight mse + vb`; `mse` is L_simple, `vb` the bound in bits per dimension.

    The weight is 1 unless min-SNR weighting is asked for; without learned variance `vb` is 0.
    """

    loss: torch.Tensor
    mse: torch.Tensor
    vb: torch.Tensor


class Process:
    """What `Diffusion` and `Flow` share. Methods take `i: b`, steps of this process; -1 is the clean picture.

    One's own says what is not implemented here: the first four to be walked, `times` to be trained in, and `bound`.
    """

    prediction: str
    timesteps: np.ndarray  # what the network is told at each step

    def signal_and_noise(self, i, like):
        """a and s at step `i: b -> (b 1 1 1, b 1 1 1)`, in the dtype of `like`, on its device."""
        raise NotImplementedError

    def levels(self, i: int) -> tuple[float, float]:
        """a and s of one step in float64, the clean picture's (1 and 0) at -1."""
        raise NotImplementedError

    def model_time(self, i):
        """What the network is told at step `i: b -> b`."""
        raise NotImplementedError

    def respaced(self, steps: int, first: bool = True) -> "Process":
        """So many of its steps, evenly spread, the noisiest among them, and, where asked for, the `first`."""
        raise NotImplementedError

    def times(self, count: int, random: torch.Generator, spread: str = "uniform"):
        """The steps that a batch is trained at: `-> i: b`. Raises ValueError on a spread that it has not."""
        raise NotImplementedError

    def log_variance(self, v, i, like):
        """log sigma^2 of the ancestral step from `v: b c h w`, or None: `b c h w` or `b 1 1 1`; None: there is none."""

    def readable(self) -> "Process":
        """The steps at which x0 can be read from what is predicted; the process itself where that is all of them."""
        return self

    def bound(self, x0, x, i, output, v):
        """What trains the variance value `v: b c h w`, in bits per dimension: `-> b`."""
        raise NotImplementedError

    def noised(self, x0, i, eps):
        """x_t: `x0, eps: b c h w, i: b -> b c h w`."""
        a, s = self.signal_and_noise(i, x0)
        return a * x0 + s * eps

    def denoised(self, output, x, i, clip: bool = False):
        """x0 and eps as the network sees them: `output, x: b c h w, i: b -> (b c h w, b c h w)`.

        With `clip`, x0 is held to [-1, 1] and eps is what then fits x, as the original's clip_denoised does.
        """
        a, s = self.signal_and_noise(i, x)
        x0 = PREDICTIONS[self.prediction].x0(x, output, a, s)
        if clip:
            x0 = x0.clamp(-1, 1) + 0 * x0  # 0 times Inf is NaN: what the network cannot say stays visible
            return x0, (x - a * x0) / s
        return x0, output if self.prediction == "eps" else (x - a * x0) / s

    def losses(self, model, x0, i, y, eps, min_snr: float | None = None) -> Losses:
        """L_simple and, with learned variance, the variational bound: `x0, eps: b c h w; i, y: b -> Losses of b`.

        `min_snr` weights L_simple so that no step counts more than it would with this signal-to-noise ratio. The bound
        trains the variance alone: its gradient stops at the prediction (2102.09672, section 3.1).
        """
        x, (a, s) = self.noised(x0, i, eps), self.signal_and_noise(i, x0)
        # Cast first: under autocast the output is bf16, in which v + 1 would lose what is left of v.
        output, v = split_output(model(x, self.model_time(i), y).to(x0), x0)
        mse = flat_mean((PREDICTIONS[self.prediction].target(x0, eps, a, s) - output) ** 2)
        weight = 1 if min_snr is None else min_snr_weight(PREDICTIONS[self.prediction].x0, a, s, min_snr)
        vb = torch.zeros_like(mse) if v is None else self.bound(x0, x, i, output.detach(), v)
        return Losses(weight * mse + vb, mse, vb)


def split_output(output, x):
    """Prediction and variance value: `b (2c) h w -> (b c h w, b c h w)`, or `b c h w -> (b c h w, None)`."""
    if output.shape[1] == x.shape[1]:
        return output, None
    return tuple(rearrange(output, "b (two c) h w -> two b c h w", two=2))


def flat_mean(x):
    """`b c h w -> b`."""
    return reduce(x, "b c h w -> b", "mean")
