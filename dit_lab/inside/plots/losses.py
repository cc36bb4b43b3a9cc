"""How training went."""

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass

import numpy as np
from matplotlib.figure import Figure

from dit_lab.inside.plots.base import BLUE, GREEN, ORANGE, panels


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


def draw_curve(axis, steps, values, label: str, colour: str, style: str = "-") -> None:
    """One curve; a long one faint, with its moving mean over a fiftieth of it on top."""
    window = len(values) // 50
    if window < 2:
        axis.plot(steps, values, style, color=colour, label=label, marker="." if len(values) == 1 else None)
        return
    axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
    mean = np.convolve(values, np.full(window, 1 / window), "valid")
    axis.plot(steps[window - 1 :], mean, style, color=colour, label=label)
