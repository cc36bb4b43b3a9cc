"""What an exercise is: data. A right answer, inputs to try it on, the mistakes that people make, and hints."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

NOTEBOOKS = {
    0: "tour", 1: "noise", 2: "patches", 3: "attention", 4: "conditioning", 5: "training", 6: "sampling", 7: "latents",
    8: "scaling", 9: "U-DiT", 10: "inside", 11: "full size", 12: "next",
}  # fmt: skip
FLOATS = (torch.float32, torch.float64)


class Draw:
    """The random inputs of one probe, the same at every check: drawn in float64, given in the probe's `dtype`."""

    def __init__(self, seed: int, dtype: torch.dtype):
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
        """Normal numbers around `shift`."""
        numbers = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return (shift + scale * numbers).to(self.dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Numbers evenly spread between `low` and `high`."""
        numbers = torch.rand(*shape, generator=self.generator, dtype=torch.float64)
        return (low + (high - low) * numbers).to(self.dtype)

    def attention(self, *shape: int) -> torch.Tensor:
        """Attention weights, `-> ... i j`: rows sum to 1, and about a third of the weights are exactly 0."""
        scores = 1.5 * torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        cut = torch.rand(*shape, generator=self.generator, dtype=torch.float64) < 1 / 3
        cut[..., 0] = False  # each row keeps a key
        return scores.masked_fill(cut, -torch.inf).softmax(-1).to(self.dtype)

    def covariance(self, d: int) -> torch.Tensor:
        """A covariance matrix, `-> d d`, of features that hang together."""
        root = torch.randn(d, d, generator=self.generator, dtype=torch.float64)
        return (root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)).to(self.dtype)


class Mistake(NamedTuple):
    """A wrong function as people write it, and what it is told: what is wrong, and why that matters in a DiT."""

    made: Callable
    told: str


class Probe(NamedTuple):
    """One set of arguments to try an answer on; `dtype` is that of its numbers."""

    arguments: tuple[Any, ...]
    dtype: torch.dtype

    def fresh(self) -> tuple[Any, ...]:
        """The arguments anew, so that no answer can spoil them for the next."""
        return tuple(copied(argument) for argument in self.arguments)


@dataclass(frozen=True)
class Exercise:
    """One function for the reader to write, and all that its check knows; its name is the solution's.

    `inputs(draw, *size)` makes the arguments of a probe, one for each of `sizes` and `dtypes`. `known` is printed when
    the answer is right. `loose` is the absolute tolerance where float32 itself leaves more room than the check's own.
    With `learns`, a gradient must come through the answer, for a model is trained with it.
    """

    notebook: int
    solution: Callable
    signature: str
    inputs: Callable
    sizes: tuple[tuple, ...]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    known: str
    dtypes: tuple[torch.dtype, ...] = FLOATS
    loose: float | None = None
    learns: bool = False

    @property
    def name(self) -> str:
        """What it is called in `check`."""
        return self.solution.__name__

    @property
    def parameters(self) -> list[str]:
        """The names of its arguments."""
        return list(inspect.signature(self.solution).parameters)

    def probes(self) -> list[Probe]:
        """All inputs that an answer is tried on, the same at every call."""
        return [
            Probe(self.inputs(Draw(seed, dtype), *size), dtype)
            for dtype in self.dtypes
            for seed, size in enumerate(self.sizes)
        ]


def copied(argument):
    """An argument's copy: tensors, arrays and lists of them."""
    if isinstance(argument, list):
        return [copied(each) for each in argument]
    if isinstance(argument, np.ndarray):
        return argument.copy()
    return argument.clone() if torch.is_tensor(argument) else argument
