"""Tokens of the residual stream, all stages of a model from one forward: their norms, which are alike, their colours.

The same numbers as `inside.token_norms`, `massive`, `token_similarity` and `fit_colours` give stage by stage.
"""

import math
from collections.abc import Callable, Generator
from functools import partial

import torch
from einops import rearrange

from dit_lab.inside import Colours, token_under
from dit_lab.inside.colours import Moments
from dit_lab.inside.looks import feature_spot, passing
from dit_lab.inside.plots.base import spread
from dit_lab.inside.run import LIMIT, at_least_fp32, check_bytes
from dit_lab.inside.tokens import cosines_with, largest, norms_of
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import atlas, pack
from dit_lab.panels.panel import Progress

TOP = 5  # largest features that are named
MOST_STEPS = 50  # of a run that are coloured, evenly over it


def looked(opened: Opened, read: list[Callable], step: int, sample: int, half: str) -> list[list]:
    """What each stage's `read(x: b n d)` makes of its blocks' image tokens at a step: a list of blocks a stage."""
    run, stages = opened.trajectory, opened.config.stage_blocks.values()
    spots = [
        feature_spot(run, opened.model, block, of_stage)
        for of_stage, blocks in zip(read, stages, strict=True)
        for block in blocks
    ]
    (made,) = passing(run, opened.model, spots, [step], [sample], half)
    return [made[blocks.start : blocks.stop] for blocks in stages]


def norms(opened: Opened, step: int, sample: int, half: str) -> dict:
    """The norm of every token, `block n` a stage, and the largest features of each block: `[feature, token, times]`."""
    top = [min(TOP, shape.dim) for shape in opened.config.stages]
    found = looked(opened, [partial(measured, top=each) for each in top], step, sample, half)
    stages = []
    for blocks in found:
        sizes, massive = zip(*blocks, strict=True)
        check_finite(torch.cat(sizes))
        stages.append({"norms": pack(torch.cat(sizes)), "massive": list(massive)})
    return {"stages": stages}


def measured(x: torch.Tensor, top: int) -> tuple[torch.Tensor, list]:
    """A block's norms and its largest features, the largest first: `x: 1 n d -> 1 n, [[feature, token, times], ...]`.

    Times is how many times the median magnitude of all features and tokens; None where that is 0.
    """
    feature, token, times = (each.tolist() for each in largest(x, top))
    listed = [[f, t, k if math.isfinite(k) else None] for f, t, k in zip(feature, token, times, strict=True)]
    return norms_of(x).cpu().float(), listed


def likeness(opened: Opened, step: int, sample: int, half: str, patch: int) -> dict:
    """The cosine of a patch's features with those of every token, `block n` a stage; on coarse grids of its token."""
    run, shapes = opened.trajectory, opened.config.stages
    grids = [run.grid_of(blocks.start) for blocks in opened.config.stage_blocks.values()]
    tokens = [
        token_under(patch, run.grid, shapes[0].patch, grid, shape.patch)
        for grid, shape in zip(grids, shapes, strict=True)
    ]
    found = looked(opened, [partial(cosines_with, patch=token) for token in tokens], step, sample, half)
    stages = []
    for token, blocks in zip(tokens, found, strict=True):
        cosines = torch.cat(blocks).cpu().float()
        check_finite(cosines)
        stages.append({"token": token, "likeness": pack(cosines)})
    return {"stages": stages}


def check_finite(values: torch.Tensor) -> None:
    """Raise ValueError where a model's features are not numbers."""
    if not values.isfinite().all():
        raise ValueError("The features of this model hold NaN or Inf, so there is nothing to see in them.")


def colouring(opened: Opened, sample: int, half: str) -> Generator[Progress, None, dict]:
    """The tokens after every block in three colours that mean the same at all steps: an atlas a stage, step by step.

    A stage has one fit over all the `steps` that are drawn; `explained` are its colours' shares of the variance. Costs
    two forwards a step, the first to fit.
    """
    run = opened.trajectory
    steps, stages = spread(len(run.t), MOST_STEPS), opened.config.stage_blocks.values()
    total, moments = 2 * len(steps), moments_of(opened, len(steps))
    for done, step in enumerate(steps):
        yield Progress(done, total, f"Fitting the colours, step {step + 1} of {len(run.t)}")
        looked(opened, [each.add for each in moments], step, sample, half)
        for each in moments:
            each.end_step()
    fitted = [each.colours() for each in moments]
    for colours in fitted:
        check_finite(colours.explained)
    paint = [
        partial(painted, colours=colours, grid=run.grid_of(blocks.start))
        for colours, blocks in zip(fitted, stages, strict=True)
    ]
    pictures = []
    for done, step in enumerate(steps):
        yield Progress(len(steps) + done, total, f"Colouring step {step + 1} of {len(run.t)}")
        pictures.append([torch.cat(blocks) for blocks in looked(opened, paint, step, sample, half)])
    return {
        "steps": steps,
        "stages": [
            {"atlas": atlas(torch.cat(drawn)), "explained": colours.explained.tolist()}
            for drawn, colours in zip(zip(*pictures, strict=True), fitted, strict=True)
        ],
    }  # fmt: skip


def moments_of(opened: Opened, steps: int) -> list[Moments]:
    """What each stage's fit is made from. Raises TraceError where they would take too much memory."""
    run, made = opened.trajectory, []
    for shape, blocks in zip(opened.config.stages, opened.config.stage_blocks.values(), strict=True):
        check_bytes("fitting colours would take", 40 * shape.dim**2, LIMIT, "look at a narrower model")
        like = at_least_fp32(next(opened.model.parameters())[:0])
        made.append(Moments(shape.dim, steps * len(blocks), math.prod(run.grid_of(blocks.start)), like))
    return made


def painted(x: torch.Tensor, colours: Colours, grid: tuple[int, int]) -> torch.Tensor:
    """A block's tokens as a picture: `x: 1 n d -> 1 3 h w` in [-1, 1]."""
    return rearrange(colours.of(x, grid), "1 h w colour -> 1 colour h w").float() * 2 - 1
