"""Gaussian diffusion, the paper's process: schedules, noising, the learned variance and its bound.

Ho et al. 2020 (arXiv 2006.11239) for the process, Nichol & Dhariwal 2021 (arXiv 2102.09672) for the cosine schedule,
the learned variance and the respaced process; DiT paper, section 3.1, for how they are put together. Sums over the
process are kept in float64 and cast at the last moment.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from einops import rearrange

from dit_lab.diffusion.process import PREDICTIONS, Process, flat_mean
from dit_lab.diffusion.whole import check_steps
from dit_lab.program import quoted


def linear_betas(steps: int) -> np.ndarray:
    """Betas from 1e-4 to 0.02, stretched to other lengths than 1000 so that the same noise is reached."""
    return np.linspace(1e-4, 0.02, steps) * (1000 / steps)


def cosine_betas(steps: int) -> np.ndarray:
    """Betas whose alpha_bar falls as a squared cosine, at most 0.999 (2102.09672, equation 17)."""
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}
# Below this alpha_bar x0 = (x - s eps) / a is nothing but the error of eps, magnified. The linear schedule ends at 4e-5
# and can still be read there; the last four of the cosine schedule's 1000 steps lie below, down to 2e-9.
FAINT = 3e-5


@dataclass(frozen=True, eq=False)
class Diffusion(Process):
    """A diffusion process and what the network predicts in it. Raises ValueError on one that cannot be.

    a is sqrt(alpha_bar) and s is sqrt(1 - alpha_bar). `timesteps[i]` is what the network is told at step i: i itself,
    or, in a process shortened by `respaced`, the step of the full one.
    """

    betas: np.ndarray
    timesteps: np.ndarray
    prediction: str = "eps"

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"there is no prediction {quoted(self.prediction)}; there are {', '.join(PREDICTIONS)}")
        if len(self.betas) != len(self.timesteps) or not np.all((self.betas > 0) & (self.betas < 1)):
            raise ValueError("betas must lie between 0 and 1, one a timestep (a linear schedule's from 21 steps on)")

    @classmethod
    def named(cls, schedule: str = "linear", prediction: str = "eps", steps: int = 1000) -> "Diffusion":
        """The full process of a named schedule; the paper's is linear with eps over 1000 steps."""
        if schedule not in SCHEDULES:
            raise ValueError(f"there is no schedule {quoted(schedule)}; there are {', '.join(SCHEDULES)}")
        check_steps(steps)
        return cls(SCHEDULES[schedule](steps), np.arange(steps), prediction)

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """The part of the signal's power that is left after each step, `steps` long."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def alpha_bar_previous(self) -> np.ndarray:
        """alpha_bar one step earlier, 1 before the first."""
        return np.append(1.0, self.alpha_bar[:-1])

    @cached_property
    def log_posterior_variance(self) -> np.ndarray:
        """log of the variance of q(x_{t-1} | x_t, x_0); the first is zero (x0 is known), so it borrows the second's."""
        variance = self.betas * (1 - self.alpha_bar_previous) / (1 - self.alpha_bar)
        return np.log(np.append(variance[1], variance[1:]) if len(variance) > 1 else self.betas)

    def respaced(self, steps: int, first: bool = True) -> "Diffusion":
        """The same process in fewer steps: evenly spaced timesteps, betas recomputed from alpha_bar there.

        Without the `first` timestep the last step goes to the clean picture from further out.
        """
        check_steps(steps, len(self.betas) - (not first))
        kept = spaced(len(self.betas), steps + (not first))[not first :]
        alpha_bar = self.alpha_bar[kept]
        betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
        return Diffusion(betas, self.timesteps[kept], self.prediction)

    def readable(self) -> "Diffusion":
        """The process less its last steps where it predicts eps and alpha_bar is next to nothing (`FAINT`)."""
        kept = max(1, int(np.sum(self.alpha_bar >= FAINT)))
        if self.prediction != "eps" or kept == len(self.betas):
            return self
        return replace(self, betas=self.betas[:kept], timesteps=self.timesteps[:kept])

    def times(self, count: int, random: torch.Generator, spread: str = "uniform"):
        """The steps that a batch is trained at: `-> i: b`, all equally likely. Raises ValueError on another spread."""
        if spread != "uniform":
            raise ValueError(f"times {spread} are for flow matching (schedule flow); a diffusion's are uniform")
        return torch.randint(len(self.betas), (count,), generator=random)

    def posterior_mean(self, x0, x, i):
        """The mean of q(x_{t-1} | x_t, x_0): `x0, x: b c h w, i: b -> b c h w` (2006.11239, equation 7)."""
        alpha_bar, previous = self.alpha_bar, self.alpha_bar_previous
        of_x0 = self.betas * np.sqrt(previous) / (1 - alpha_bar)
        of_x = (1 - previous) * np.sqrt(1 - self.betas) / (1 - alpha_bar)
        return at(of_x0, i, x) * x0 + at(of_x, i, x) * x

    def posterior_log_variance(self, i, like):
        """The log-variance of q(x_{t-1} | x_t, x_0): `i: b -> b 1 1 1`."""
        return at(self.log_posterior_variance, i, like)

    def log_variance(self, v, i, like):
        """log sigma^2 from `v: b c h w` in [-1, 1], between posterior variance and beta (2102.09672, equation 15).

        Without learned variance (`v` is None) it is log beta, the first entry the posterior's: `b 1 1 1`.
        """
        low = self.posterior_log_variance(i, like)
        if v is None:
            return at(np.append(self.log_posterior_variance[:1], np.log(self.betas[1:])), i, like)
        high = at(np.log(self.betas), i, like)
        share = (v + 1) / 2
        return share * high + (1 - share) * low

    def bound(self, x0, x, i, output, v):
        """One term of the variational bound in bits per dimension: `x0, x, output, v: b c h w, i: b -> b`.

        The KL between the true and the predicted step, and at the first step the likelihood of 8-bit pixels.
        """
        mean = self.posterior_mean(self.denoised(output, x, i)[0], x, i)
        log_variance = self.log_variance(v, i, x)
        kl = gaussian_kl(self.posterior_mean(x0, x, i), self.posterior_log_variance(i, x), mean, log_variance)
        nll = discretised_nll(x0, mean, log_variance / 2)
        return torch.where(i == 0, flat_mean(nll), flat_mean(kl)) / math.log(2)

    def model_time(self, i):
        return torch.as_tensor(self.timesteps).to(i.device, non_blocking=True)[i]

    def signal_and_noise(self, i, like):
        return at(np.sqrt(self.alpha_bar), i, like), at(np.sqrt(1 - self.alpha_bar), i, like)

    def levels(self, i):
        alpha_bar = 1.0 if i < 0 else self.alpha_bar[i]
        return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


def spaced(total: int, steps: int) -> np.ndarray:
    """`steps` of `total` timesteps, first and last among them, as the original spaces them (a lone one: the last).

    Raises ValueError unless `steps` is a whole number from 1 to `total`.
    """
    check_steps(steps, total)
    if steps == 1:
        return np.array([total - 1])
    # Added up rather than multiplied: the original's rounding errors decide which way a half goes.
    strides = np.full(steps - 1, (total - 1) / (steps - 1))
    return np.append(0.0, np.cumsum(strides)).round().astype(int)


def gaussian_kl(mean1, log_variance1, mean2, log_variance2):
    """KL(N1 || N2) in nats, elementwise, any shapes that broadcast."""
    ratio = torch.exp(log_variance1 - log_variance2)
    distance = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (log_variance2 - log_variance1 + ratio + distance - 1)


def discretised_nll(x0, mean, log_scale):
    """-log probability in nats of 8-bit values on [-1, 1] under a Gaussian, elementwise, the end bins open."""
    scale, half_bin = torch.exp(-log_scale), 1 / 255
    low = torch.where(x0 < -0.999, -math.inf, scale * (x0 - mean - half_bin))
    high = torch.where(x0 > 0.999, math.inf, scale * (x0 - mean + half_bin))
    # The right half is mirrored to the left, where erfc keeps its digits; to the right it would round to 2.
    right = x0 > mean
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    mass = (torch.erfc(-high / math.sqrt(2)) - torch.erfc(-low / math.sqrt(2))) / 2
    return -torch.log(mass.clamp(min=1e-12))


def at(values: np.ndarray, i, like):
    """Pick per-step constants for a batch: `values: steps, i: b -> b 1 1 1`, in the dtype of `like`, on its device."""
    # Cast before it travels: not every device has float64. What travels there is staged, so nobody need wait for it.
    return rearrange(torch.as_tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)[i], "b -> b 1 1 1")
