"""What made a region of the picture, as pictures: what each part gave, and what is lost without it."""

from collections.abc import Sequence
from itertools import pairwise
from string import ascii_lowercase

import numpy as np
import torch
from matplotlib.figure import Figure

from dit_lab.inside.causal import Attribution, CausalMap, Cell
from dit_lab.inside.parts import Part
from dit_lab.inside.plots.base import (
    BLUE,
    ORANGE,
    SIGNED,
    SMALL,
    as_pictures,
    bare,
    block_axis,
    block_names,
    colour_bar,
    one_channel,
    outline,
    percent,
    reach_of,
    said_channel,
    show,
    show_signed,
    titled,
)
from dit_lab.inside.plots.parts import short_name
from dit_lab.inside.trajectory import Trajectory

INPUT = "patches", "positions", "x_t"
LEGIBLE = 20  # more rows than this have no numbers
ROWS = 48  # more heads and MLPs than this are no longer read in one heat map


def what_made_this(
    trajectory: Trajectory, found: CausalMap, region: torch.Tensor, *, sample: int = 0, most: int = 6,
    channel: int | None = None, names: Sequence[str] | None = None, label: str = "",
) -> Figure:  # fmt: skip
    """A sample with its region outlined, the parts that count most, when they acted, and what goes without them.

    `region: h w` is the mask that the map was made for, `label` what the sample shows ("7"). Above: the `most` parts of
    blocks with the largest shares, each as what it gave to the final picture over all steps, on one scale. Below: the
    shares of the input, of each block and of the last layer by steps, their sums, and each cell's share against what
    was lost without it, the largest named.
    """
    chosen = largest_parts(found.attribution, most)
    figure = Figure(figsize=(9.6, 6.2), layout="constrained")
    above, below = figure.add_gridspec(2, 1, height_ratios=[1, 1.75])
    axes = [figure.add_subplot(place) for place in above.subgridspec(1, most + 1)]
    for axis in axes:
        bare(axis)
    show(axes[0], as_pictures(trajectory.sample[sample : sample + 1])[0], "the sample")
    outline(axes[0], region.cpu(), linewidth=1.2)
    pictures = one_channel(found.attribution.pictures[chosen].float(), channel)
    reach, shares = reach_of(pictures), found.attribution.shares.sum(0)
    for axis, number, picture in zip(axes[1:], chosen, pictures, strict=True):
        title = f"{found.attribution.parts[number]}\ngave {percent(shares[number].item(), 0)}"
        drawn = show_signed(axis, picture, reach, title)
    colour_bar(figure, drawn, axes[1:], "gave to the picture", shrink=0.8)
    places = below.subgridspec(1, 4, width_ratios=[1.7, 1.25, 2.4, 1.5])
    draw_shares(figure, places, found, names)
    draw_agreement(figure.add_subplot(places[2]), found, names)
    caption = (
        "Above: orange adds to a pixel, blue takes from it. Left: what each block gave directly, by steps (0 is the "
        "noisiest) and in all; "
        "with the input ($x_t$, its patches and positions) and the first noise it is 100 % of the outlined picture. "
        "Right: switched off and sampled again. On the line a part did what it seems to do; above it later steps built "
        "on what it did, below it they mended the loss." + said_channel(found.attribution.pictures, channel)
    )
    return titled(figure, f"What made this {label}".strip() + ("" if label else " picture"), caption)


def causal_table(found: CausalMap, *, names: Sequence[str] | None = None, most: int = ROWS) -> Figure:
    """Attribution and intervention cell by cell: heads and MLPs in rows, ranges of steps in columns, on one scale.

    Grey is a cell that was not switched off. Beside them each measured cell as a dot, its share against what was lost.
    Of more than `most` heads and MLPs those that were switched off are drawn, and those with the largest shares.
    """
    cells, spans = found.interventions.cells, spans_of(found)
    inner = [part for part in found.attribution.parts if part.kind in ("attn", "cross", "mlp")]
    of = lambda part, span: Cell(part.block, part.kind, part.head, span)
    shares = np.array([[found.attribution.of(of(part, span)) for span in spans] for part in inner])
    lost = dict(zip(cells, found.interventions.lost.tolist(), strict=True))
    losses = np.array([[lost.get(of(part, span), np.nan) for span in spans] for part in inner])
    # What was measured comes first, then what has large shares; lexsort's last key counts most.
    rows = sorted(np.lexsort([-np.abs(shares).max(1), np.isnan(losses).all(1)])[:most])
    reach = max(np.abs(shares[rows]).max(), np.nanmax(np.abs(losses), initial=0)) or 1.0
    figure = Figure(figsize=(9.6, max(4.2, 0.15 * len(rows) + 2)), layout="constrained")
    left, right, dots, beside = figure.subplots(1, 4, width_ratios=[1, 1, 1.9, 1.3])
    beside.set_axis_off()
    for axis, values, title in (left, shares, "share it gave"), (right, losses, "share lost without it"):
        drawn = axis.imshow(values[rows], cmap=SIGNED, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        axis.set_facecolor("#cccccc")
        axis.set_title(title, fontsize=9)
        span_axis(axis, spans)
        name_rows(axis, [inner[row] for row in rows], names)
    right.set_yticks([])
    colour_bar(figure, drawn, [left, right], "share of the region's picture", 4, location="bottom")
    draw_agreement(dots, found, names)
    drawn_of = f"{len(rows)} of {len(inner)}" if len(rows) < len(inner) else "all"
    return titled(
        figure,
        "What made the region: what each part gave, and what is lost without it",
        f"Rows are {drawn_of} heads and MLPs, columns steps of the run (0 is the noisiest); grey was not switched off. "
        "Where both maps and their ranks agree, a part did what it seems to do. Small shares cannot be told apart.",
    )


def largest_parts(found: Attribution, most: int) -> list[int]:
    """The numbers of the parts in blocks with the largest shares over all steps, either sign, the largest first."""
    shares = found.shares.sum(0)
    inner = [number for number, part in enumerate(found.parts) if part.block is not None]
    return sorted(inner, key=lambda number: -abs(shares[number]))[:most]


def draw_shares(figure: Figure, places, found: CausalMap, names) -> None:
    """Shares by block and range of steps in the first of `places`, and their sums as bars in the second."""
    attribution, spans = found.attribution, spans_of(found)
    blocks = 1 + max(part.block for part in attribution.parts if part.block is not None)
    said = ["first noise", "input", *block_names(blocks, names), "last layer", "rest"]
    table = torch.zeros(len(said), len(spans))
    for number, part in enumerate(attribution.parts):
        row = 2 + part.block if part.block is not None else (1 if part.kind in INPUT else 2 + blocks)
        table[row] += torch.stack([attribution.shares[list(span), number].sum() for span in spans]).float()
    sums = table.sum(1)
    sums[0], sums[-1] = attribution.noise, attribution.rest
    table[[0, -1]] = torch.nan
    rows = [row for row in range(len(said)) if row < len(said) - 1 or abs(sums[row]) > 5e-4]
    heat, bars = figure.add_subplot(places[0]), figure.add_subplot(places[1])
    reach = reach_of(table[rows])
    heat.imshow(table[rows].numpy(), cmap=SIGNED, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    block_axis(heat, [said[row] for row in rows], [1] * len(rows))
    span_axis(heat, spans)
    heat.set_title("share by steps", fontsize=9)
    heat.set_ylabel("part", fontsize=9)
    for (row, column), value in np.ndenumerate(table[rows].numpy()):
        if len(rows) <= LEGIBLE and len(spans) <= 4 and not np.isnan(value):
            colour = "white" if abs(value) > 0.45 * reach else "black"
            heat.text(column, row, percent(value, 0), ha="center", va="center", fontsize=7, color=colour)
    bars.barh(
        range(len(rows)), sums[rows].numpy(), color=[ORANGE if sums[row] > 0 else BLUE for row in rows], height=0.7
    )
    bars.axvline(0, color="#bbbbbb", linewidth=0.8)
    for number, row in enumerate(rows if len(rows) <= LEGIBLE else []):
        end = max(sums[row].item(), 0)
        bars.text(end, number, f" {percent(sums[row].item(), 0)}", va="center", fontsize=7)
    bars.set(ylim=(len(rows) - 0.5, -0.5), yticks=[], xticks=[])
    bars.margins(x=0.45)
    bars.set_title("in all", fontsize=9)
    bars.spines[:].set_visible(False)


def draw_agreement(axis, found: CausalMap, names: Sequence[str] | None, named: int = 3) -> None:
    """Every cell as a dot, its share against what was lost without it; where both agree it lies on the line.

    The `named` largest of either kind bear a letter that is told beside the axes.
    """
    shares, lost = found.attributed.numpy(), found.interventions.lost.numpy()
    ends = [min(shares.min(), lost.min()), max(shares.max(), lost.max())]
    axis.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
    axis.plot(shares, lost, "o", color=BLUE, alpha=0.7, markersize=5)
    largest = [*np.argsort(-np.abs(shares))[:named], *np.argsort(-np.abs(lost))[:named]]
    lines = []
    for letter, number in zip(ascii_lowercase, dict.fromkeys(largest), strict=False):
        axis.annotate(letter, (shares[number], lost[number]), (4, 4), textcoords="offset points", fontsize=9)
        cell = found.interventions.cells[number]
        block = f"block {cell.block}" if names is None else names[cell.block]
        what = short_name(Part(cell.branch, cell.block, cell.head))
        lines.append(f"{letter}  {block} {what},\n    steps {said_span(cell.steps)}")
    axis.text(1.03, 1, "\n".join(lines), transform=axis.transAxes, va="top", fontsize=SMALL, linespacing=1.4)
    axis.set_xlabel("share it gave (attribution)", fontsize=9)
    axis.set_ylabel("share lost without it (intervention)", fontsize=9)
    axis.tick_params(labelsize=SMALL)
    axis.set_title(f"{len(shares)} cells, rank correlation {found.agreement:.2f}", fontsize=9)
    axis.grid(alpha=0.3)
    axis.margins(0.1)


def spans_of(found: CausalMap) -> list[range]:
    """The ranges of steps of the measured cells, and what lies between them, in the order of the run."""
    count = len(found.attribution.t)
    ends = sorted(
        {0, count} | {end for cell in found.interventions.cells for end in (cell.steps.start, cell.steps.stop)}
    )
    return [range(*ends) for ends in pairwise(ends)]


def span_axis(axis, spans: Sequence[range]) -> None:
    """Columns of ranges of steps, step 0 being the noisiest."""
    axis.set_xticks(range(len(spans)), map(said_span, spans), fontsize=SMALL)
    axis.set_xlabel("steps", fontsize=9)


def said_span(span: range) -> str:
    """`range(0, 7) -> "0–6"`."""
    return f"{span.start}–{span.stop - 1}" if len(span) > 1 else str(span.start)


def name_rows(axis, parts: Sequence[Part], names: Sequence[str] | None) -> None:
    """Rows of heads and MLPs by name, and a line wherever another block begins."""
    said = names or block_names(1 + max(part.block for part in parts), None)
    axis.set_yticks(range(len(parts)), [f"{said[part.block]} {short_name(part)}" for part in parts], fontsize=7)
    for row, (before, after) in enumerate(pairwise(parts), 1):
        if before.block != after.block:
            axis.axhline(row - 0.5, color="white", linewidth=1)
