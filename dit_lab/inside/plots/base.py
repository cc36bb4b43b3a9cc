"""What all figures share: their colours, tensors as pictures, and axes side by side."""

import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure

from dit_lab.data import Pixels

OUTLINE = dict(fill=False, edgecolor="#ff5500", linewidth=2)
CATEGORIES = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
BLUE, ORANGE, GREEN = CATEGORIES[:3]
# Standard noise seldom leaves this range.
NOISE_REACH = 3.0


def as_pictures(x: torch.Tensor, reach: float = 1.0) -> np.ndarray:
    """`x: b c h w` in [-reach, reach] -> `b h w 3` uint8: grey for one channel, RGB for three, else false colours.

    The scale is fixed, so that frames of one run can be compared; what lies outside is clipped, and what is not a
    number becomes mid-grey. False colours are a fixed mix of the channels, the one the app uses. Raises ValueError
    unless there are four axes.
    """
    if x.ndim != 4:
        raise ValueError(f"pictures are made of b c h w, not of {tuple(x.shape)}")
    x = torch.nan_to_num(x.detach().cpu().float() / reach, nan=0.0).clamp(-1e6, 1e6)
    pixels = ((Pixels().decode(x) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(pixels, "b c h w -> b h w c").numpy()


def panels(rows: int, columns: int, side: float, grid: bool = True):
    """A figure of rows x columns axes about `side` inches each, and the axes; a picture `grid` has no frames."""
    wide = 1 if grid else 1.4
    size = (max(columns * side * wide, 4.5) + 1, rows * side + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    if grid:
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return figure, axes


def show(axis, picture: np.ndarray, title: str) -> None:
    """One picture, its pixels kept square and unsmoothed."""
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=9)
