"""The path of a run: what guidance adds, how far predicted x0 moves, in which frequencies, at which noise."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from dit_lab.inside.path import Changes, ChannelNumbers, GuidanceField, PathSpectra
from dit_lab.inside.plots.base import (
    BLUE,
    CATEGORIES,
    GREY,
    ORANGE,
    SMALL,
    bare,
    colour_bar,
    one_channel,
    plain_log,
    reach_of,
    said_channel,
    said_t,
    show_signed,
    spread,
    time_axis,
    titled,
)

CHANNELS = 4  # more of them are not drawn apart


def guidance_strip(found: GuidanceField, *, frames: int = 8, channel: int | None = None) -> Figure:
    """What the label changes in eps: the field at some steps on one scale, and its norm and angle to eps at all.

    Steps that were sampled without guidance are shaded. `channel` is drawn, None being the mean over all.
    """
    shown = spread(len(found.t), frames)
    fields = one_channel(found.field[shown].float(), channel)
    side = 8.0 / len(shown)
    high = side * min(fields.shape[1] / fields.shape[2], 2)
    figure = Figure(figsize=(9.4, high + 3.6), layout="constrained")
    above, below = figure.add_gridspec(2, 1, height_ratios=[high + 0.2, 2.2])
    axes = [figure.add_subplot(place) for place in above.subgridspec(1, len(shown))]
    reach = reach_of(fields)
    for axis, step, field in zip(axes, shown, fields, strict=True):
        bare(axis)
        drawn = show_signed(axis, field, reach, f"t = {said_t(found.t[step])}")
    colour_bar(figure, drawn, axes, "in eps")
    norm, angle = (figure.add_subplot(place) for place in below.subgridspec(1, 2))
    norm.plot(found.norm, color=BLUE, linewidth=2)
    norm.set(ylim=(0, None))
    norm.set_ylabel("norm (root mean square)", fontsize=9)
    angle.plot(found.angle, color=BLUE, linewidth=2)
    angle.axhline(90, color=GREY, linewidth=0.8, linestyle=":")
    angle.set_ylabel("angle to eps (degrees)", fontsize=9)
    for axis in norm, angle:
        shade_unguided(axis, found.active)
        time_axis(axis, found.t)
        axis.tick_params(axis="y", labelsize=SMALL)
    return titled(
        figure,
        "What the label changes: eps with it less eps without",
        "Orange is noise that the network sees in a pixel only because of the label, so it is taken away there: the "
        "picture gets darker; blue the other way round. At 90 degrees the label asks for something else than more of "
        "the same. Shaded: sampled without guidance." + said_channel(found.field, channel),
    )


def shade_unguided(axis, active: torch.Tensor) -> None:
    """Grey behind the steps that were taken without guidance."""
    for step in torch.nonzero(~active).flatten().tolist():
        axis.axvspan(step - 0.5, step + 0.5, color="#eeeeee", zorder=0, linewidth=0)


def x0_changes_plot(found: Changes) -> Figure:
    """How far predicted x0 moves at each step, all of it and, where there are several, each channel apart."""
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axis = figure.subplots()
    count = found.channels.shape[1]
    if count > 1:
        for channel, moved in enumerate(found.channels.T):
            told = {"color": channel_colour(channel, count), "label": f"channel {channel}" if count <= 8 else None}
            axis.plot(moved, linewidth=1, **told)
    axis.plot(found.whole, color="black" if count > 1 else BLUE, linewidth=2.2, label="all of x0")
    axis.set_yscale("log", nonpositive="mask")
    plain_log(axis.yaxis, *axis.get_ylim())
    axis.tick_params(axis="y", labelsize=SMALL)
    axis.set_ylabel("moved by (root mean square, log)", fontsize=9)
    time_axis(axis, found.t, 7)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=SMALL)
    return titled(
        figure,
        "How far predicted x0 moves from one step to the next",
        "Where the curve is high the picture is being decided; where it is low it is settled. Several humps are "
        "several decisions.",
    )


def x0_channels_plot(found: ChannelNumbers, t: Sequence[float]) -> Figure:
    """Each channel of predicted x0 in numbers over a run: mean, standard deviation, and lowest and highest value."""
    count = found.mean.shape[1]
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.8, 2.3 * columns), 1.3 + 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    steps = np.arange(len(t))
    for channel, axis in enumerate(axes.flat):
        if channel >= count:
            axis.set_axis_off()
            continue
        mean, std, low, high = (values[:, channel].float().numpy() for values in found)
        axis.fill_between(steps, low, high, color="#dddddd", linewidth=0, label="lowest to highest")
        axis.fill_between(steps, mean - std, mean + std, color=BLUE, alpha=0.35, linewidth=0, label="± 1 deviation")
        axis.plot(mean, color=BLUE, linewidth=1.8, label="mean")
        axis.axhline(0, color=GREY, linewidth=0.6, linestyle=":")
        axis.set_title(f"channel {channel}" if count > 1 else "the only channel", fontsize=9)
        time_axis(axis, t, 3)
        axis.tick_params(axis="y", labelsize=SMALL)
        axis.set_xlabel("")
    for axis in axes[:, 0]:
        axis.set_ylabel("predicted x0", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("timestep t", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return titled(
        figure,
        "The values of predicted x0 over the run",
        "The band widens as the picture takes shape. Channels of a latent need not be alike, nor stay within −1 and 1.",
    )


def path_spectra_plot(found: PathSpectra, *, frames: int = 8) -> Figure:
    """Power over frequency of x_t (left) and of predicted x0 (right) at some steps, a row for each channel (up to 4).

    Dotted in the left panels is what the process makes of the finished sample at the same timesteps.
    """
    shown, count = spread(len(found.t), frames), min(found.x.shape[1], CHANNELS)
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(shown)))
    figure = Figure(figsize=(8.8, 1.5 + 2.3 * count + (0.6 if count == 1 else 0)), layout="constrained")
    axes = figure.subplots(count, 2, squeeze=False, sharex=True)
    for channel, line in enumerate(axes):
        for step, colour in zip(shown, colours, strict=True):
            line[0].plot(found.frequency, found.x[step, channel], color=colour, linewidth=1.4)
            line[0].plot(found.frequency, found.noised[step, channel], ":", color=colour, linewidth=1)
            line[1].plot(found.frequency, found.x0[step, channel], color=colour, linewidth=1.4)
        of = f" of channel {channel}" if found.x.shape[1] > 1 else ""
        for axis, what in zip(line, ("$x_t$", "predicted $x_0$"), strict=True):
            axis.set_title(what + of, fontsize=9)
            axis.set_xscale("log")
            axis.set_yscale("log", nonpositive="mask")
            axis.tick_params(labelsize=SMALL)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("power (log)", fontsize=9)
    marks = [2**-power for power in range(1, 8) if 2**-power >= float(found.frequency[0]) * 0.99]
    for axis in axes.flat:
        axis.set_xticks(marks, [f"1/{round(1 / mark)}" for mark in marks])
        axis.minorticks_off()
        plain_log(axis.yaxis, *axis.get_ylim())
    for axis in axes[-1]:
        axis.set_xlabel("frequency (cycles per pixel, log)", fontsize=9)
    bar = figure.colorbar(ScalarMappable(Normalize(-0.5, len(shown) - 0.5), ListedColormap(colours)), ax=axes)
    bar.set_ticks(range(len(shown)), labels=[said_t(found.t[step]) for step in shown], fontsize=SMALL)
    bar.set_label("timestep t")
    bar.ax.invert_yaxis()
    more = f" The first {count} of {found.x.shape[1]} channels are drawn." if found.x.shape[1] > count else ""
    return titled(
        figure,
        "Coarse before fine: the power of each frequency along the path",
        "Noise is flat, a picture falls off to the right: it rises out of the noise at the coarse end first. Dotted: "
        f"the finished sample noised to the same timestep; where curves leave it the run was somewhere else.{more}",
    )


def signal_to_noise_plot(ratio: torch.Tensor, t: Sequence[float]) -> Figure:
    """The signal-to-noise ratio of the process at each step of a run, `ratio: step`, as `signal_to_noise` gives it."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.plot(ratio.numpy(), ".-", color=ORANGE, linewidth=1.8, markersize=4)
    axis.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_yscale("log", nonpositive="mask")
    axis.set_ylabel("$a^2 / s^2$ (log)", fontsize=9)
    time_axis(axis, t, 7)
    axis.grid(alpha=0.3)
    return titled(
        figure,
        "Signal to noise at each step",
        "A dot a step. Below the dotted line there is more noise than picture; steps lie dense where the schedule "
        "gives its time.",
    )


def channel_colour(channel: int, count: int):
    """A channel's colour: of few those that colour-blind eyes tell apart, of many faint grey."""
    return CATEGORIES[channel] if count <= len(CATEGORIES) else "#bbbbbb"
