"""A step's prediction in parts for the browser: what each gave to every patch, and its picture; and all steps.

A part's share of a region is the inner product of what it gave there with the whole, over the whole's square, as in
`inside.attribute`: shares add up to 1. Inner products are sent patch by patch, so that the browser can take any region.
"""

from collections.abc import Generator

import torch
from einops import reduce

from dit_lab.inside import Box, Part
from dit_lab.inside.parts import SAID
from dit_lab.inside.run import region_mask
from dit_lab.panels.asking import whole
from dit_lab.panels.contributions.pictures import drawn
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import pack
from dit_lab.panels.panel import Progress
from dit_lab.program import quoted

WITHIN = {"attn": "head", "cross": "cross-attention head"}


def within(part: Part) -> str:
    """What a part is called within its block: "head 2", "MLP"."""
    return SAID.get(part.kind, part.kind) if part.head is None else f"{WITHIN[part.kind]} {part.head}"


def half_of(run, step: int, half: str) -> str:
    """The half that can be asked of a step: no mix where it was taken without guidance."""
    return "cond" if half == "guided" and run.guidance(step) is None else half


def region_of(run, asked) -> tuple[int, int, int, int] | None:
    """A region as its first row and column and how many of each, in patches; None is the whole picture.

    Raises ValueError.
    """
    if asked is None:
        return None
    if not isinstance(asked, list) or len(asked) != 4:
        raise ValueError(f"A region must be [row, column, rows, columns] of patches, not {quoted(asked, 40)}.")
    rows, columns = run.grid
    row, column = whole("The region's row", asked[0], 0, rows - 1), whole("Its column", asked[1], 0, columns - 1)
    return row, column, whole("Its rows", asked[2], 1, rows - row), whole("Its columns", asked[3], 1, columns - column)


def split(opened: Opened, step: int, sample: int, half: str, of: str) -> Generator[Progress, None, dict]:
    """A step in parts: `given: part n` are their inner products with the whole in each patch, `whole: n` its square.

    `sizes: part` are root mean squares over the picture; `error` how far the sum of all parts is from what the model
    says, relative to that.
    """
    run = opened.trajectory
    yield Progress(0, 1, f"Splitting step {step + 1} into its parts")
    found = run.contributions(opened.model, step, sample=sample, half=half)
    pictures = getattr(found, of)
    total = pictures.sum(0)
    check_finite(total)
    return {
        "half": half, "of": of, "step": step, "error": found.error,
        "given": pack(by_patch(pictures * total, run.grid)), "whole": pack(by_patch(total**2, run.grid)),
        "sizes": pack(reduce(pictures**2, "part c h w -> part", "mean").sqrt().float()),
        **drawn(found.parts, pictures),
    }  # fmt: skip


def by_patch(values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Sums over each patch: `... c h w -> ... n`."""
    rows, columns = grid
    return reduce(values.double(), "... c (h p) (w q) -> ... (h w)", "sum", h=rows, w=columns).float()


def check_finite(values: torch.Tensor) -> None:
    """Raise ValueError where a prediction is not numbers."""
    if not values.isfinite().all():
        raise ValueError("The prediction of this step holds NaN or Inf, so that it cannot be split.")


def by_step(opened: Opened, sample: int, half: str, of: str, region) -> Generator[Progress, None, dict]:
    """Every step in parts: `norms: part step`, how large each is in eps, and `shares: part step` of the region.

    A step that was taken without guidance is split as it was taken, also where "guided" is asked for.
    """
    run, norms, shares = opened.trajectory, [], []
    mask = region_mask(box_of(opened, region), tuple(run.x.shape[-2:]))
    for step in range(len(run.t)):
        yield Progress(step, len(run.t), f"Splitting step {step + 1} of {len(run.t)}")
        found = run.contributions(opened.model, step, sample=sample, half=half_of(run, step, half))
        norms.append(reduce(found.eps**2, "part c h w -> part", "mean").sqrt())
        given = getattr(found, of)[..., mask].double()
        total = given.sum(0)
        check_finite(total)
        shares.append(reduce(given * total, "part c n -> part", "sum") / (total**2).sum())
    stacked = {"norms": torch.stack(norms, dim=1), "shares": torch.stack(shares, dim=1)}
    return {"of": of, "region": region and list(region)} | {
        name: pack(values.float().contiguous()) for name, values in stacked.items()
    }


def box_of(opened: Opened, region) -> Box | None:
    """A region of patches in pixels of the model's input."""
    return region and Box(*(opened.config.stages[0].patch * number for number in region))
