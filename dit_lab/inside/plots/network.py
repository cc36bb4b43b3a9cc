"""The network over depth and time: modulation vectors and the spectra of features."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from dit_lab.inside.plots.base import panels
from dit_lab.inside.spectrum import Spectra


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
        if t is not None:
            marks = sorted({0, len(t) // 2, len(t) - 1})
            axis.set_xticks(marks, [str(t[mark]) for mark in marks])
            axis.set_xlabel("timestep t")
        figure.colorbar(drawn, ax=axis, label="root mean square")
    figure.suptitle("Modulation: root mean square of each block's vector")
    return figure


def spectrum(models: dict[str, Spectra]) -> Figure:
    """How coarse the features of models are: their Fourier power by depth, and its low-frequency share over a run.

    One row a model. Left: a curve a block at the middle timestep, each at its share of the power in the first ring, so
    that slopes compare; right: block by timestep. Frequencies are in cycles per pixel of the input.
    """
    figure, axes = panels(len(models), 2, 3.2, grid=False)
    # One scale for all models, so that rows compare.
    least = min(relative(power, seen).min().item() for seen in models.values() for power in seen.power)
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
