"""Maps over tokens laid over a picture: one panel, and panels in rows on one scale."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dit_lab.inside.geometry import token_box
from dit_lab.inside.plots.base import OUTLINE, SMALL, as_pictures, colour_bar, row_name, show, table


def picture_of(image) -> np.ndarray:
    """A picture as pixels: `c h w` in [-1, 1], or `h w 3` uint8 as it is, `-> h w 3`."""
    return np.asarray(image) if image.dtype in (np.uint8, torch.uint8) else as_pictures(image[None])[0]


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


def on_grid(rows: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """What rows say of the image's tokens: `... j -> ... h w`; tokens beyond the grid are left out."""
    return rearrange(rows[..., : math.prod(grid)].float().cpu(), "... (h w) -> ... h w", h=grid[0]).numpy()


def lay_over(axis, picture: np.ndarray, weights: np.ndarray, scale: tuple[float, float], title: str, size: int = 9):
    """A map over tokens, `h w`, over the picture, which shines through; `scale` is where its colours begin and end."""
    show(axis, picture, title)
    axis.title.set_fontsize(size)
    extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
    return axis.imshow(weights, cmap="viridis", vmin=scale[0], vmax=scale[1], alpha=0.75, extent=extent)


def outline_patch(axis, token: int, grid: tuple[int, int], side: int) -> None:
    """The border of a patch of `side` pixels."""
    top, left, height, width = token_box(token, grid, side)
    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **OUTLINE))


def overlays(
    image, rows: dict[str, dict[str, torch.Tensor]], grid: tuple[int, int], label: str, *, scale=None,
    outlined: int | dict[str, int] | None = None,
) -> Figure:  # fmt: skip
    """Rows of maps over a picture on one scale, the picture itself above right: row name -> panel title -> `n`.

    The scale runs from 0 to the largest value on the image's tokens unless there is one given; `outlined` is a token in
    every panel, or those of some by title. The figure has no title yet. Raises ValueError when the parts do not fit
    each other.
    """
    picture = picture_of(image)
    maps = [each for row in rows.values() for each in row.values()]
    side = patch_side(picture.shape[:2], grid, len(maps[0]))
    low, high = scale or (0, max(on_grid(each, grid).max() for each in maps))
    lines = max(title.count("\n") + 1 for row in rows.values() for title in row)
    columns = 1 + max(map(len, rows.values()))
    figure, axes = table(len(rows), columns, picture.shape[:2], most=1.4, titles=0.08 + 0.13 * lines)
    show(axes[0, -1], picture, "picture")
    for number, (line, (name, row)) in enumerate(zip(axes, rows.items(), strict=True)):
        row_name(line[0], name.strip())
        for axis, (title, each) in zip(line, row.items(), strict=False):
            repeated = number > 0 and name.strip()  # the heads' names stand above the first row alone
            said = title.partition("\n")[2] if repeated else title
            drawn = lay_over(axis, picture, on_grid(each, grid), (low, high), said, SMALL)
            token = outlined.get(title) if isinstance(outlined, dict) else outlined
            if token is not None:
                outline_patch(axis, token, grid, side)
    colour_bar(figure, drawn, axes, label, shrink=0.8).solids.set_alpha(1)
    return figure


def in_lines(maps: dict[str, torch.Tensor], columns: int = 7) -> dict[str, dict[str, torch.Tensor]]:
    """Maps one after the other as rows for `overlays`, without names of their own, about equally long."""
    names = list(maps)
    columns = math.ceil(len(names) / math.ceil(len(names) / columns))
    lines = [names[start : start + columns] for start in range(0, len(names), columns)]
    return {" " * number: {name: maps[name] for name in line} for number, line in enumerate(lines)}


def of_heads(
    maps: torch.Tensor, block: int | None, names: Sequence[str], most: int, say: Callable | None = None
) -> dict[str, dict[str, torch.Tensor]]:
    """Maps of blocks and heads, `block head n`, as rows for `overlays`: a block a row where there are at most `most`.

    Of more the mean over heads, one a block; with a `block` its heads. What `say` makes of a map stands above it too.
    Raises ValueError on a block that is not there.
    """
    if block is not None and not 0 <= block < len(maps):
        raise ValueError(f"there are blocks 0 to {len(maps) - 1}, not {block}")
    titled = lambda of: {f"{name}\n{say(each)}" if say else name: each for name, each in of.items()}
    heads = lambda of_block: titled({f"head {head}": each for head, each in enumerate(of_block)})
    if block is not None:
        return in_lines(heads(maps[block]))
    if maps.shape[0] * maps.shape[1] > most:
        return in_lines(titled(dict(zip(names, maps.mean(1), strict=True))))
    return {name: heads(of_block) for name, of_block in zip(names, maps, strict=True)}
