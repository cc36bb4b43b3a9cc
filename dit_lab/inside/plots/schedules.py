"""Noise schedules side by side, and how well a network predicts along them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from dit_lab.diffusion import Process
from dit_lab.inside.plots.base import CATEGORIES, GREY, SMALL, titled

STYLES = "-", "--", "-.", ":"
LEAST = 1e-5  # of a level, where a logarithm would end the scale


def style_of(number: int) -> str:
    """A line's style, another beside each colour: no line is told by its colour alone, and none is drawn twice."""
    return STYLES[(number + number // len(CATEGORIES)) % len(STYLES)]


def schedule_plot(processes: Mapping[str, Process]) -> Figure:
    """What is left of the picture at each step of some processes, by name: a^2 (alpha_bar), log SNR, and sigma = s.

    The steps are those of x_t = a x0 + s eps, from the picture, 0, to noise, 1. Raises ValueError without a process.
    """
    if not processes:
        raise ValueError("give at least one process, by the name that the legend is to show")
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    for number, (name, process) in enumerate(processes.items()):
        count = len(process.timesteps)
        a, s = np.array([process.levels(i) for i in range(count)]).T
        place = np.arange(1, count + 1) / count
        snr = 2 * (np.log(np.maximum(a, LEAST)) - np.log(np.maximum(s, LEAST)))
        for axis, values in zip(axes, (a**2, snr, s), strict=True):
            colour = CATEGORIES[number % len(CATEGORIES)]
            axis.plot(place, values, style_of(number), color=colour, label=name)
    named = ("share of the picture's power, a² (alpha_bar)", "log of signal to noise, ln(a² / s²)", "noise, s (sigma)")
    for axis, label in zip(axes, named, strict=True):
        axis.set_xlabel("share of the steps, 0 picture to 1 noise", fontsize=SMALL)
        axis.set_ylabel(label, fontsize=SMALL)
        axis.tick_params(labelsize=SMALL)
        axis.grid(alpha=0.3)
    axes[1].axhline(0, color=GREY, linewidth=0.8)
    axes[0].legend(frameon=False, fontsize=SMALL)
    return titled(
        figure,
        "Noise schedules",
        "Where ln(a² / s²) is 0 there is as much noise as picture. See which schedule spends most of its steps there, "
        "and which on pictures that are nearly clean, or nearly gone.",
    )


def loss_by_timestep_plot(
    curves: Mapping[str, np.ndarray], times: Sequence[float], *, what: str = "mean squared error"
) -> Figure:
    """Errors of `loss_by_timestep`, each `seed time`, by name: the mean over seeds, and their range as a band.

    Raises ValueError on curves that have not a value a timestep.
    """
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        rows = np.atleast_2d(values)
        if rows.shape[1] != len(times):
            raise ValueError(f"{name} has {rows.shape[1]} values for {len(times)} timesteps")
        colour = CATEGORIES[number % len(CATEGORIES)]
        style = style_of(number)
        axis.plot(times, rows.mean(0), style, color=colour, marker=".", label=name)
        axis.fill_between(times, rows.min(0), rows.max(0), color=colour, alpha=0.2, linewidth=0)
    axis.set(yscale="log")
    axis.set_xlabel("timestep t, as the network is told it (left: little noise)", fontsize=9)
    axis.set_ylabel(f"{what} (log)", fontsize=9)
    axis.tick_params(labelsize=SMALL)
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, fontsize=SMALL)
    return titled(
        figure,
        "How well noise levels are predicted",
        "Training draws all timesteps alike, so the loss is the mean of such a curve. See where one network is better "
        "than another: with little noise it is details, with much of it the whole.",
    )
