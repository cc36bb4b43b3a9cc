"""Runs that were watched, on paper: one with its curves, or the samples of several side by side."""

import io
from base64 import b64decode

import numpy as np
import torch
from einops import rearrange, repeat
from matplotlib.figure import Figure
from PIL import Image

from dit_lab.inside.plots import BLUE, as_pictures, picture_table
from dit_lab.inside.plots.base import plain_log

LOOKS = 6  # rows a run
MOST_NAMED = 8  # blocks that have their name beside their curve


def still(states: list[dict], looks: int = LOOKS):
    """The samples of `recorded` runs at a few steps, a row each, as a Matplotlib figure.

    Raises ValueError where no run was looked at.
    """
    if not any(state["looks"] for state in states):
        raise ValueError("there is no look in these states to draw")
    rows = {}
    for number, state in enumerate(states, 1):
        chosen = np.unique(np.linspace(0, len(state["looks"]) - 1, looks).round().astype(int))
        run = f"run {number}, " if len(states) > 1 else ""
        for look in (state["looks"][place] for place in chosen):
            rows[f"{run}step {look['step']}"] = cut(look["samples"], len(state["fixed"]["names"]))
    told = "; ".join(f"run {number}: {state['name']}" for number, state in enumerate(states, 1))
    return picture_table(rows, states[0]["fixed"]["names"], f"Samples from the same noise while it trains\n{told}")


def drawn(state: dict) -> Figure:
    """One of `recorded` runs: its loss and gates (or what blocks add) by step, and samples at steps that double.

    Raises ValueError where the run was not looked at.
    """
    if not state["looks"]:
        raise ValueError("there is no look in this state to draw")
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    loss, gauge = left.subplots(2, 1, sharex=True)
    loss.plot(state["loss"]["step"], state["loss"]["raw"], color=BLUE, linewidth=0.7, alpha=0.5)
    loss.plot(state["loss"]["step"], state["loss"]["smooth"], color=BLUE)
    loss.set(title=f"Step {state['step']} of {state['steps']}", ylabel="mean squared error\n(log scale)", yscale="log")
    plain_log(loss.yaxis, *loss.get_ylim())
    first = state["gauges"][0]
    gauge.plot(state["looked"], first["values"], label=state["fixed"]["blocks"])
    if len(state["fixed"]["blocks"]) <= MOST_NAMED:
        gauge.legend(frameon=False, fontsize=7, ncols=2)
    gauge.set(xlabel="training step", ylabel=f"{first['title'].lower()} of each block\n(root mean square)")
    samples(right.subplots(), state)
    return figure


def samples(axis, state: dict) -> None:
    """Samples of a run at its end, halfway, a quarter of the way and so on: a row a look, a column a class."""
    names, last = state["fixed"]["names"], state["looks"][-1]["step"]
    by_step = {look["step"]: look for look in state["looks"]}
    wanted = [0, *(last / 2**halved for halved in range(LOOKS - 1))]
    looks = [by_step[step] for step in sorted({min(by_step, key=lambda step: abs(step - each)) for each in wanted})]
    pictures = torch.stack([cut(look["samples"], len(names)) for look in looks])
    side = pictures.shape[-1] + 1
    lined = torch.nn.functional.pad(pictures, (0, 1, 0, 1), value=1)  # a white line between
    axis.imshow(as_pictures(rearrange(lined, "look b c h w -> 1 c (look h) (b w)"))[0], interpolation="nearest")
    axis.set(xlabel="class asked for", ylabel="training step", title="Samples from one noise")
    axis.set_xticks(side * np.arange(len(names)) + side / 2, names)
    axis.set_yticks(lined.shape[-2] * (np.arange(len(looks)) + 0.5), [look["step"] for look in looks])


def cut(atlas: dict, count: int) -> torch.Tensor:
    """The frames of an atlas again: `-> b 3 h w` in [-1, 1]."""
    picture = np.asarray(Image.open(io.BytesIO(b64decode(atlas["uri"].partition(",")[2]))))
    picture = torch.tensor(picture if picture.ndim == 3 else repeat(picture, "h w -> h w c", c=3)).float()
    frames = rearrange(picture / 127.5 - 1, "(r h) (l w) c -> (r l) c h w", h=atlas["height"], w=atlas["width"])
    return frames[:count]
