"""The batch of a training step, and all that is random in it, from the seed and the step's number alone.

So a resumed run repeats its steps, and any number of processes together train on the same: each draws the whole
batch's noise, which is cheap, and takes its part of it; pictures are read for that part only.
"""

from functools import lru_cache

import numpy as np
import torch

from dit_lab.diffusion import Process
from dit_lab.training.options import TrainOptions

ALL = slice(None)


def draw(images, step: int, process: Process, options: TrainOptions, part: slice = ALL):
    """A part of a step's batch and its randomness: `-> x0: b c h w, i: b, y: b, eps: b c h w`.

    A dropped label is the number of classes, the null label.
    """
    count, (c, h, w) = options.batch_size, images.shape
    seed = np.random.SeedSequence([options.seed, step]).generate_state(1, np.uint64)[0]
    random = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
    eps = torch.randn(count, c, h, w, generator=random)
    i = process.times(count, random, options.times)
    dropped = torch.rand(count, generator=random) < options.label_dropout
    mirrored = torch.rand(count, generator=random) < (0.5 if options.mirror else 0)
    fresh = torch.randn(count, c, h, w, generator=random)  # where in its distribution a latent is taken
    places = order(len(images), options.seed, step * count, count)
    x0, y = images.batch(places[part], mirrored[part], fresh[part])
    return x0, i[part], torch.where(dropped[part], len(images.names), y), eps[part]


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
    stream = np.concatenate([shuffled(total, seed, epoch) for epoch in epochs])
    return stream[start - epochs[0] * total :][:count]


@lru_cache(maxsize=2)
def shuffled(total: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch's order of `total` images."""
    return np.random.default_rng([seed, epoch]).permutation(total)
