"""What the parts of the network gave: their pictures in a table, their size over a run, and x0 after each block."""

import textwrap
from collections.abc import Sequence

import torch
from einops import reduce
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from dit_lab.inside.causal import Attribution
from dit_lab.inside.contributions import Contributions
from dit_lab.inside.parts import Part
from dit_lab.inside.plots.base import (
    SMALL,
    as_pictures,
    block_names,
    colour_bar,
    one_channel,
    percent,
    reach_of,
    row_name,
    said_channel,
    said_t,
    show,
    show_signed,
    spread,
    table,
    time_axis,
    titled,
)  # fmt: skip

WITHIN = 0.995  # of the values in blocks: so much of them the scale holds
CELLS = 80  # more parts than this are no longer read as a table
BRANCH = {"attn": "head", "cross": "cross", "attn_bias": "bias", "cross_bias": "cross bias", "mlp": "MLP"}


def contribution_pictures(
    found: Contributions | Attribution, picture: torch.Tensor | None = None, *, of: str = "x0",
    most: int | None = None, channel: int | None = None, names: Sequence[str] | None = None,
) -> Figure:  # fmt: skip
    """What each part gave, as signed pictures on one scale: blocks in rows, their heads and MLP in columns.

    Of `Contributions` to "x0", "eps" or "output", each with its root mean square; of an `Attribution` to the final
    picture, with its share. Above the table is the `picture: c h w` (the sum where there is none given) and the parts
    outside the blocks. The scale holds 99.5 % of the blocks' values; what is larger is clipped. `most` parts,
    the largest, in order of size, are drawn instead of a table; so are 24 where it would have more than 80 cells.
    `channel` is drawn, None being the mean over all. Raises ValueError on other names or channels.
    """
    shares = isinstance(found, Attribution)
    given = found.pictures if shares else getattr(found, of)
    values = one_channel(given, channel)
    sizes = reduce(given**2, "part c h w -> part", "mean").sqrt()
    told = list(map(percent, found.shares.sum(0).tolist())) if shares else [f"{size:.2g}" for size in sizes]
    inner = [number for number, part in enumerate(found.parts) if part.block is not None]
    reach = values[inner].abs().float().quantile(WITHIN).item() or reach_of(values)
    whole = given.sum(0) if picture is None else picture
    in_table = most is None and len(inner) <= CELLS
    lay = laid_in_table if in_table else laid_by_size
    shown = inner if in_table else sorted(inner, key=lambda number: -sizes[number])[: most or 24]
    figure, axes, places = lay(found.parts, shown, whole.shape[-2:], names)
    show(axes[0, 0], as_pictures(whole[None])[0], "picture" if shares or of == "x0" else f"all of {of}")
    for number, (axis, name) in places.items():
        drawn = show_signed(axis, values[number], reach, f"{name}\n{told[number]}".strip())
    what = "the final picture" if shares else {"x0": "predicted x0"}.get(of, of)
    extend = "both" if values[list(places)].abs().max() > reach * 1.001 else "neither"
    colour_bar(figure, drawn, axes, f"given to {what}", shrink=0.6, extend=extend)
    number_is = "its share of the region's picture" if shares else "its root mean square"
    rest = " With the first noise they add up to the picture." if shares else " All parts add up to the whole."
    caption = (
        f"Orange adds to a pixel, blue takes from it, white leaves it; above each {number_is}. All share one scale, "
        f"which clips what is larger than nearly all of the blocks' values.{said_channel(given, channel)}{rest}"
    )
    number = "each part" if in_table else f"the {len(shown)} largest of {len(inner)} parts in blocks"
    return titled(figure, f"What {number} gave to {what}", caption)


def laid_in_table(parts: list[Part], shown: list[int], shape, names):
    """Blocks in rows, heads and MLP in columns: the figure, its axes, and of each part's number (axis, name)."""
    blocks = sorted({parts[number].block for number in shown})
    columns = list(dict.fromkeys((parts[number].kind, parts[number].head) for number in shown))
    outside = [number for number, part in enumerate(parts) if part.block is None]
    figure, axes = table(len(blocks) + 1, max(len(columns), len(outside) + 1), shape)
    places = {number: (axis, short_name(parts[number])) for number, axis in zip(outside, axes[0, 1:], strict=False)}
    for number in shown:
        part = parts[number]
        row, column = blocks.index(part.block), columns.index((part.kind, part.head))
        places[number] = axes[row + 1, column], short_name(part) if row == 0 else ""
    said = block_names(len(blocks), names)
    for axis, name in zip(axes[1:, 0], said, strict=True):
        row_name(axis, name)
    return figure, axes, places


def laid_by_size(parts: list[Part], shown: list[int], shape, names):
    """The parts outside the blocks in the first row, then the others in the order given, as `laid_in_table`."""
    outside = [number for number, part in enumerate(parts) if part.block is None]
    columns = max(len(outside) + 1, 8)
    figure, axes = table(1 - (-len(shown) // columns), columns, shape)
    places = {number: (axis, short_name(parts[number])) for number, axis in zip(outside, axes[0, 1:], strict=False)}
    said = block_names(1 + max(part.block for part in parts if part.block is not None), names)
    for number, axis in zip(shown, axes[1:].flat, strict=False):
        places[number] = axis, f"{said[parts[number].block]}\n{short_name(parts[number])}"
    return figure, axes, places


def short_name(part: Part) -> str:
    """A part's name within its block, or in few letters: "head 2", "MLP", "last shift"."""
    outside = {"bias_between": "between", "shift": "last shift", "bias": "last bias", "x_t": "$x_t$ itself"}
    name = BRANCH.get(part.kind, outside.get(part.kind, part.kind))
    return name if part.head is None else f"{name} {part.head}"


def contribution_norms_map(
    parts: Sequence[Part], norms: torch.Tensor, t: Sequence[float], *, log: bool = True,
    names: Sequence[str] | None = None,
) -> Figure:  # fmt: skip
    """How large each part of eps is over a run, `norms: part step` at the timesteps `t`: parts in rows.

    The parts outside the blocks are above (patches, positions) and below them. With `log` the colours are of the
    logarithm; values under a ten-thousandth of the largest count as that.
    """
    order = sorted(range(len(parts)), key=lambda number: place_of(parts[number]))
    ordered, values = [parts[number] for number in order], norms[order].float()
    blocks = len({part.block for part in parts} - {None})
    figure = Figure(figsize=(8.5, min(max(3.5, 0.17 * len(parts) + 1.8), 11)), layout="constrained")
    axis = figure.subplots()
    most = reach_of(values)
    scale = LogNorm(most * 1e-4, most) if log else Normalize(0, most)
    shown = (values.clamp(min=most * 1e-4) if log else values).numpy()
    drawn = axis.imshow(shown, cmap="viridis", norm=scale, aspect="auto", interpolation="nearest")
    time_axis(axis, t, 9)
    label_parts(axis, ordered, block_names(blocks, names))
    colour_bar(figure, drawn, axis, "root mean square in eps")
    return titled(
        figure,
        "How much of the predicted noise each part gives",
        "A bright row is a part that gives much; one that changes from left to right works at some noise levels only. "
        "White lines part the blocks. Large parts can cancel each other: sizes do not add up.",
    )


def place_of(part: Part) -> tuple[int, int]:
    """Where a part stands in a column of all: before the blocks, its block, behind them; a sort keeps the rest."""
    return (1, part.block) if part.block is not None else (0 if part.kind in ("patches", "positions") else 2, 0)


def label_parts(axis, parts: Sequence[Part], names: Sequence[str]) -> None:
    """Rows of parts: their names where there is room, else one a block, and lines between blocks."""
    groups = [place_of(part) for part in parts]
    for row in range(1, len(parts)):
        if groups[row] != groups[row - 1]:
            axis.axhline(row - 0.5, color="white", linewidth=0.8)
    if len(parts) <= 64:
        said = lambda part: short_name(part) if part.block is None else f"{names[part.block]} {short_name(part)}"
        axis.set_yticks(range(len(parts)), map(said, parts), fontsize=SMALL - 1)
        return
    firsts = [groups.index(group) for group in dict.fromkeys(groups) if group[0] == 1]
    every = -(-len(firsts) // 40)
    axis.set_yticks([first for first in firsts[::every]], names[::every], fontsize=SMALL - 1)


def lens_strip(
    lenses: torch.Tensor, t: Sequence[float], *, names: Sequence[str] | None = None, columns: int = 12
) -> Figure:  # fmt: skip
    """The x0 that the model would say after each block, at some steps: `lenses: step block c h w` at timesteps `t`.

    Steps in rows, blocks in columns, at most so many `columns`, evenly spread, the last among them. Raises ValueError
    when there are not as many timesteps as steps.
    """
    if len(lenses) != len(t):
        raise ValueError(f"there are {len(lenses)} steps, and {len(t)} timesteps for them")
    count = lenses.shape[1]
    said, shown = block_names(count, names), spread(count, columns)
    figure, axes = table(len(t), len(shown), lenses.shape[-2:], titles=0.1)
    for line, at, pictures in zip(axes, t, lenses, strict=True):
        for axis, picture in zip(line, as_pictures(pictures[shown]), strict=True):
            show(axis, picture, "")
        row_name(line[0], f"t = {said_t(at)}")
    for axis, block in zip(axes[0], shown, strict=True):
        axis.set_title(textwrap.fill(said[block], 8), fontsize=SMALL)
    axes[0, -1].set_title("prediction\n" + axes[0, -1].get_title(), fontsize=SMALL)
    return titled(
        figure,
        "What the model would predict if it stopped after each block",
        "Each is x0 read from the stream after a block by the model's own last layer; the last column is the real "
        "prediction. See in which block the picture appears, and how that moves as noise goes (downwards).",
    )
