"""Attention maps of one step put together: through the depth, from the side of the keys, and against each other.

On grids (U-DiT) everything is computed there and laid out on the picture at the end, as `Seen.attention` lays out maps:
a key that covers several tokens shares its weight evenly among them.
"""

import math
from functools import partial

import torch
from einops import rearrange, reduce, repeat

from dit_lab.inside.looks import (
    COPIES,
    Attending,
    asked_steps,
    attention_spot,
    layout_of,
    map_shape,
    of_keys,
    on_picture,
    passing,
    rows_at_once,
)
from dit_lab.inside.run import LIMIT, at_least_fp32, bytes_of, check_bytes
from dit_lab.inside.trace import TraceError, place
from dit_lab.inside.trajectory import Trajectory
from dit_lab.models.grid_layers import Layout


def rollout(maps: list[torch.Tensor]) -> torch.Tensor:
    """Attention rollout: what of each token reaches each other through all blocks, `maps: list of b head i j -> b i j`.

    Maps come first block first. Heads are averaged, half of each block is its residual stream (the identity), and rows
    are kept at 1 (2005.00928, equation 1). Raises TraceError on no maps, or maps that do not follow on each other.
    """
    shapes = [tuple(each.shape) for each in maps]
    square = all(len(shape) == 4 and shape[2] == shape[3] for shape in shapes)
    if not square or len({(shape[0], shape[2]) for shape in shapes}) != 1:
        told = ", ".join(map(str, dict.fromkeys(shapes))) or "none"
        raise TraceError(f"rollout takes maps of b head i j, all with the same b and i = j, not {told}")
    rolled = torch.eye(shapes[0][3]).to(maps[0])
    for each in maps:
        mean = reduce(each, "b head i j -> b i j", "mean")
        rolled = through(mean @ rolled, rolled)
    return rolled


def through(attended, before):
    """A block's step of rollout, half what it attended to and half what was there: `... i j`, rows kept at 1."""
    both = attended + before
    return both / reduce(both, "... i j -> ... i 1", "sum")


def trajectory_rollout(
    trajectory: Trajectory, model, step, *, stage=None, sample=0, half="cond", limit=LIMIT
) -> torch.Tensor:
    """Rollout of one step, block by block as the forward passes: `-> i j`; no block's map is kept.

    Of a model with several stages, through the blocks of one: between stages tokens are merged and split by layers that
    are no attention, so there rollout says nothing. Raises TraceError when it would take more than `limit` bytes.
    """
    blocks, layout = stage_of(trajectory, model, stage)
    tokens = trajectory.tokens_of(blocks[0])
    check_bytes("rollout over these tokens would take", COPIES * bytes_of(model) * tokens**2, limit)
    rolled = torch.eye(tokens)

    def read(attending, rows):
        nonlocal rolled
        means = [reduce(weights, "g head i j -> g i j", "mean") for weights in attending.weights(rows)]
        means = torch.cat(means, dim=1)
        rolled = rolled.to(means)
        rolled = through(on_picture(means @ of_keys(rolled, layout), layout, layout.queries), rolled)

    one_forward(trajectory, model, step, blocks, read, sample, half, limit)
    return rolled.cpu()


def attended_by(
    trajectory: Trajectory, model, step, patch, *, stage=None, sample=0, half="cond", limit=LIMIT
) -> torch.Tensor:
    """Who attends to a patch, the column of each map: the weight that every token gives it, `-> block head i`.

    `patch` is a token of the stage's grid; where the condition joins the sequence, its tokens count on after the
    image's. Maps are computed a few queries at a time. Raises TraceError on a step, patch or stage that is not there.
    """
    blocks, layout = stage_of(trajectory, model, stage)
    tokens = trajectory.tokens_of(blocks[0])
    one = torch.zeros(tokens, 1)
    one[place("patch", patch, tokens)] = 1
    wanted = of_keys(one, layout)

    def read(attending, rows):
        there = rearrange(wanted, "g j 1 -> g 1 j 1").to(at_least_fp32(attending.q[:0]))
        columns = torch.cat([weights @ there for weights in attending.weights(rows)], dim=2)
        return on_picture(rearrange(columns, "g head i 1 -> g i head"), layout, layout.queries)

    made = one_forward(trajectory, model, step, blocks, read, sample, half, limit)
    return rearrange(made, "block i head -> block head i").cpu()


def received(trajectory: Trajectory, model, step, *, stage=None, sample=0, half="cond", limit=LIMIT) -> torch.Tensor:
    """What attention each token receives, the mean over the image's queries: `-> block head j`; over j it sums to 1.

    A sink (2309.17453) receives many times its even share, 1 / j. Raises TraceError on a step or stage that is not
    there.
    """
    blocks, layout = stage_of(trajectory, model, stage)
    tokens = layout.rows * layout.columns

    def read(attending, rows):
        of_image = attending.weights(rows, tokens // layout.queries**2)
        given = sum(reduce(weights, "g head i j -> g j head", "sum") for weights in of_image)
        if layout.keys != layout.queries:
            given = repeat(given / layout.keys**2, "1 j head -> g j head", g=layout.keys**2)
        return on_picture(given, layout, layout.keys) / tokens

    made = one_forward(trajectory, model, step, blocks, read, sample, half, limit)
    return rearrange(made, "block j head -> block head j").cpu()


def head_similarity(
    trajectory: Trajectory, model, step, *, stage=None, sample=0, half="cond", limit=LIMIT
) -> torch.Tensor:
    """How alike the maps of all heads are at a step, their cosine: `-> (block head) (block head)`, from 0 to 1.

    Weights are never negative, so maps that are alike in nothing but being even are alike. Of a model with several
    stages, in the blocks of one. Raises TraceError when the maps together take more than `limit` bytes.
    """
    blocks, _ = stage_of(trajectory, model, stage)
    maps = room(trajectory, model, blocks[0], (len(blocks), trajectory.config.heads), limit, "with a higher limit")
    left = iter(maps)

    def read(attending, rows):
        next(left)[:] = flat_maps(attending, rows)

    one_forward(trajectory, model, step, blocks, read, sample, half, limit)
    return cosines(rearrange(maps, "block head weights -> (block head) weights"))


def step_similarity(
    trajectory: Trajectory, model, block, head, *, sample=0, half="cond", steps=None, limit=LIMIT
) -> torch.Tensor:
    """How alike one head's maps are at the steps of a run, their cosine: `-> step step`, from 0 to 1.

    `steps` are step numbers, all by default; one forward each. Raises TraceError when their maps together take more
    than `limit` bytes, and on a block, head or step that is not there.
    """
    trajectory.check_model(model)
    block, head = place("block", block, trajectory.config.depth), place("head", head, trajectory.config.heads)
    asked = asked_steps(trajectory, steps)
    maps = room(trajectory, model, block, (len(asked),), limit, "for fewer steps, or with a higher limit")
    rows = rows_at_once(trajectory, model, block, limit)
    spot = attention_spot(model, block, "attn", lambda attending: flat_maps(attending.head(head), rows))
    for one, (flat,) in zip(maps, passing(trajectory, model, [spot], asked, [sample], half), strict=True):
        one[:] = flat[0]
    return cosines(maps)


def stage_of(trajectory: Trajectory, model, stage) -> tuple[range, Layout]:
    """The numbers of a stage's blocks, and how queries and keys lie on its grid. Raises TraceError, naming stages."""
    trajectory.check_model(model)
    blocks = trajectory.blocks_of(stage)
    return blocks, layout_of(trajectory, model, blocks[0])


def one_forward(trajectory: Trajectory, model, step, blocks, read, sample, half, limit) -> list:
    """What `read(attending, rows)` makes of each block's attention at one step, with so many rows of maps at once."""
    step, rows = place("step", step, len(trajectory.t)), rows_at_once(trajectory, model, blocks[0], limit)
    spots = [attention_spot(model, block, "attn", partial(read, rows=rows)) for block in blocks]
    (made,) = passing(trajectory, model, spots, [step], [sample], half)
    return made


def room(trajectory: Trajectory, model, block: int, maps: tuple[int, ...], limit: int, instead: str) -> torch.Tensor:
    """Room for flat maps of a block, `-> *maps (g i j)`. Raises TraceError when it takes more than `limit` bytes."""
    weights = math.prod(map_shape(trajectory, model, block))
    told = f"{math.prod(maps)} attention maps would take"
    check_bytes(told, bytes_of(model) * math.prod(maps) * weights, limit, f"ask {instead}")
    return at_least_fp32(next(model.parameters())[:0]).new_empty(*maps, weights)


def flat_maps(attending: Attending, rows: int) -> torch.Tensor:
    """A block's maps as vectors: `-> head (g i j)`."""
    return rearrange(torch.cat(list(attending.weights(rows)), dim=2), "g head i j -> head (g i j)")


def cosines(x: torch.Tensor) -> torch.Tensor:
    """The cosines between all pairs of vectors, on the CPU: `m n -> m m`."""
    x /= torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (x @ x.T).clamp(max=1).cpu()
