"""Samples beside the training pictures that are nearest to them, on the scale of real unseen pictures."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from dit_lab.inside.neighbours import Memorised, Neighbours
from dit_lab.inside.plots.base import BLUE, ORANGE, SMALL, as_pictures, bare, framed, show, titled

ROWS = 10  # samples in a figure


def neighbours_table(
    samples: torch.Tensor, found: Neighbours | Memorised, *, names: Sequence[str] | None = None, of: str = "pixels"
) -> Figure:
    """`samples: b c h w`, each beside the training pictures nearest to it, their distances under them.

    Of `Memorised` also the distances that test pictures have to their nearest, with each sample's marked. The first 10
    samples are drawn; `names` are the classes', `of` says what distances are between ("pixels", "features"). Raises
    ValueError when there are not as many samples as rows.
    """
    near = found.neighbours if isinstance(found, Memorised) else found
    if len(samples) != len(near.distances):
        raise ValueError(f"there are {len(samples)} samples, and neighbours of {len(near.distances)}")
    rows, k = min(len(samples), ROWS), near.distances.shape[1]
    ratio, scaled = samples.shape[2] / samples.shape[3], isinstance(found, Memorised)
    side = min(1.0, 4.6 / (k + 1), 7.5 / rows / ratio)
    wide = (k + 1) * max(side, 0.75) + 0.8
    size = (max(wide + (4.2 if scaled else 0.4), 5.5), max(rows * (side * ratio + 0.42) + 1.2, 4 if scaled else 0))
    figure = Figure(figsize=size, layout="constrained")
    left, *right = figure.add_gridspec(1, 2 if scaled else 1, width_ratios=[wide, 4.2] if scaled else None)
    axes = left.subgridspec(rows, k + 1).subplots()
    axes = axes.reshape(rows, k + 1)
    for row, line in enumerate(axes):
        for axis, picture in zip(
            line, as_pictures(torch.cat([samples[row : row + 1].float(), near.pictures[row]])), strict=True
        ):
            bare(axis)
            framed(axis)
            show(axis, picture, "")
        share = f"\n{found.share[row]:.0%} nearer" if scaled else ""
        line[0].set_title(f"sample {row}{share}", fontsize=SMALL, color=BLUE)
        for place, axis in enumerate(line[1:]):
            label = near.labels[row, place].item()
            named = "" if label < 0 else f"{label if names is None else names[label]}, "
            axis.set_title(f"{named}{near.distances[row, place]:.3g}", fontsize=SMALL)
    if right:
        draw_scale(figure.add_subplot(right[0]), found, rows, of)
    caption = f"Above each its distance, the root mean square of {of}, the nearest first."
    if scaled:
        kind = " of its class" if (found.compared < len(found.test_distances)).any() else ""
        caption += (
            f" Under a sample's name the share of the test pictures{kind} that are nearer to their nearest than it is: "
            "near 0 % it is nearer than unseen pictures come, memorised."
            + (" The histogram is of all classes together." if kind else "")
        )
    return titled(figure, "Samples and the training pictures nearest to them", caption)


def draw_scale(axis, found: Memorised, rows: int, of: str) -> None:
    """How far test pictures are from their nearest, as a histogram, and the samples as numbered lines."""
    axis.hist(found.test_distances.numpy(), bins=40, color="#bbbbbb", label="test pictures")
    nearest = found.neighbours.distances[:rows, 0].tolist()
    top = 1.25 * axis.get_ylim()[1]  # with room for the legend
    axis.set_ylim(0, top)
    for row, far in enumerate(nearest):
        axis.axvline(far, color=BLUE, linewidth=1.2, label="a sample" if row == 0 else None)
        axis.annotate(str(row), (far, top * (0.97 - 0.055 * row)), (2, 0), textcoords="offset points",
                      fontsize=SMALL, color=BLUE)  # fmt: skip
    axis.axvline(0, color=ORANGE, linewidth=1, linestyle=":", label="a copy")
    axis.set_xlabel(f"distance to the nearest training picture ({of})", fontsize=9)
    axis.set_ylabel("test pictures", fontsize=9)
    axis.tick_params(labelsize=SMALL)
    axis.legend(fontsize=SMALL, loc="upper right", framealpha=1)
