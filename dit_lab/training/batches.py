"""The batch of a training step, and all that is random in it, from the seed and the step's number alone.

So a resumed run repeats its steps, and any number of processes together train on the same: each draws the whole
batch's noise, which is cheap, and takes its part of it; pictures are read for that part only.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from dit_lab.diffusion import Process
from dit_lab.training.options import TrainOptions

ALL = slice(None)


class Chance(NamedTuple):
    """What is random in a batch, of all its pictures: noise, step, dropped label, flip, and place in its distribution.

    The last is None where pictures are pixels, which have none.
    """

    eps: torch.Tensor
    i: torch.Tensor
    dropped: torch.Tensor
    mirrored: torch.Tensor
    fresh: torch.Tensor | None


def draw(images, step: int, process: Process, options: TrainOptions, part: slice = ALL):
    """A part of a step's batch and its randomness: `-> x0: b c h w, i: b, y: b, eps: b c h w`.

    A dropped label is the number of classes, the null label.
    """
    return draw_all(images, step, process, options, [part])[0]


def draw_all(images, step: int, process: Process, options: TrainOptions, share: list[slice]) -> list[tuple]:
    """The parts in `share` of a step's batch, each as `draw` gives it; what is random is drawn once."""
    chance = draw_chance(images, step, process, options)
    places = order(len(images), options.seed, step * options.batch_size, options.batch_size)
    return [taken(images, places, chance, part) for part in share]


def draw_chance(images, step: int, process: Process, options: TrainOptions) -> Chance:
    """What is random in a step's batch, from the seed and the step's number."""
    count, (c, h, w) = options.batch_size, images.shape
    seed = np.random.SeedSequence([options.seed, step]).generate_state(1, np.uint64)[0]
    random = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
    eps = torch.randn(count, c, h, w, generator=random)
    i = process.times(count, random, options.times)
    dropped = torch.rand(count, generator=random) < options.label_dropout
    mirrored = torch.rand(count, generator=random) < (0.5 if options.mirror else 0)
    # Drawn last, so that leaving it out changes nothing else.
    fresh = None if images.codec == "pixels" else torch.randn(count, c, h, w, generator=random)
    return Chance(eps, i, dropped, mirrored, fresh)


def taken(images, places: np.ndarray, chance: Chance, part: slice) -> tuple:
    """A part of a batch, whose pictures are at `places`: `-> x0: b c h w, i: b, y: b, eps: b c h w`."""
    eps, i, dropped, mirrored, fresh = (None if values is None else values[part] for values in chance)
    x0, y = images.batch(places[part], mirrored, fresh)
    return x0, i, torch.where(dropped, len(images.names), y), eps


def parts(options: TrainOptions, rank: int, processes: int) -> list[slice]:
    """Which parts of every batch a process takes, one after the other. Raises ValueError where they are not even."""
    passes = processes * options.accumulate
    if options.batch_size % passes:
        raise ValueError(
            f"batch_size {options.batch_size} cannot be shared by {processes} processes in {options.accumulate} passes "
            f"each; give a multiple of {passes}"
        )
    count = options.batch_size // passes
    return [
        slice(k * count, (k + 1) * count) for k in range(rank * options.accumulate, (rank + 1) * options.accumulate)
    ]


def order(total: int, seed: int, start: int, count: int) -> np.ndarray:
    """Places `start` to `start + count` of an endless stream of shuffled epochs over `total` images."""
    epochs = range(start // total, (start + count - 1) // total + 1)
    begins = [(epoch, start - epoch * total) for epoch in epochs]
    return np.concatenate([shuffled(total, seed, epoch)[max(0, at) : at + count] for epoch, at in begins])


@lru_cache(maxsize=2)
def shuffled(total: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch's order of `total` images."""
    return np.random.default_rng([seed, epoch]).permutation(total)
