"""What all sights share: the models that ship, opened and run once each, and the numbers that several of them tell."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange, reduce

from dit_lab.checkpoints import load
from dit_lab.data import Images
from dit_lab.inside import Trajectory, record
from dit_lab.inside.causal import rms
from dit_lab.models import build

GUIDANCE = 2.0
LATE = 0.6  # of a run


class Sight(NamedTuple):
    """A picture of the gallery: the plot function with what it `draw`s, of which `model` and step, and two sentences.

    `seen` is what is there, `control` the same where it should not be; `alt` is for who cannot see the picture.
    """

    title: str
    model: str
    draw: partial
    alt: str
    seen: str
    control: str


class Zoo:
    """The shipped models, as they are and untrained, and runs of them with one seed, each made once.

    `train` and `test` are the real pictures that the MNIST models have learnt from, and have not.
    """

    def __init__(self, train: Images, test: Images, steps: int = 50, seed: int = 5):
        self.train, self.test, self.steps, self.seed = train, test, steps, seed
        self.made = {}

    def once(self, key: tuple, make: Callable):
        """What was made under this key, made the first time."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def model(self, name: str):
        """A model of the zoo by name."""
        return self.once((name,), lambda: load(name).model)

    def untrained(self, name: str):
        """The same model before its training."""
        torch.manual_seed(self.seed)
        return build(self.model(name).config).eval()

    def run(self, name: str, *labels: int) -> Trajectory:
        """A recorded run of a model, a sample a label; equal numbers of labels begin with equal noise."""
        options = dict(steps=self.steps, cfg_scale=GUIDANCE, seed=self.seed)
        return self.once((name, *labels), lambda: record(self.model(name), labels, **options))

    def at(self, share: float) -> int:
        """The step at which so much of a run is done; the first is 0."""
        return min(round(share * self.steps), self.steps - 1)

    def some(self, count: int = 5) -> list[int]:
        """Steps that are evenly spread, the first and the last among them."""
        return torch.linspace(0, self.steps - 1, min(count, self.steps)).round().int().tolist()


def said_step(run: Trajectory, step: int) -> str:
    """`step 30 (t = 387)`."""
    return f"step {step} (t = {run.t[step]:g})"


def alike(first: torch.Tensor, second: torch.Tensor) -> float:
    """The correlation of two pictures, from -1 to 1."""
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()


def moved(first: torch.Tensor, second: torch.Tensor) -> float:
    """How far two pictures are from each other, root mean square."""
    return rms(first - second).item()


def settled(frames: torch.Tensor, picture: torch.Tensor, least: float = 0.9) -> int:
    """The first step from which on all `frames: step c h w` have at least this correlation with a picture."""
    below = [step for step, frame in enumerate(frames) if alike(frame, picture) < least]
    return min(max(below, default=-1) + 1, len(frames) - 1)


def shuffled(count: int) -> torch.Tensor:
    """The numbers below `count` in an order drawn once."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def brightness(run: Trajectory, sample: int = 0) -> torch.Tensor:
    """How bright each patch of a finished sample is: `-> n`."""
    rows, columns = run.grid
    return reduce(run.sample[sample], "c (h p) (w q) -> (h w)", "mean", h=rows, w=columns)


def brightest(run: Trajectory) -> torch.Tensor:
    """Which patches of a finished sample are its brightest quarter, the stroke: `-> n`."""
    bright = brightness(run)
    return bright > bright.quantile(0.75)


def middle(run: Trajectory) -> int:
    """The patch in the middle."""
    rows, columns = run.grid
    return rows // 2 * columns + columns // 2


def places(run: Trajectory) -> torch.Tensor:
    """Rows and columns of all patches: `-> n 2`."""
    return rearrange(torch.stack(torch.meshgrid(*map(torch.arange, run.grid), indexing="ij")), "two h w -> (h w) two")
