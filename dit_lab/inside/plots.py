"""Tensors to matplotlib figures: trajectories, samples, attention, modulation, spectra and losses.

Every function returns a `Figure` that belongs to nobody: no pyplot, so no state, no windows and no leaks in a server. A
notebook shows it as a picture after `%matplotlib inline`.
Colour maps are viridis and cividis, which colour-blind readers see too.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass

import numpy as np
import torch
from einops import rearrange
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dit_lab.data import Pixels
from dit_lab.inside.geometry import token_box
from dit_lab.inside.spectrum import Spectra
from dit_lab.inside.trajectory import Trajectory

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


def attention_overlay(image, row_map: torch.Tensor, query: int, grid: tuple[int, int]) -> Figure:
    """Where a patch looks: `image: c h w` in [-1, 1] or `h w 3` uint8, `row_map: head j` (or `j`), one panel a head.

    The patch is outlined, and all panels share one scale. Where the condition joins the sequence the map is longer than
    the grid: a panel's title then says what share goes there. Raises ValueError when the parts do not fit each other.
    """
    picture = np.asarray(image) if image.dtype in (np.uint8, torch.uint8) else as_pictures(image[None])[0]
    rows = torch.atleast_2d(row_map).float().cpu()
    patch = patch_side(picture.shape[:2], grid, rows.shape[1])
    maps = rearrange(rows[:, : math.prod(grid)], "head (h w) -> head h w", h=grid[0]).numpy()
    names = [f"head {number}" for number in range(len(rows))] if len(rows) > 1 else ["attention"]
    if len(rows) > 1:
        names, maps, rows = ["mean", *names], [maps.mean(0), *maps], torch.cat([rows.mean(0, keepdim=True), rows])
    top, left, height, width = token_box(query, grid, patch)
    columns = math.ceil((len(names) + 1) / math.ceil((len(names) + 1) / 6))
    figure, axes = panels(math.ceil((len(names) + 1) / columns), columns, 1.6)
    show(axes.flat[0], picture, "picture")
    for axis, name, row, weights in zip(axes.flat[1:], names, rows, maps, strict=False):
        share = f"\n{row[weights.size :].sum():.0%} on condition" if len(row) > weights.size else ""
        show(axis, picture, name + share)
        extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
        drawn = axis.imshow(weights, cmap="viridis", vmin=0, vmax=np.max(maps), alpha=0.75, extent=extent)
    for axis in axes.flat[: len(names) + 1]:
        axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **OUTLINE))
    figure.colorbar(drawn, ax=axes, label="attention weight").solids.set_alpha(1)
    figure.suptitle(f"Where patch {query} (outlined) attends")
    return figure


def modulation_heat_map(
    norms: dict[str, torch.Tensor], t: Sequence[int] | None = None, names: Sequence[str] | None = None
) -> Figure:
    """`norms`: part name -> block step, as `Trajectory.modulation_norms` gives; one panel and scale a part.

    Attention's parts are above, the MLP's below. With the timesteps `t` the steps are labelled by them, with `names`
    the blocks (a config's `block_names`).
    """
    figure, axes = panels(2, math.ceil(len(norms) / 2), 2.4, grid=False)
    for axis, (part, norm) in zip(axes.flat, norms.items(), strict=False):
        drawn = axis.imshow(norm.numpy(), cmap="cividis", vmin=0, aspect="auto", interpolation="nearest")
        axis.set(title=part.replace("_", " "), xlabel="step, noisiest first", ylabel="block")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.get_major_locator().set_params(integer=True)
        if names is not None:
            axis.set_yticks(range(len(names)), names, fontsize=7)
            axis.set_ylabel("")
        if t is not None:
            marks = sorted({0, len(t) // 2, len(t) - 1})
            axis.set_xticks(marks, [str(t[mark]) for mark in marks])
            axis.set_xlabel("timestep t")
        figure.colorbar(drawn, ax=axis)
    figure.suptitle("Modulation: root mean square of each block's vector")
    return figure


def loss_curve(log: Sequence) -> Figure:
    """Training losses over steps, on log axes; `log` is a list of `TrainStep` or of the dicts in a run's log.

    Long logs are drawn with a moving mean. Without learned variance there is no bound to show. Raises ValueError on an
    empty log.
    """
    if not len(log):
        raise ValueError("there is no training step in the log to draw")
    rows = [asdict(row) if is_dataclass(row) else row for row in log]
    steps, curves = [row["step"] for row in rows], {name: [row[name] for row in rows] for name in ("loss", "mse", "vb")}
    bounded = any(curves["vb"])
    figure, axes = panels(1, 2 if bounded else 1, 3.2, grid=False)
    draw_curve(axes[0, 0], steps, curves["mse"], "mse (simple loss)", BLUE)
    if bounded:
        draw_curve(axes[0, 0], steps, curves["loss"], "loss = mse + vb", ORANGE, "--")
        draw_curve(axes[0, 1], steps, curves["vb"], "vb (bits per dimension)", GREEN)
    for axis in axes.flat:
        axis.set(xlabel="training step", yscale="log", ylabel="value (log scale)")
        axis.grid(alpha=0.3, which="both")
        axis.legend(frameon=False)
    figure.suptitle("Training losses")
    return figure


def spectrum(models: dict[str, Spectra]) -> Figure:
    """How coarse the features of models are: their Fourier power by depth, and its low-frequency share over a run.

    One row a model. Left: a curve a block at the middle timestep, each at its share of the power in the first ring, so
    that slopes compare; right: block by timestep. Frequencies are in cycles per pixel of the input.
    """
    figure, axes = panels(len(models), 2, 3.2, grid=False)
    # One scale for all models, so that rows compare.
    least = min(min(relative(power, seen).min() for power in seen.power) for seen in models.values())
    most = math.ceil(10 * max(seen.low.max() for seen in models.values())) / 10
    for (curves, shares), (name, seen) in zip(axes, models.items(), strict=True):
        middle, colours = len(seen.t) // 2, colormaps["viridis"](np.linspace(0, 0.9, len(seen.names)))
        for frequency, power, colour in zip(seen.frequency, seen.power, colours, strict=True):
            curves.plot(frequency, relative(power, seen), ".-", color=colour, linewidth=1)
        curves.set(title=f"{name}: power at t = {seen.t[middle]}", xlabel="frequency (cycles per pixel)")
        curves.set(ylabel="relative to the lowest (log)", yscale="log", xscale="log")
        curves.set_ylim(0.8 * least, 1.2)
        levels = [level for level in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4) if level >= 0.8 * least]
        curves.set_yticks(levels, [f"{level:g}" for level in levels])
        marks = [2**-power for power in range(1, 7) if 2**-power >= float(seen.frequency[0][0])]
        curves.set_xticks(marks, [f"1/{round(1 / mark)}" for mark in marks], minor=False)
        curves.minorticks_off()
        curves.grid(alpha=0.3)
        depth = ScalarMappable(Normalize(0, len(seen.names) - 1), ListedColormap(colours))
        figure.colorbar(depth, ax=curves, label="block", ticks=[0, len(seen.names) - 1])
        drawn = shares.imshow(
            seen.low.numpy(), cmap="cividis", vmin=0, vmax=most, aspect="auto", interpolation="nearest"
        )
        shares.set(title=f"{name}: share of low frequencies", xlabel="timestep t", ylabel="")
        shares.set_yticks(range(len(seen.names)), seen.names, fontsize=7)
        marks = sorted({0, middle, len(seen.t) - 1})
        shares.set_xticks(marks, [str(seen.t[mark]) for mark in marks])
        noise = "–".join(sorted({f"{share:.2f}" for share in (min(seen.noise), max(seen.noise))}))
        figure.colorbar(drawn, ax=shares, label=f"share (white noise: {noise})")
    figure.suptitle("Fourier power of the features after each block")
    return figure


def relative(power, seen: Spectra):
    """A block's power at the middle timestep, as a share of that in the first ring: `step f -> f`."""
    middle = power[len(seen.t) // 2]
    return middle / middle[0]


def draw_curve(axis, steps, values, label: str, colour: str, style: str = "-") -> None:
    """One curve; a long one faint, with its moving mean over a fiftieth of it on top."""
    window = len(values) // 50
    if window < 2:
        axis.plot(steps, values, style, color=colour, label=label, marker="." if len(values) == 1 else None)
        return
    axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
    mean = np.convolve(values, np.full(window, 1 / window), "valid")
    axis.plot(steps[window - 1 :], mean, style, color=colour, label=label)


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
