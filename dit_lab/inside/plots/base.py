"""What all figures share: their colours, tensors as pictures, axes side by side, and axes over blocks and timesteps."""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, reduce
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dit_lab.data import Pixels

OUTLINE = dict(fill=False, edgecolor="#ff5500", linewidth=2)
CATEGORIES = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
BLUE, ORANGE, GREEN = CATEGORIES[:3]
GREY = "#666666"
# Standard noise seldom leaves this range.
NOISE_REACH = 3.0
# White is 0; blue below and orange above are told apart by colour-blind eyes, and their ends are equally dark.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#00304d", BLUE, "#f7f7f7", ORANGE, "#5c2600"])
SMALL = 8  # points, of all text but titles; a figure is at most 10 inches wide, so that this is read at 900 pixels
INCH = 15  # letters of small text
ROOM = 0.68  # inches that the name of a panel takes


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


def one_channel(x: torch.Tensor, channel: int | None = None) -> torch.Tensor:
    """What is drawn in signed colours: one channel, or their mean, `... c h w -> ... h w`. Raises ValueError."""
    if channel is not None and not 0 <= channel < x.shape[-3]:
        raise ValueError(f"there are channels 0 to {x.shape[-3] - 1}, not {channel}")
    return reduce(x, "... c h w -> ... h w", "mean") if channel is None else x[..., channel, :, :]


def said_channel(x: torch.Tensor, channel: int | None) -> str:
    """What `one_channel` took, for a caption; nothing where there is but one."""
    if x.shape[-3] == 1:
        return ""
    return f" Drawn is the mean over {x.shape[-3]} channels." if channel is None else f" Drawn is channel {channel}."


def reach_of(x: torch.Tensor) -> float:
    """The largest magnitude, the end of a scale around 0; 1 where all is 0, so that 0 stays white."""
    return torch.nan_to_num(x).abs().max().item() or 1.0


def panels(rows: int, columns: int, side: float, grid: bool = True):
    """A figure of rows x columns axes about `side` inches each, and the axes; a picture `grid` has no frames."""
    wide = 1 if grid else 1.4
    size = (max(columns * side * wide, 4.5) + 1, rows * side + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    if grid:
        for axis in axes.flat:
            bare(axis)
    return figure, axes


def table(rows: int, columns: int, shape: Sequence[int], most: float = 1.1, titles: float = 0.3):
    """A figure of rows x columns panels for pictures of a `shape` (h, w), at most 9 by about 11 inches, and its axes.

    Panels are `most` inches wide or less; `titles` are the inches above each.
    """
    ratio = shape[0] / shape[1]
    wide = min(most, 7.0 / columns, (9.5 / rows - titles) / ratio)
    figure = Figure(
        figsize=(min(max(columns * max(wide, ROOM) + 2.1, 5.5), 10), rows * (wide * ratio + titles) + 1.05),
        layout="compressed",
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        bare(axis)
    return figure, axes


def bare(axis) -> None:
    """No ticks and no frame."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def framed(axis) -> None:
    """A thin grey frame, around a picture that may be as white as the page."""
    axis.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.5)


def show(axis, picture: np.ndarray, title: str) -> None:
    """One picture, its pixels kept square and unsmoothed."""
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=9)


def show_signed(axis, values: torch.Tensor, reach: float, title: str = ""):
    """One picture of values around 0, `h w`, in signed colours from -reach to reach."""
    drawn = axis.imshow(values.cpu().numpy(), cmap=SIGNED, vmin=-reach, vmax=reach, interpolation="nearest")
    axis.set_title(title, fontsize=SMALL)
    framed(axis)
    return drawn


def row_name(axis, name: str) -> None:
    """What a row of pictures shows, left of its first."""
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)


def titled(figure: Figure, title: str, caption: str) -> Figure:
    """The figure with a title and, small and grey beneath, what to look for in it."""
    wide = figure.get_figwidth()
    figure.suptitle(textwrap.fill(title, round(0.65 * INCH * wide)), fontsize=12)
    figure.supxlabel(textwrap.fill(caption, round(INCH * wide)), fontsize=SMALL, color=GREY)
    return figure


def percent(share: float, digits: int = 1) -> str:
    """A signed share for people: `-0.0124 -> -1.2%`, and what rounds to none has no sign."""
    said = f"{100 * share:+.{digits}f}%".replace("-", "\N{MINUS SIGN}")
    return said if any(digit in "123456789" for digit in said) else said[1:]


def spread(count: int, most: int) -> list[int]:
    """At most so many numbers below `count`, evenly spread, the first and the last among them."""
    return torch.linspace(0, count - 1, min(most, count)).round().int().tolist()


def said_t(t: float) -> str:
    """A timestep for people: whole ones as they are, those of a flow to three digits."""
    return f"{t:g}" if float(t).is_integer() else f"{t:.3g}"


def time_axis(axis, t: Sequence[float], most: int = 5) -> None:
    """Columns or points 0, 1 ... of an axis named by their timesteps."""
    marks = spread(len(t), most)
    axis.set_xticks(marks, [said_t(t[mark]) for mark in marks], fontsize=SMALL)
    axis.set_xlabel("timestep t, noisiest first", fontsize=9)


def plain_log(axis, low: float, high: float) -> None:
    """Plain numbers on an axis (or a colour bar's) that is logarithmic from low to high: 0.2, 0.5, 1 where it is short.

    `axis` is one of Matplotlib's `Axis`, such as `axes.yaxis`.
    """
    short = low > 0 and high < 300 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def colour_bar(figure: Figure, drawn, axes, label: str, marks: int = 5, **more):
    """The bar of a map's colours beside `axes`, with its quantity and unit, and few plain numbers."""
    # A locator that goes by the bar's length would choose anew after the layout, and be cut off.
    bar = figure.colorbar(drawn, ax=axes, ticks=MaxNLocator(marks), **more)
    if isinstance(drawn.norm, LogNorm):
        plain_log(bar.ax.yaxis, drawn.norm.vmin, drawn.norm.vmax)
        label += " (log scale)"
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=SMALL)
    return bar


def block_axis(axis, names: Sequence[str], rows: Sequence[int]) -> None:
    """Rows of a heat map by block, `rows` of them each: a name in their middle, a white line between blocks.

    Where there are too many blocks, every second or third has its name.
    """
    ends = np.cumsum([0, *rows])
    middles = (ends[:-1] + ends[1:] - 1) / 2
    every = -(-len(names) // 16)
    axis.set_yticks(middles[::every], names[::every], fontsize=SMALL)
    for end in ends[1:-1]:
        axis.axhline(end - 0.5, color="white", linewidth=0.8)


def block_names(count: int, names: Sequence[str] | None) -> list[str]:
    """What to call the blocks: a config's `block_names`, or numbers. Raises ValueError on too few or many."""
    if names is not None and len(names) != count:
        raise ValueError(f"there are {count} blocks, and {len(names)} names for them")
    return [f"block {number}" for number in range(count)] if names is None else list(names)


def outline(axis, mask: torch.Tensor, **style) -> None:
    """The border of a region of a picture along its pixels' edges, `mask: h w` of bools."""
    inside = np.pad(np.asarray(mask), 1)
    lines = [[(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)] for y, x in np.argwhere(inside[:, 1:] != inside[:, :-1])]
    lines += [[(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)] for y, x in np.argwhere(inside[1:] != inside[:-1])]
    kept = dict(color=OUTLINE["edgecolor"], linewidth=OUTLINE["linewidth"], capstyle="projecting") | style
    axis.add_collection(LineCollection(lines, **kept))
