"""A process of one's own, of no more than `Process` declares: every sampler walks it, and a network learns in it."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from einops import rearrange
from shared import random_model

from dit_lab.diffusion import Process, generate, karras, sample, samplers_for

COUNT = 200


@dataclass(frozen=True, eq=False)
class Arc(Process):
    """A quarter circle from picture to noise, a = cos, s = sin, its angles even."""

    timesteps: np.ndarray
    prediction: str = "v"

    def angle(self, i):
        return (self.timesteps[i] + 1) / COUNT * 1.5 if i >= 0 else 0.0

    def signal_and_noise(self, i, like):
        levels = torch.tensor([self.levels(number) for number in i.tolist()], dtype=like.dtype)
        return tuple(rearrange(each, "b -> b 1 1 1") for each in levels.unbind(1))

    def levels(self, i):
        return math.cos(self.angle(i)), math.sin(self.angle(i))

    def model_time(self, i):
        return torch.as_tensor(self.timesteps)[i]

    def respaced(self, steps, first=True):
        kept = np.linspace(0, len(self.timesteps) - 1, steps + (not first)).round().astype(int)[not first :]
        return replace(self, timesteps=self.timesteps[kept])

    def times(self, count, random, spread="uniform"):
        return torch.randint(len(self.timesteps), (count,), generator=random)


ARC = Arc(np.arange(COUNT))


def test_it_takes_no_more_than_is_declared():
    own = {name for name in vars(Arc) if not name.startswith("_")} - {"angle"}
    assert own and own <= {*vars(Process), *Process.__annotations__}


@pytest.mark.parametrize("name", samplers_for(ARC))
def test_it_is_walked_by_every_sampler_to_the_picture_that_an_ideal_network_knows(name):
    picture = torch.linspace(-1, 1, 3 * 8 * 12).reshape(1, 3, 8, 12)

    class Knowing(torch.nn.Module):
        """A network that knows the one picture there is: v = a eps - s x0 of it."""

        config = random_model(prediction="v", learned_variance=False).config

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t, y):
            a, s = ARC.signal_and_noise(t, x)
            return a * (x - a * picture) / s - s * picture

    *_, last = sample(Knowing(), [1], sampler=name, steps=8, process=ARC)
    torch.testing.assert_close(last.previous, picture, rtol=1e-3, atol=1e-3)
    assert last.log_variance is None and "ddpm" not in samplers_for(ARC)


def test_a_network_learns_in_it_and_its_steps_are_spaced_as_karras_does():
    model = random_model(prediction="v", learned_variance=False)
    random = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(4, 3, 8, 12, generator=random) for _ in range(2))
    losses = ARC.losses(model, x0, ARC.times(4, random), torch.tensor([1, 2, 0, 1]), eps)
    assert losses.loss.shape == (4,) and losses.loss.isfinite().all() and not losses.vb.any()
    assert len(karras(ARC, 5)) == 5
    with pytest.raises(ValueError, match="steps of a process of one's own are even"):
        generate(model, [1], steps=[100, 50], process=ARC)
