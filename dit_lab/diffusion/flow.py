"""Flow matching: straight lines from picture to noise, x_t = (1 - t) x0 + t eps, and the velocity eps - x0 along them.

Lipman et al. 2022 (arXiv 2210.02747) and Liu et al. 2022 (arXiv 2209.03003); on DiT's own network it is SiT's linear
path (arXiv 2401.08740, section 3.2), which `SiT` walks as SiT's own checkpoints expect it. There is no variance to
learn; sampling solves the ODE dx/dt = velocity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange

from dit_lab.diffusion.process import Process
from dit_lab.diffusion.whole import check_steps
from dit_lab.program import quoted


@dataclass(frozen=True)
class Flow(Process):
    """The straight path in `steps` even steps: step i lies at t = (i + 1) / steps. Raises ValueError on others.

    In training i need not be whole, since every t counts. The network is told 1000 t, so that its timestep embedding
    sees the range that a diffusion's does. Uneven steps (`picked`) lie where the network is `told` that they do.
    """

    predicted: ClassVar[tuple[str, ...]] = ("velocity", "x0")  # what can be read at t = 1 too, where no picture is left

    steps: int = 1000
    prediction: str = "velocity"
    told: tuple[float, ...] | None = None

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

    def picked(self, timesteps: Sequence[float]) -> "Flow":
        """The same path in steps of one's own: what the network is told at each, noisiest first.

        Raises ValueError on others than lie on the path, on the picture itself, and out of order.
        """
        told = tuple(reversed(timesteps))
        numbers = all(isinstance(each, Real) and not isinstance(each, bool) for each in told)
        places = [0.0, *map(self.place, told)] if numbers else []
        if not told or not numbers or any(not low < high <= 1 for low, high in pairwise(places)):
            path = replace(self, steps=1, told=None)
            ends = f"from {path.model_time(0):g}, noise, towards {path.model_time(-1):g}, the picture"
            asked = f"a number, or timesteps in order, {ends}, which is none of them"
            raise ValueError(f"steps must be {asked}, not {quoted(timesteps)}")
        return replace(self, steps=len(told), told=tuple(map(float, told)))

    def place(self, told: float) -> float:
        """The t at which the network is told a timestep, the inverse of `model_time`."""
        return told / 1000

    @cached_property
    def places(self) -> list[float]:
        """The t of uneven steps, and last the picture's."""
        return [*map(self.place, self.told), 0.0]

    def t(self, i):
        """Where step i lies, from 0, the picture, to 1, noise: `i` a number, an array or a tensor."""
        return (i + 1) / self.steps if self.told is None else listed(self.places, i)

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
        t = rearrange(self.t(i.to(like)), "b -> b 1 1 1")
        return 1 - t, t

    def levels(self, i):
        t = self.t(i)
        return 1 - t, t

    def model_time(self, i):
        return 1000 * (i + 1) / self.steps if self.told is None else listed(self.told, i)


@dataclass(frozen=True)
class SiT(Flow):
    """The same path as SiT's checkpoints know it: the network is told s = 1 - t as it is, from 0, noise, to 1, picture.

    It predicts dx/ds, picture minus noise, the velocity seen from the other end (2401.08740, section 2).
    """

    predicted = ("sit_velocity",)

    prediction: str = "sit_velocity"

    def place(self, told):
        return 1 - told

    def model_time(self, i):
        return 1 - (i + 1) / self.steps if self.told is None else listed(self.told, i)


def listed(values: Sequence[float], i):
    """The values at places `i`, a number, an array or a tensor, -1 the last of them; a tensor's in its own dtype."""
    if not isinstance(i, torch.Tensor):
        return np.array(values)[i] if isinstance(i, np.ndarray) else values[i]
    dtype = i.dtype if i.is_floating_point() else torch.float32
    return torch.tensor(values, dtype=dtype).to(i.device, non_blocking=True)[i.long()]
