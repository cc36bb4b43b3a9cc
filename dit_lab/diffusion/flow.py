"""Flow matching: straight lines from picture to noise, x_t = (1 - t) x0 + t eps, and the velocity eps - x0 along them.

Lipman et al. 2022 (arXiv 2210.02747) and Liu et al. 2022 (arXiv 2209.03003); on DiT's own network it is SiT's linear
path (arXiv 2401.08740, section 3.2), which `SiT` walks as SiT's own checkpoints expect it. There is no variance to
learn; sampling solves the ODE dx/dt = velocity.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange

from dit_lab.diffusion.process import Process, check_steps
from dit_lab.program import quoted


@dataclass(frozen=True)
class Flow(Process):
    """The straight path in `steps` even steps: step i lies at t = (i + 1) / steps. Raises ValueError on others.

    In training i need not be whole, since every t counts. The network is told 1000 t, so that its timestep embedding
    sees the range that a diffusion's does.
    """

    predicted: ClassVar[tuple[str, ...]] = ("velocity", "x0")  # what can be read at t = 1 too, where no picture is left

    steps: int = 1000
    prediction: str = "velocity"

    def __post_init__(self):
        check_steps(self.steps)
        if self.prediction not in self.predicted:
            raise ValueError(f"flow matching predicts {' or '.join(self.predicted)}, not {quoted(self.prediction)}")

    @classmethod
    def named(cls, schedule: str, prediction: str) -> "Flow":
        """The full process; it has one schedule."""
        return cls(prediction=prediction)

    @property
    def timesteps(self) -> np.ndarray:
        return self.model_time(np.arange(self.steps))

    def respaced(self, steps: int, first: bool = True) -> "Flow":
        """The same path in another number of even steps; the `first` is as far from the picture as any other."""
        return type(self)(steps, self.prediction)

    def times(self, count: int, random: torch.Generator, spread: str = "uniform"):
        """Where a batch is trained: `-> i: b`, uniform in t, or `logit_normal`, t = sigmoid(z) with z standard normal.

        The latter spends training on the middle, where the velocity is hardest (arXiv 2403.03206, section 3.1).
        """
        if spread == "uniform":
            t = 1 - torch.rand(count, generator=random)
        else:
            t = torch.randn(count, generator=random).sigmoid()
        return t * self.steps - 1

    def signal_and_noise(self, i, like):
        t = rearrange((i.to(like) + 1) / self.steps, "b -> b 1 1 1")
        return 1 - t, t

    def levels(self, i):
        t = (i + 1) / self.steps
        return 1 - t, t

    def model_time(self, i):
        return 1000 * (i + 1) / self.steps

    def log_variance(self, v, i, like) -> None:
        """There is none."""


@dataclass(frozen=True)
class SiT(Flow):
    """The same path as SiT's checkpoints know it: the network is told s = 1 - t as it is, from 0, noise, to 1, picture.

    It predicts dx/ds, picture minus noise, the velocity seen from the other end (2401.08740, section 2).
    """

    predicted = ("sit_velocity",)

    prediction: str = "sit_velocity"

    def model_time(self, i):
        return 1 - (i + 1) / self.steps
