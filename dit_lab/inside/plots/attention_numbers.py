"""Attention in numbers over a run, and how alike maps are: heat maps of blocks and heads."""

from collections.abc import Sequence

import torch
from einops import rearrange
from matplotlib.figure import Figure

from dit_lab.inside.attention import AttentionNumbers
from dit_lab.inside.plots.base import SMALL, block_axis, block_names, colour_bar, time_axis, titled


def attention_numbers_map(numbers: AttentionNumbers, *, names: Sequence[str] | None = None) -> Figure:
    """Every block and head (rows) over a run (columns): how spread attention is, how far it looks, and where it goes.

    A number that is 0 or unknown everywhere has no panel, as the condition's share where there is none among the keys;
    of cross-attention, whose keys are the condition, the two tokens have one each. `names` are those of the blocks.
    """
    cross = bool(torch.isnan(numbers.distance).all())
    named = {"entropy": "nats", "distance": "patches", "condition": "share", "itself": "share"}
    named = {"entropy": "nats", "time": "share", "label": "share"} if cross else named
    titles = {
        "entropy": "spread (entropy)", "distance": "distance", "condition": "on the condition",
        "itself": "on the token itself", "time": "on the time token", "label": "on the label token",
    }  # fmt: skip
    drawn_of = {name: getattr(numbers, name).float() for name in named}
    drawn_of = {name: values for name, values in drawn_of.items() if torch.nan_to_num(values).any()}
    blocks, heads, _ = numbers.entropy.shape
    said = block_names(blocks, names)
    figure = Figure(figsize=(9.4, min(max(3.4, 0.13 * blocks * heads + 1.8), 8)), layout="constrained")
    axes = figure.subplots(1, len(drawn_of), squeeze=False)[0]
    for axis, (name, values) in zip(axes, drawn_of.items(), strict=True):
        rows = rearrange(values, "block head step -> (block head) step")
        drawn = axis.imshow(rows.numpy(), cmap="viridis", vmin=0, aspect="auto", interpolation="nearest")
        block_axis(axis, said, [heads] * blocks)
        time_axis(axis, numbers.t, 3)
        axis.set_title(titles[name], fontsize=9)
        colour_bar(figure, drawn, axis, named[name], 4, location="bottom", pad=0.02)
        if axis is not axes[0]:
            axis.set_yticks([])
    return titled(
        figure,
        f"{'Cross-attention' if cross else 'Attention'} in numbers: every head over the run",
        f"Rows are heads ({heads} a block, white lines between blocks), the mean over the image's tokens. High entropy "
        "and distance: the head averages over the picture; both low: it looks at few tokens near by. See which heads "
        "change their kind as noise goes.",
    )


def similarity_map(
    similarity: torch.Tensor, *, heads: int | None = None, t: Sequence[float] | None = None,
    names: Sequence[str] | None = None, what: str = "",
) -> Figure:  # fmt: skip
    """How alike attention maps are, from 0 to 1: those of all heads at a step, or one head's at all steps.

    With `heads` (how many a block has) `similarity: (block head) (block head)`, of `head_similarity`; with timesteps
    `t` it is `step step`, of `step_similarity`. `what` says of which step or head, for the title. Raises ValueError
    unless one of both is given, and fits.
    """
    count = len(similarity)
    if (heads is None) == (t is None):
        raise ValueError("give either heads, how many a block has, or the timesteps t")
    if heads is not None and (heads < 1 or count % heads) or t is not None and len(t) != count:
        told = f"{heads} heads a block" if t is None else f"{len(t)} timesteps"
        raise ValueError(f"a map of {count} x {count} does not fit {told}")
    figure = Figure(figsize=(7.6, 6.8), layout="compressed")
    axis = figure.subplots()
    drawn = axis.imshow(similarity.cpu().numpy(), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    colour_bar(figure, drawn, axis, "cosine between attention maps", shrink=0.8)
    if t is not None:
        time_axis(axis, t, 6)
        axis.set_yticks(axis.get_xticks(), [label.get_text() for label in axis.get_xticklabels()], fontsize=SMALL)
        axis.set_ylabel(axis.get_xlabel(), fontsize=9)
        caption = "A bright square is a range of noise levels over which the head does the same; an edge is a change."
        return titled(figure, f"How alike one head's maps are over the run{what and f': {what}'}", caption)
    said = block_names(count // heads, names)
    block_axis(axis, said, [heads] * len(said))
    marks = axis.get_yticks()
    shown = [label.get_text() for label in axis.get_yticklabels()]
    axis.set_xticks(marks, shown, fontsize=SMALL, rotation=90 if max(map(len, shown)) * len(shown) > 50 else 0)
    for line in range(heads, count, heads):
        axis.axvline(line - 0.5, color="white", linewidth=0.8)
    caption = (
        f"Every head against every other, {heads} a block, white lines between blocks. Bright off the diagonal are "
        "heads that do the same; maps that are nearly even are alike too."
    )
    return titled(figure, f"How alike the maps of all heads are{what and f': {what}'}", caption)
