"""The tokens of the residual stream in numbers: their norms, their largest features, and how alike they are.

Tokens are the image's after each block, as `Trajectory.features` has them; the condition's are left out. Features are
reduced as they pass, so that a whole run costs one forward a step and holds only what comes out.
"""

from dataclasses import dataclass
from functools import partial

import torch
from einops import einsum, rearrange

from dit_lab.diffusion.whole import whole
from dit_lab.inside.looks import asked_steps, feature_spot, passing
from dit_lab.inside.run import LIMIT, bytes_of, check_bytes
from dit_lab.inside.trace import TraceError, place
from dit_lab.inside.trajectory import Trajectory
from dit_lab.program import quoted


@dataclass(frozen=True, eq=False)
class Massive:
    """The features of largest magnitude after each block, at each timestep of `t`; tensors are `step block top`.

    `feature` is which of d, `token` the one where it is largest, and `times` how many times the median magnitude of all
    features and tokens there. Massive ones (2402.17762: a thousand times) sit in the same few features throughout.
    """

    t: list[int | float]
    feature: torch.Tensor
    token: torch.Tensor
    times: torch.Tensor


def token_norms(
    trajectory: Trajectory, model, *, sample=0, half="cond", stage=None, steps=None, limit=LIMIT
) -> torch.Tensor:
    """The Euclidean norm over d of every image token after each block: `-> step block n`, in one forward a step.

    A token whose norm stands out is a register (2309.16588). `steps` are step numbers, all by default. Of a model with
    several stages, in the blocks of one. Raises TraceError when the norms would take more than `limit` bytes.
    """
    trajectory.check_model(model)
    blocks, asked = trajectory.blocks_of(stage), asked_steps(trajectory, steps)
    size = bytes_of(model) * len(asked) * len(blocks) * trajectory.tokens_of(blocks[0])
    check_bytes("the norms of all tokens would take", size, limit, "ask for fewer steps, or with a higher limit")
    spots = [feature_spot(trajectory, model, block, norms_of) for block in blocks]
    made = [torch.cat(of_blocks).cpu() for of_blocks in passing(trajectory, model, spots, asked, [sample], half)]
    return torch.stack(made)


def norms_of(x: torch.Tensor) -> torch.Tensor:
    """`x: b n d -> b n`."""
    return torch.linalg.vector_norm(x, dim=-1)


def massive(
    trajectory: Trajectory, model, *, top=5, stage=None, sample=0, half="cond", steps=None, limit=LIMIT
) -> Massive:
    """The `top` largest features after each block over a run, the largest first, in one forward a step.

    Features and tokens are numbered within the stage; of a model with several stages, in the blocks of one. Raises
    TraceError unless `top` is from 1 to d, and when the result would take more than `limit` bytes.
    """
    trajectory.check_model(model)
    blocks, asked = trajectory.blocks_of(stage), asked_steps(trajectory, steps)
    width = trajectory.config.stage_of(blocks[0]).dim
    if not whole(top) or not 1 <= top <= width:
        raise TraceError(f"top must be a whole number from 1 to {width}, the features of a token, not {quoted(top)}")
    size = (bytes_of(model) + 16) * len(asked) * len(blocks) * top
    check_bytes("the largest features of all blocks would take", size, limit, "ask for fewer, or with a higher limit")
    spots = [feature_spot(trajectory, model, block, partial(largest, top=top)) for block in blocks]
    made = [
        [torch.stack(each).cpu() for each in zip(*of_blocks, strict=True)]
        for of_blocks in passing(trajectory, model, spots, asked, [sample], half)
    ]
    feature, token, times = (torch.stack(each) for each in zip(*made, strict=True))
    return Massive([trajectory.t[step] for step in asked], feature, token, times)


def largest(x: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A block's largest features: `x: 1 n d -> feature: top, token: top, times: top`."""
    size = rearrange(x.abs(), "1 n d -> n d")
    highest, token = size.max(dim=0)
    values, feature = highest.topk(top)
    return feature, token[feature], values / size.median()


def token_similarity(trajectory: Trajectory, model, step, patch, *, stage=None, sample=0, half="cond") -> torch.Tensor:
    """How alike a patch's features are to those of every image token, their cosine after each block: `-> block n`.

    `patch` is a token of the stage's grid. What all tokens have in common counts: late in a network every cosine can be
    high, and the differences between them are what to read. Raises TraceError on a step, patch or stage that is not
    there.
    """
    trajectory.check_model(model)
    blocks = trajectory.blocks_of(stage)
    rows, columns = trajectory.grid_of(blocks[0])
    patch, step = place("patch", patch, rows * columns), place("step", step, len(trajectory.t))
    spots = [feature_spot(trajectory, model, block, partial(cosines_with, patch=patch)) for block in blocks]
    (made,) = passing(trajectory, model, spots, [step], [sample], half)
    return torch.cat(made).cpu()


def cosines_with(x: torch.Tensor, patch: int) -> torch.Tensor:
    """The cosines between one token and all: `x: b n d -> b n`."""
    norms = norms_of(x).clamp(min=1e-12)
    products = einsum(x, x[:, patch], "b n d, b d -> b n")
    return products / (norms * norms[:, patch : patch + 1])
