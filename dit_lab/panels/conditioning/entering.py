"""How time and label reach the blocks: their modulation, for one class or two, or attention on their tokens."""

import math
from collections.abc import Generator
from dataclasses import replace

import torch
from einops import reduce

from dit_lab.inside import attention_numbers
from dit_lab.inside.run import CONDITION_TOKENS
from dit_lab.inside.trace import attends, modulation_of
from dit_lab.panels.asking import whole
from dit_lab.panels.opened import Opened
from dit_lab.panels.packing import pack
from dit_lab.panels.panel import Progress


def entering(opened: Opened) -> str:
    """Where the condition can be seen: in "modulation", as keys of "cross" or of "attn", or "" nowhere that we know."""
    block, run = opened.model.blocks[0], opened.trajectory
    if modulation_of(block) is not None:
        return "modulation"
    if "cross" in attends(block):
        return "cross"
    return "attn" if run.tokens_of(0) > math.prod(run.grid_of(0)) else ""


def classes(opened: Opened) -> list[list]:
    """Every label that the model takes and its name, the null label last; two of one name are told by their number."""
    config = opened.config
    labels = range(config.num_classes + (config.null_label if config.num_classes else 0))
    names = [opened.label_name(label) for label in labels]
    twice = {name for name in names if names.count(name) > 1}
    return [[label, f"{name} ({label})" if name in twice else name] for label, name in zip(labels, names, strict=True)]


def other_label(opened: Opened, label) -> int | None:
    """A second class to be put beside, None for none. Raises ValueError on one that is not there."""
    if label is None:
        return None
    there = len(classes(opened))
    if not there:
        raise ValueError("This model has no classes, so there is no second one to put beside.")
    return whole("Class", label, 0, there - 1)


def modulation(opened: Opened, sample: int, half: str, beside: int | None) -> dict:
    """The root mean square of each shift, scale and gate, `block step` by part, and beside it that of another class.

    `apart` is that of the difference of both vectors: two can be as large and point elsewhere. Modulation follows from
    timestep and label, so nothing is replayed. Raises ValueError where blocks have none.
    """
    run, model = opened.trajectory, opened.model
    label = run.label(model, sample, half)
    mine = replace(run, labels=[label] * len(run.labels))
    told = {"label": label, "parts": packed(mine.modulation_norms(model))}
    if beside is None:
        return told
    other = replace(run, labels=[beside] * len(run.labels))
    return told | {"beside": beside, "other": packed(other.modulation_norms(model)),
                   "apart": packed(apart(mine, other, model))}  # fmt: skip


def apart(one, other, model) -> dict[str, torch.Tensor]:
    """How far two runs' modulation vectors are apart, root mean square over d, by part: `-> block step`."""
    far = {}
    for stage in one.config.stage_blocks:
        theirs = other.modulation(model, stage=stage)
        for part, vectors in one.modulation(model, stage=stage).items():
            square = (theirs[part] - vectors) ** 2
            far.setdefault(part, []).append(reduce(square, "step block d -> block step", "mean").sqrt())
    return {part: torch.cat(of_stages) for part, of_stages in far.items()}


def packed(parts: dict[str, torch.Tensor]) -> dict[str, dict]:
    """Tensors by name on their way to the browser."""
    return {name: pack(values.contiguous()) for name, values in parts.items()}


def even_share(opened: Opened, kind: str) -> list[float]:
    """What a head that looks at all keys alike gives to the two tokens of the condition, by block."""
    if kind == "cross":
        return [1.0] * opened.config.depth
    return [CONDITION_TOKENS / opened.trajectory.tokens_of(block) for block in range(opened.config.depth)]


def shares(opened: Opened, kind: str, sample: int, half: str) -> Generator[Progress, None, dict]:
    """The shares of attention on the time and on the label token, each `block head step`, a forward a step.

    Raises ValueError where the condition is not among the keys.
    """
    if kind not in ("attn", "cross"):
        raise ValueError("In this model no attention has the condition among its keys.")
    run, found = opened.trajectory, []
    for step in range(len(run.t)):
        yield Progress(step, len(run.t), f"Looking at step {step + 1} of {len(run.t)}")
        found.append(attention_numbers(run, opened.model, sample=sample, half=half, kind=kind, steps=[step]))
    together = lambda name: torch.cat([getattr(numbers, name) for numbers in found], dim=-1)
    return packed({name: together(name) for name in ("time", "label")})
