"""Where tokens look, who looks at them, and what reaches them through all blocks: maps laid over the picture."""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from dit_lab.inside.plots.base import block_names, panels, show, titled
from dit_lab.inside.plots.overlays import (
    in_lines,
    lay_over,
    of_heads,
    on_grid,
    outline_patch,
    overlays,
    patch_side,
    picture_of,
)

HEADS_SHOWN = 36  # more maps than this are drawn as one a block


def attention_overlay(image, row_map: torch.Tensor, query: int, grid: tuple[int, int]) -> Figure:
    """Where a patch looks: `image: c h w` in [-1, 1] or `h w 3` uint8, `row_map: head j` (or `j`), one panel a head.

    The patch is outlined, and all panels share one scale. Where the condition joins the sequence the map is longer than
    the grid: a panel's title then says what share goes there. Raises ValueError when the parts do not fit each other.
    """
    picture = picture_of(image)
    rows = torch.atleast_2d(row_map).float().cpu()
    patch = patch_side(picture.shape[:2], grid, rows.shape[1])
    names = [f"head {number}" for number in range(len(rows))] if len(rows) > 1 else ["attention"]
    if len(rows) > 1:
        names, rows = ["mean", *names], torch.cat([rows.mean(0, keepdim=True), rows])
    maps = on_grid(rows, grid)
    columns = math.ceil((len(names) + 1) / math.ceil((len(names) + 1) / 6))
    figure, axes = panels(math.ceil((len(names) + 1) / columns), columns, 1.6)
    figure.set_figheight(figure.get_figheight() + 0.3)  # else its title touches panels' titles of two lines
    show(axes.flat[0], picture, "picture")
    for axis, name, row, weights in zip(axes.flat[1:], names, rows, maps, strict=False):
        share = f"\n{row[weights.size :].sum():.0%} on condition" if len(row) > weights.size else ""
        drawn = lay_over(axis, picture, weights, (0, maps.max()), name + share)
    for axis in axes.flat[: len(names) + 1]:
        outline_patch(axis, query, grid, patch)
    figure.colorbar(drawn, ax=axes, label="attention weight").solids.set_alpha(1)
    return titled(
        figure,
        f"Where patch {query} (outlined) attends",
        "Bright patches have much of its attention, the weights of a head adding up to 1. See whether heads look near "
        "by, along a stroke, or everywhere alike.",
    )


def attended_by_overlay(
    image, columns: torch.Tensor, patch: int, grid: tuple[int, int], *, block: int | None = None,
    names: Sequence[str] | None = None,
) -> Figure:  # fmt: skip
    """Who attends to a patch: `columns: block head i`, of `attended_by`, laid over the `image` on one scale.

    Blocks in rows and heads in columns; of more than 36 maps the mean over heads, one a block, or the heads of one
    `block`. The patch is outlined, unless it is one of the condition's tokens, which count on after the image's. Raises
    ValueError when the parts do not fit each other.
    """
    inside = patch < math.prod(grid)
    token = f"patch {patch}" if inside else f"condition token {patch - math.prod(grid)}"
    rows = of_heads(columns.float(), block, block_names(len(columns), names), HEADS_SHOWN)
    figure = overlays(image, rows, grid, "weight given to it", outlined=patch if inside else None)
    said = "" if block is None else f" in {block_names(len(columns), names)[block]}"
    return titled(
        figure,
        f"Who attends to {token}{' (outlined)' if inside else ''}{said}",
        f"Bright tokens give {token} much of their attention. A token's weights sum to 1 over all that it attends to: "
        f"an even head of {columns.shape[-1]} keys gives {1 / columns.shape[-1]:.2g} everywhere.",
    )


def received_overlay(
    image, received: torch.Tensor, grid: tuple[int, int], *, block: int | None = None,
    names: Sequence[str] | None = None,
) -> Figure:  # fmt: skip
    """What attention each token receives: `received: block head j`, of the function of that name, over the `image`.

    Laid out as `attended_by_overlay`, with the largest share above each. Raises ValueError as that does.
    """
    said, largest = block_names(len(received), names), lambda each: f"{each.max():.2g}"
    rows = of_heads(received.float(), block, said, HEADS_SHOWN, largest)
    return titled(
        overlays(image, rows, grid, "share of the attention"),
        f"What attention each token receives{'' if block is None else f' in {said[block]}'}",
        f"The mean over all that attend; an even head gives each {1 / received.shape[-1]:.2g}. Above each map is the "
        "largest share: a token that receives many times the even one is a sink.",
    )


def rollout_overlay(image, rolled: torch.Tensor, patches: Sequence[int], grid: tuple[int, int]) -> Figure:
    """What reaches some `patches` through all blocks: `rolled: i j`, of `trajectory_rollout`, laid over the `image`.

    The last panel is the mean over the image's tokens. The scale ends at the largest weight that is not a patch's own.
    Raises ValueError when the parts do not fit each other.
    """
    tokens = math.prod(grid)
    others = rolled[list(patches), :tokens].float()
    others[range(len(patches)), list(patches)] = 0
    mean = rolled[:tokens].float().mean(0)
    maps = {f"patch {patch}": rolled[patch] for patch in patches} | {"mean of all": mean}
    most = max(others.max().item(), mean[:tokens].max().item())
    outlined = {f"patch {patch}": patch for patch in patches}
    return titled(
        overlays(image, in_lines(maps), grid, "weight through all blocks", scale=(0, most), outlined=outlined),
        "Rollout: what reaches a patch through all blocks",
        "Maps of all blocks multiplied, heads averaged, half of each block being what passes by. An estimate of where "
        "a patch (outlined) has its information from; it knows nothing of values and MLPs.",
    )
