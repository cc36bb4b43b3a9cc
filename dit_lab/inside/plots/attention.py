"""Where tokens look."""

import math

import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dit_lab.inside.geometry import token_box
from dit_lab.inside.plots.base import OUTLINE, as_pictures, panels, show


def attention_overlay(image, row_map: torch.Tensor, query: int, grid: tuple[int, int]) -> Figure:
    """Where a patch looks: `image: c h w` in [-1, 1] or `h w 3` uint8, `row_map: head j` (or `j`), one panel a head.

    The patch is outlined, and all panels share one scale. Where the condition joins the sequence the map is longer than
    the grid: a panel's title then says what share goes there. Raises ValueError when the parts do not fit each other.
    """
    picture = np.asarray(image) if image.dtype in (np.uint8, torch.uint8) else as_pictures(image[None])[0]
    rows = torch.atleast_2d(row_map).float().cpu()
    patch = patch_side(picture.shape[:2], grid, rows.shape[1])
    maps = rearrange(rows[:, : math.prod(grid)], "head (h w) -> head h w", h=grid[0]).numpy()
    names = [f"head {number}" for number in range(len(rows))] if len(rows) > 1 else ["attention"]
    if len(rows) > 1:
        names, maps, rows = ["mean", *names], [maps.mean(0), *maps], torch.cat([rows.mean(0, keepdim=True), rows])
    top, left, height, width = token_box(query, grid, patch)
    columns = math.ceil((len(names) + 1) / math.ceil((len(names) + 1) / 6))
    figure, axes = panels(math.ceil((len(names) + 1) / columns), columns, 1.6)
    show(axes.flat[0], picture, "picture")
    for axis, name, row, weights in zip(axes.flat[1:], names, rows, maps, strict=False):
        share = f"\n{row[weights.size :].sum():.0%} on condition" if len(row) > weights.size else ""
        show(axis, picture, name + share)
        extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
        drawn = axis.imshow(weights, cmap="viridis", vmin=0, vmax=np.max(maps), alpha=0.75, extent=extent)
    for axis in axes.flat[: len(names) + 1]:
        axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **OUTLINE))
    figure.colorbar(drawn, ax=axes, label="attention weight").solids.set_alpha(1)
    figure.suptitle(f"Where patch {query} (outlined) attends")
    return figure


def patch_side(size, grid: tuple[int, int], weights: int) -> int:
    """Pixels along a patch of a picture of `size` (h, w). Raises ValueError when the parts do not fit."""
    side = size[0] // grid[0]
    if tuple(size) != (side * grid[0], side * grid[1]) or not side:
        raise ValueError(
            f"a grid of {grid[0]} x {grid[1]} does not cut a picture of {size[0]} x {size[1]} into squares"
        )
    if weights < math.prod(grid):
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} needs {math.prod(grid)} attention weights, not {weights}")
    return side
