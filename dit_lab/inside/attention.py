"""Attention in numbers: how spread and how far it looks, and what share goes to the condition, over a whole run.

Entropy and mean distance are those of the vision transformer's readers (2010.11929, figure 7; 2108.08810, section 3).
Queries are the image's tokens, also where the condition joins the sequence.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from einops import einsum, rearrange, reduce

from dit_lab.inside.geometry import interleaved
from dit_lab.inside.looks import Attending, asked_steps, attention_spot, layout_of, passing, rows_at_once
from dit_lab.inside.run import LIMIT, at_least_fp32
from dit_lab.inside.trajectory import Trajectory

NO_WEIGHT = -1e4  # below the largest score, where the weight is 0 in any precision


@dataclass(frozen=True, eq=False)
class AttentionNumbers:
    """Attention at each timestep of `t`, the mean over the image's queries; each tensor is `block head step`.

    `entropy` in nats over the keys that there are (at most the log of their number). `distance` on the grid between
    query and key, weighted by attention, in patches of the finest grid (DiT: tokens; U-DiT: input pixels, in all
    stages); the condition's share is left out and the rest counts as 1. `itself`: the share on the query's own token.
    `time` and `label`: the shares on the two condition tokens, 0 where they are not among the keys, and `condition`
    both together. Of cross-attention, whose keys are those two, `distance` and `itself` are NaN.

    A key of U-DiT that stands for several tokens counts once in the entropy, and shares its weight evenly among them in
    `distance` and `itself`. Inside the scope of an edit all are those of what runs; `distance` is NaN in a head where a
    query's edges to all places are cut.
    """

    t: list[int | float]
    entropy: torch.Tensor
    distance: torch.Tensor
    condition: torch.Tensor
    itself: torch.Tensor
    time: torch.Tensor
    label: torch.Tensor


class Places(NamedTuple):
    """Where the queries of a grid and the tokens that its keys cover lie: `queries: i 2, keys: p j 2`.

    `own: i` is the key that covers the query's token. All grids of a layer have the same distances.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    own: torch.Tensor


def attention_numbers(
    trajectory: Trajectory, model, *, sample=0, half="cond", kind="attn", steps=None, limit=LIMIT
) -> AttentionNumbers:
    """Every block and head over a run, in one forward a step; no map is held longer than it takes to read it.

    `steps` are step numbers, all by default; `kind` is "attn", or "cross" in cross-attention models. Maps are computed
    a few queries at a time, in at most `limit` bytes. Raises TraceError when one query's row takes more, and on a
    model, sample, half, kind or step that is not there.
    """
    trajectory.check_model(model)
    asked, spots = asked_steps(trajectory, steps), []
    for blocks in trajectory.config.stage_blocks.values():
        rows = rows_at_once(trajectory, model, blocks[0], limit, kind)
        places = None if kind == "cross" else places_of(trajectory, model, blocks[0])
        spots += [attention_spot(model, block, kind, partial(numbers_of, rows=rows, places=places)) for block in blocks]
    made = [torch.stack(of_blocks).cpu() for of_blocks in passing(trajectory, model, spots, asked, [sample], half)]
    entropy, distance, itself, time, label = rearrange(made, "step block number head -> number block head step")
    return AttentionNumbers(
        [trajectory.t[step] for step in asked], entropy, distance, time + label, itself, time, label
    )


def places_of(trajectory: Trajectory, model, block: int) -> Places:
    """The places of a block's queries and keys, in patches of the finest grid; on the model's device."""
    rows, columns, coarse, keys = layout_of(trajectory, model, block)
    unit = trajectory.config.stage_of(block).patch / trajectory.config.stages[0].patch
    queries = interleaved(rows, columns, coarse)[0]
    covered = rearrange(queries, "i -> 1 i") if keys == coarse else interleaved(rows, columns, keys)
    owner = torch.empty(rows * columns, dtype=torch.long)
    owner[covered] = torch.arange(covered.shape[1])
    like = at_least_fp32(next(model.parameters())[:0])
    at = lambda tokens: (torch.stack([tokens // columns, tokens % columns], dim=-1) * unit).to(like)
    return Places(at(queries), at(covered), owner[queries].to(like.device))


def numbers_of(attending: Attending, rows: int, places: Places | None) -> torch.Tensor:
    """The five numbers of a block, `-> number head`; no `places` where no key has one."""
    queries = attending.q.shape[2] if places is None else len(places.queries)
    sums = [sums_of(scores, start, places) for start, scores in attending.scores(rows, queries)]
    return sum(sums) / (len(attending.q) * queries)


def sums_of(scores, start: int, places: Places | None) -> torch.Tensor:
    """What the queries from `start` on add to the numbers: `scores: b head i j -> number head`."""
    weights, stop = scores.softmax(-1), start + scores.shape[2]
    condition = scores.shape[3] - (0 if places is None else places.keys.shape[1])
    time = label = weights.new_zeros(weights.shape[1])
    if condition:
        time, label = reduce(weights[..., -condition:], "b head i k -> k head", "sum")
    if places is None:
        distance = itself = torch.full_like(time, torch.nan)
    else:
        near = scores[..., :-condition].softmax(-1) if condition else weights
        distance = einsum(near, distances(places, start, stop), "b head i j, i j -> head")
        own = weights[:, :, torch.arange(scores.shape[2], device=scores.device), places.own[start:stop]]
        itself = reduce(own, "b head i -> head", "sum") / len(places.keys)
    return torch.stack([entropies(scores, weights), distance, itself, time, label])


def entropies(scores, weights) -> torch.Tensor:
    """The entropies in nats, summed over b and i: `b head i j -> head`; exact where a weight is 0.

    Below the largest score, -ln of a weight is its distance from there and -ln of the largest weight: no logarithm of a
    map is taken, and no term is negative.
    """
    largest = reduce(weights, "b head i j -> b head i", "max")
    below = (scores - reduce(scores, "b head i j -> b head i 1", "max")).clamp_(min=NO_WEIGHT)
    return -einsum(weights, below, "b head i j, b head i j -> head") - reduce(largest.log(), "b head i -> head", "sum")


def distances(places: Places, start: int, stop: int) -> torch.Tensor:
    """How far some queries are from the keys, the mean over the tokens that a key covers: `-> i j`."""
    exact = "donot_use_mm_for_euclid_dist"  # by a matrix product near places would be inexact
    far = [torch.cdist(places.queries[start:stop], key, compute_mode=exact) for key in places.keys]
    return sum(far) / len(far)
