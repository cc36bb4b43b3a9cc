"""Pictures side by side: the way from noise to picture, tables and grids of samples."""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from dit_lab.inside.plots.base import NOISE_REACH, as_pictures, panels, show
from dit_lab.inside.trajectory import Trajectory


def trajectory_strip(trajectory: Trajectory, sample: int = 0, frames: int = 8) -> Figure:
    """One sample's way from noise to picture: x_t, predicted x0 and predicted noise in rows, timesteps in columns."""
    chosen = torch.linspace(0, len(trajectory.t) - 1, min(frames, len(trajectory.t))).round().int().tolist()
    rows = {"$x_t$": trajectory.x[chosen, sample], "predicted $x_0$": trajectory.x0[chosen, sample]}
    rows["predicted noise\n(black -3, white 3)"] = trajectory.eps[chosen, sample] / NOISE_REACH
    options, label = trajectory.options, trajectory.labels[sample]
    what = "no label" if label == trajectory.config.num_classes else f"class {label}"
    about = f"{options['sampler'].upper()}, {options['steps']} steps, guidance {options['cfg_scale']:g}"
    return picture_table(rows, [f"t = {trajectory.t[step]}" for step in chosen], f"From noise to {what}: {about}")


def picture_table(rows: dict[str, torch.Tensor], columns: Sequence | None = None, title: str = "") -> Figure:
    """Pictures side by side that differ in one thing a row: `rows` maps a name to `b c h w` in [-1, 1].

    All rows are b long, and `columns` are the b names above them. Raises ValueError when their numbers differ.
    """
    lengths = {name: len(pictures) for name, pictures in rows.items()} | ({"columns": len(columns)} if columns else {})
    if len(set(lengths.values())) != 1:
        raise ValueError(f"a table's rows and columns must be equally long, not {lengths}")
    number = next(iter(lengths.values()))
    figure, axes = panels(len(rows), number, 1.25 if number < 9 else 1.0)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, as_pictures(pictures), strict=True):
            show(axis, picture, "")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axis, name in zip(axes[0], columns or (), strict=False):
        axis.set_title(str(name), fontsize=9)
    figure.suptitle(title)
    return figure


def sample_grid(images: torch.Tensor, labels: Sequence | None = None, title: str = "") -> Figure:
    """`images: b c h w` in [-1, 1] on a grid about as high as wide, each under its label."""
    columns = math.ceil(math.sqrt(len(images)))
    figure, axes = panels(math.ceil(len(images) / columns), columns, 1.25)
    names = [""] * len(images) if labels is None else labels
    for axis, picture, name in zip(axes.flat, as_pictures(images), names, strict=False):
        show(axis, picture, str(name))
    figure.suptitle(title or f"{len(images)} samples")
    return figure
