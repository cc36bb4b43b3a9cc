"""What an edit did to a run, beside what its controls did."""

from collections.abc import Sequence
from dataclasses import fields

import torch
from matplotlib.figure import Figure

from dit_lab.inside.controls import Effect
from dit_lab.inside.editing import Edit
from dit_lab.inside.plots.base import (
    BLUE,
    SMALL,
    as_pictures,
    colour_bar,
    one_channel,
    plain_log,
    reach_of,
    row_name,
    said_channel,
    said_t,
    show,
    show_signed,
    spread,
    table,
    time_axis,
    titled,
)
from dit_lab.inside.trajectory import Trajectory

NAMED = 24  # more controls than this have no names beside their dots
SHOWN = 6  # numbers of a list that are told


def effect_plot(found: Effect, t: Sequence[float], *, steps: Sequence[int] | None = None) -> Figure:
    """How far an edit moved a run, thick, and its controls, thin and grey: each step's x0, and the final picture.

    `t` are the run's timesteps, `steps` those at which the edit was active, shaded; None is all of them. Raises
    ValueError when there are not as many timesteps as the effect has steps.
    """
    if len(t) != len(found.x0):
        raise ValueError(f"the effect has {len(found.x0)} steps, and there are {len(t)} timesteps for them")
    named = len(found.controls) <= NAMED
    high = max(4.0, 0.19 * len(found.controls) + 1.8) if named else 4.0
    figure = Figure(figsize=(9.4, high), layout="constrained")
    over, last = figure.subplots(1, 2, width_ratios=[1.5, 1])
    if steps is not None:
        over.axvspan(min(steps) - 0.5, max(steps) + 0.5, color="#eeeeee", zorder=0, label="edit active")
    for number, moved in enumerate(found.x0_controls):
        over.plot(moved, color="#999999", linewidth=0.8, label="a control" if number == 0 else None)
    over.plot(found.x0, color=BLUE, linewidth=2.5, label="the edit")
    time_axis(over, t, 6)
    over.set_yscale("log", nonpositive="mask")  # before the edit is active all are 0
    plain_log(over.yaxis, *over.get_ylim())
    over.set_ylabel("x0 moved by (root mean square, log)", fontsize=9)
    over.tick_params(axis="y", labelsize=SMALL)
    over.grid(alpha=0.3)
    over.set_title("on the way", fontsize=9)
    over.legend(frameon=False, fontsize=SMALL)
    draw_ranks(last, found, named)
    title = f"What {said_edit(found.edit)} does: rank {found.rank} of {1 + len(found.controls)}"
    return titled(
        figure,
        title,
        "How far the run moved from the untouched one. Controls are the same kind and size of edit at random other "
        "places: only where the edit stands out from them does its place matter.",
    )


def draw_ranks(axis, found: Effect, named: bool) -> None:
    """How far each moved the final picture, a row and a dot each, the furthest above."""
    moved = [(found.picture, found.edit, True)]
    moved += [(far, each, False) for far, each in zip(found.picture_controls.tolist(), found.controls, strict=True)]
    moved.sort(key=lambda row: (-row[0], row[2]))
    for row, (far, _, ours) in enumerate(moved):
        axis.plot([0, far], [row, row], color=BLUE if ours else "#bbbbbb", linewidth=2.5 if ours else 0.8)
        axis.plot(far, row, "o", color=BLUE if ours else "#999999", markersize=8 if ours else 5)
    axis.set_xlabel("picture moved by (root mean square)", fontsize=9)
    axis.set(xlim=(0, None), ylim=(len(moved) - 0.5, -0.5))
    axis.set_ylabel("edit", fontsize=9)
    axis.set_yticks(range(len(moved)) if named else [])
    if named:
        axis.set_yticklabels([said_edit(each) for _, each, _ in moved], fontsize=7)
    for tick, (_, _, ours) in zip(axis.get_yticklabels(), moved, strict=False):
        tick.set(color=BLUE if ours else "black", fontweight="bold" if ours else "normal")
    axis.set_title("at the end", fontsize=9)
    axis.tick_params(axis="x", labelsize=SMALL)


def said_edit(edit: Edit) -> str:
    """An edit in few words: `Scale(1, "attn", 0.0, heads=[1]) -> "Scale block 1 attn, factor 0, heads 1"`."""
    said = []
    for field in fields(edit):
        value = getattr(edit, field.name)
        if value is None or field.name == "source":
            continue
        if isinstance(value, Sequence) and not isinstance(value, str):
            more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
            value = " ".join(map(str, value[:SHOWN])) + more
        if field.name in ("branch", "part", "what", "kind"):
            said[-1] += f" {value}"
        else:
            said.append(f"{field.name} {value:g}" if isinstance(value, float) else f"{field.name} {value}")
    return f"{type(edit).__name__} {', '.join(said)}"


def effect_pictures(
    trajectory: Trajectory, edited: Trajectory, control: Trajectory | None = None, *, sample: int = 0, frames: int = 6,
    channel: int | None = None, title: str = "An edited run beside the untouched one",
) -> Figure:  # fmt: skip
    """Predicted x0 on the way and the final picture of a run, of the run `edited`, and of one of its controls.

    Beneath each edited row what it changed, in signed colours on one scale. Raises ValueError on runs of another shape.
    """
    rows = {"untouched": trajectory, "edited": edited} | ({} if control is None else {"a control": control})
    if len({run.x0.shape for run in rows.values()}) > 1:
        raise ValueError(f"the runs must be of one shape, not {[tuple(run.x0.shape) for run in rows.values()]}")
    shown = spread(len(trajectory.t), frames)
    pictures = {name: torch.cat([run.x0[shown, sample], run.sample[[sample]]]) for name, run in rows.items()}
    changes = {name: one_channel(each - pictures["untouched"], channel) for name, each in pictures.items()}
    reach = max(map(reach_of, list(changes.values())[1:]))
    figure, axes = table(2 * len(rows) - 1, len(shown) + 1, trajectory.x.shape[-2:], titles=0.12)
    lines, signed = iter(axes), []
    for name, each in pictures.items():
        line = next(lines)
        for axis, picture in zip(line, as_pictures(each), strict=True):
            show(axis, picture, "")
        row_name(line[0], name)
        if name != "untouched":
            signed.append(next(lines))
            drawn = [show_signed(axis, change, reach) for axis, change in zip(signed[-1], changes[name], strict=True)]
            row_name(signed[-1][0], "changed")
    for axis, name in zip(axes[0], [*(f"t = {said_t(trajectory.t[step])}" for step in shown), "final"], strict=True):
        axis.set_title(name, fontsize=9)
    colour_bar(figure, drawn[0], axes, "change of the picture", shrink=0.6)
    caption = (
        "Predicted x0 on the way, and the final picture. Orange is what the edit added to a pixel, blue what it took. "
        "See whether it changes more, or something else, than an edit like it elsewhere."
        + said_channel(trajectory.sample, channel)
    )
    return titled(figure, title, caption)
