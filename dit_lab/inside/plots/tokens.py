"""Tokens of the residual stream: their norms on the grid, their largest features, their colours, how alike they are."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dit_lab.inside.colours import Colours
from dit_lab.inside.plots.base import (
    SMALL,
    block_axis,
    block_names,
    colour_bar,
    row_name,
    said_t,
    show,
    spread,
    table,
    time_axis,
    titled,
)
from dit_lab.inside.plots.overlays import in_lines, on_grid, overlays
from dit_lab.inside.tokens import Massive

# Of Okabe and Ito, told apart by colour-blind eyes; the last is for all other features.
FEATURES = "#0072b2", "#d55e00", "#009e73", "#f0e442", "#cc79a7", "#56b4e9", "#cccccc"
WIDE = 5.0  # the largest over the smallest from where on a scale is logarithmic


def token_norms_map(
    norms: torch.Tensor, grid: tuple[int, int], t: Sequence[float], *, frames: int = 5,
    names: Sequence[str] | None = None, columns: int = 10,
) -> Figure:  # fmt: skip
    """The norm of every token on the grid: `norms: step block n`, of `token_norms`, at the timesteps `t`.

    At most so many `frames` (steps) in rows and `columns` (blocks), evenly spread, on one scale, which is logarithmic
    where norms differ much. Above each the largest over the median. Raises ValueError on a grid that does not fit.
    """
    check_steps(norms, t)
    steps, blocks = spread(len(norms), frames), spread(norms.shape[1], columns)
    if norms.shape[2] != grid[0] * grid[1]:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} needs {grid[0] * grid[1]} tokens, not {norms.shape[2]}")
    said, shown = block_names(norms.shape[1], names), norms[steps][:, blocks].float()
    low, high = shown.min().item(), shown.max().item()
    scale = LogNorm(low, high) if low > 0 and high > WIDE * low else Normalize(0, high)
    figure, axes = table(len(steps), len(blocks), grid, titles=0.25)
    for line, step, maps in zip(axes, steps, shown, strict=True):
        for axis, block, values in zip(line, blocks, maps, strict=True):
            drawn = axis.imshow(on_grid(values, grid), cmap="viridis", norm=scale, interpolation="nearest")
            title = f"{values.max() / values.median():.1f}×"
            axis.set_title(f"{said[block]}\n{title}" if step == steps[0] else title, fontsize=SMALL)
        row_name(line[0], f"t = {said_t(t[step])}")
    colour_bar(figure, drawn, axes, "norm of a token", shrink=0.7)
    return titled(
        figure,
        "Norms of the tokens after each block",
        "Above each map how many times the median its largest is. Single bright tokens are sinks or registers; a "
        "picture that shows through means that norms follow what is drawn there.",
    )


def massive_plot(found: Massive, *, names: Sequence[str] | None = None) -> Figure:
    """The largest feature after each block over a run: how many times the median it is, and which one it is.

    The six features that are largest most often have colours of their own.
    """
    times, feature = found.times[..., 0].T.float(), found.feature[..., 0].T
    said = block_names(len(times), names)
    common = [number for number, _ in Counter(feature.flatten().tolist()).most_common(len(FEATURES) - 1)]
    kinds = np.vectorize(lambda number: common.index(number) if number in common else len(FEATURES) - 1)(feature)
    figure = Figure(figsize=(9.4, max(3.6, 0.24 * len(said) + 1.9)), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = times.min().item(), times.max().item()
    scale = LogNorm(low, high) if high > WIDE * low else Normalize(0, high)
    drawn = left.imshow(times.numpy(), cmap="viridis", norm=scale, aspect="auto", interpolation="nearest")
    colour_bar(figure, drawn, left, "times the median")
    left.set_title("the largest feature", fontsize=9)
    colours = ListedColormap(FEATURES)
    bounds = BoundaryNorm(np.arange(len(FEATURES) + 1) - 0.5, len(FEATURES))
    right.imshow(kinds, cmap=colours, norm=bounds, aspect="auto", interpolation="nearest")
    right.set_title("which one it is", fontsize=9)
    for axis in left, right:
        block_axis(axis, said, [1] * len(said))
        time_axis(axis, found.t, 5)
    legend = [(FEATURES[place], f"feature {number}") for place, number in enumerate(common)]
    if (kinds == len(FEATURES) - 1).any():
        legend.append((FEATURES[-1], "another"))
    patches = [Patch(color=colour, label=label) for colour, label in legend]
    right.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=SMALL)
    return titled(
        figure,
        "The largest features of the stream",
        "Left: the magnitude of the largest feature over the median of all features and tokens; massive ones are a "
        "thousand times that in large models. Right: one colour in a row is one feature that stays the largest.",
    )


def colour_pictures(
    pictures: torch.Tensor, t: Sequence[float], *, colours: Colours | None = None,
    names: Sequence[str] | None = None, columns: int = 10,
) -> Figure:  # fmt: skip
    """Features as colours that mean the same everywhere: `pictures: step block h w 3`, of `Colours.of`, in [0, 1].

    Steps (noisiest first, at the timesteps `t`) in rows, at most so many `columns` of blocks, evenly spread; of
    `colours` is told how much of the variance is in the picture.
    """
    check_steps(pictures, t)
    said, shown = block_names(pictures.shape[1], names), spread(pictures.shape[1], columns)
    figure, axes = table(len(t), len(shown), pictures.shape[2:4], titles=0.12)
    for line, at, row in zip(axes, t, pictures[:, shown], strict=True):
        for axis, picture in zip(line, row.cpu().numpy(), strict=True):
            show(axis, picture, "")
        row_name(line[0], f"t = {said_t(at)}")
    for axis, block in zip(axes[0], shown, strict=True):
        axis.set_title(said[block], fontsize=SMALL)
    share = "" if colours is None else f" They hold {colours.explained.sum():.0%} of the variance."
    return titled(
        figure,
        "Features after each block as colours",
        "Red, green and blue are the three directions in which tokens differ most, the same in all panels: tokens of "
        f"one colour are alike.{share} See where the picture's parts come apart.",
    )


def token_similarity_overlay(
    image, similarity: torch.Tensor, patch: int, grid: tuple[int, int], *, names: Sequence[str] | None = None
) -> Figure:
    """How alike a patch is to all others after each block: `similarity: block n`, of `token_similarity`, on one scale.

    The scale runs from the smallest cosine to 1; the patch is outlined, and under each name is the median. Raises
    ValueError when the parts do not fit each other.
    """
    said = block_names(len(similarity), names)
    maps = {f"{name}\nmedian {row.median():.2f}": row for name, row in zip(said, similarity, strict=True)}
    scale = similarity.min().item(), 1.0
    figure = overlays(image, in_lines(maps), grid, "cosine of the features", scale=scale, outlined=patch)
    return titled(
        figure,
        f"How alike patch {patch} (outlined) is to the others",
        "Bright tokens have nearly the features of the outlined one. Where all are bright all tokens have much in "
        "common: then the differences are what to read.",
    )


def check_steps(values: torch.Tensor, t: Sequence[float]) -> None:
    """Raise ValueError unless there is a timestep for every step."""
    if len(values) != len(t):
        raise ValueError(f"there are {len(values)} steps, and {len(t)} timesteps for them")
