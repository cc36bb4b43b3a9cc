"""Where a token lies in the picture, and which token lies under a pixel: the same for DiT and all stages of U-DiT.

Tokens are numbered row by row over a grid of (rows, columns); a picture pixel is `scale` times finer than an input
pixel, say 8 for latents that a VAE decodes, so a token covers `patch * scale` of them each way.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange


class Box(NamedTuple):
    """A rectangle of pixels: its first row and column, and how many of each."""

    top: int
    left: int
    height: int
    width: int


def token_box(token: int, grid: tuple[int, int], patch: int, scale: int = 1) -> Box:
    """The pixels that a token covers. Raises ValueError when the grid has no such token."""
    rows, columns = grid
    if not 0 <= token < rows * columns:
        raise ValueError(f"a grid of {rows} x {columns} has tokens 0 to {rows * columns - 1}, not {token}")
    row, column = divmod(token, columns)
    side = patch * scale
    return Box(row * side, column * side, side, side)


def token_at(row: float, column: float, grid: tuple[int, int], patch: int, scale: int = 1) -> int:
    """The token that covers a pixel, whole or fractional. Raises ValueError when the pixel is outside the picture."""
    (rows, columns), side = grid, patch * scale
    if not (0 <= row < rows * side and 0 <= column < columns * side):
        raise ValueError(f"a picture of {rows * side} x {columns * side} pixels has none at ({row}, {column})")
    return math.floor(row / side) * columns + math.floor(column / side)


def token_under(token: int, grid: tuple[int, int], patch: int, other: tuple[int, int], other_patch: int) -> int:
    """The token of another grid on the same picture that covers the middle of a token. Raises ValueError."""
    box = token_box(token, grid, patch)
    return token_at(box.top + box.height / 2, box.left + box.width / 2, other, other_patch)


def interleaved(rows: int, columns: int, factor: int) -> torch.Tensor:
    """The tokens of the factor^2 interleaved grids, numbered on the whole one: `-> g m`; grid 0 has the corner's."""
    return rearrange(torch.arange(rows * columns), "(h p w q) -> (p q) (h w)", h=rows // factor, p=factor, q=factor)
