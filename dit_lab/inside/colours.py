"""Features as colours that mean the same everywhere: three principal components, fitted once over a whole run.

Components fitted block by block, or step by step, turn at every one. Here all tokens of a run share three axes, and the
range of values that becomes 0 to 1. Each token is first normalised over its features (mean 0, root mean square 1), as
the next layer norm does: that is what the network reads of it, and otherwise the last blocks, whose tokens are many
times longer, would have all the colours. What it leaves out, the norm, `token_norms` shows.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce

from dit_lab.inside.looks import asked_steps, feature_spot, passing
from dit_lab.inside.run import LIMIT, at_least_fp32, bytes_of, check_bytes
from dit_lab.inside.trace import TraceError
from dit_lab.inside.trajectory import Trajectory

KEPT = 2**14  # tokens, for the range of the colours: a percentile is then true to 0.1 points
RANGE = 0.01, 0.99
EPS = 1e-6  # of the models' layer norms


@dataclass(frozen=True, eq=False)
class Colours:
    """What turns features into colours: `mean: d`, `axes: 3 d` (red, green, blue), `low: 3` and `high: 3`.

    A colour is 0 at `low` and 1 at `high`, the 1st and 99th percentile of the run. `explained: 3` is each axis's share
    of the variance; the rest is not in the picture.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    explained: torch.Tensor

    def of(self, features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Features as pictures, `... n d -> ... h w 3` from 0 to 1; `grid` is their (rows, columns).

        Raises TraceError on features of another width, or that do not fill the grid.
        """
        rows, columns = grid
        if features.ndim < 2 or tuple(features.shape[-2:]) != (rows * columns, len(self.mean)):
            told = f"{rows * columns} tokens of {len(self.mean)} features"
            raise TraceError(
                f"these colours are of {told} on a grid of {rows} x {columns}, not {tuple(features.shape)}"
            )
        along = einsum(normalised(features).to(self.mean) - self.mean, self.axes, "... d, colour d -> ... colour")
        span = (self.high - self.low).clamp(min=torch.finfo(self.low.dtype).tiny)  # of tokens that are all alike
        return rearrange(((along - self.low) / span).clamp(0, 1), "... (h w) colour -> ... h w colour", h=rows)


class Moments:
    """What the fit needs of tokens that pass: their sum, that of their outer products, and some tokens, drawn evenly.

    Products are made and added in the model's precision within a step, and in fp64 from step to step.
    """

    def __init__(self, width: int, passes: int, tokens: int, like: torch.Tensor):
        self.passes, self.passed, self.count, self.kept = passes, 0, passes * tokens, min(KEPT, passes * tokens)
        self.random = torch.Generator().manual_seed(0)
        self.of_step = like.new_zeros(width + 1, width)
        self.of_run = torch.zeros(width + 1, width, dtype=torch.float64)
        self.some = []

    def add(self, x: torch.Tensor) -> None:
        """Take a block's tokens, `x: b n d`."""
        x = rearrange(normalised(x), "b n d -> (b n) d")
        self.of_step[0] += reduce(x, "n d -> d", "sum")
        self.of_step[1:].addmm_(x.T, x)
        upto = lambda passed: passed * self.kept // self.passes
        picked = torch.randperm(len(x), generator=self.random)[: upto(self.passed + 1) - upto(self.passed)]
        self.some.append(x[picked.to(x.device)])
        self.passed += 1

    def end_step(self) -> None:
        """Add a step to the run."""
        self.of_run += self.of_step.cpu()
        self.of_step.zero_()

    def colours(self) -> Colours:
        """The three axes of largest variance; the largest loading of each is positive, so that no sign is by chance."""
        mean, products = self.of_run[0] / self.count, self.of_run[1:] / self.count
        covariance = products - einsum(mean, mean, "i, j -> i j")
        values, vectors = torch.linalg.eigh(covariance)  # the smallest first
        axes = rearrange(vectors[:, -3:].flip(1), "d colour -> colour d")
        axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
        some = torch.cat(self.some).cpu().double()
        low, high = torch.quantile((some - mean) @ axes.T, torch.tensor(RANGE).double(), dim=0)
        explained = values[-3:].flip(0).clamp(min=0) / covariance.trace()
        return Colours(*(each.to(self.of_step.dtype) for each in (mean, axes, low, high, explained)))


def fit_colours(
    trajectory: Trajectory, model, *, stage=None, sample=0, half="cond", steps=None, limit=LIMIT
) -> Colours:
    """Fit the colours of a run to the image tokens after all blocks at all `steps`, in one forward a step.

    `sample` is one, or a list of those that shall share their colours. Of a model with several stages, for the blocks
    of one. Held are some 16000 tokens and matrices of d d. Raises TraceError when they would take more than `limit`
    bytes.
    """
    trajectory.check_model(model)
    blocks, asked, samples = trajectory.blocks_of(stage), asked_steps(trajectory, steps), asked_samples(sample)
    width, tokens = trajectory.config.stage_of(blocks[0]).dim, len(samples) * math.prod(trajectory.grid_of(blocks[0]))
    passes = len(asked) * len(blocks)
    size = bytes_of(model) * min(KEPT, passes * tokens) * width + 40 * width**2  # 40: five matrices in fp64
    check_bytes("fitting colours would take", size, limit, "ask with a higher limit")
    moments = Moments(width, passes, tokens, at_least_fp32(next(model.parameters())[:0]))
    spots = [feature_spot(trajectory, model, block, moments.add) for block in blocks]
    for _ in passing(trajectory, model, spots, asked, samples, half):
        moments.end_step()
    return moments.colours()


def normalised(x: torch.Tensor) -> torch.Tensor:
    """Tokens as a layer norm hands them on: `... d -> ... d`, in fp32 at least."""
    return F.layer_norm(at_least_fp32(x), x.shape[-1:], eps=EPS)


def asked_samples(sample) -> list:
    """One sample, or several, as a list. Raises TraceError on none."""
    samples = list(sample) if isinstance(sample, list | tuple | range) else [sample]
    if not samples:
        raise TraceError("sample must name at least one")
    return samples
