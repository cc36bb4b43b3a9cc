"""A recorded run walked again, with edits at some of its steps: the same noise, the same labels, the same options."""

from collections.abc import Generator, Sequence
from contextlib import nullcontext

import torch
from torch import nn
from tqdm.auto import tqdm

from dit_lab.diffusion import SAMPLERS, sample
from dit_lab.diffusion.checks import OWN
from dit_lab.diffusion.stochastic import FRESH
from dit_lab.inside.editing import Edit, Walk, check_edits, hung
from dit_lab.inside.run import Run, kept, numbers, stacked
from dit_lab.inside.trace import TraceError, place
from dit_lab.inside.walking import ended, relayed
from dit_lab.program import quoted


def rerun(run: Run, model: nn.Module, *edits: Edit, steps: Sequence[int] | None = None) -> dict:
    """What a run comes to with edits active at some `steps` (their numbers, None: all): its t, x, x0, eps and sample.

    Without edits it is the run itself, bit for bit, on the machine that recorded it. Both calls that a step of Heun's
    method makes are that step's. Raises TraceError on edits that the model has no place for, on steps that are not
    there, and on a run that cannot be walked again: recorded with another model, with a sampler, a guide or a process
    of one's own, or with noise that was given, a picture's too, where more of it is put in at every step.
    """
    return to_end(rerunning(run, model, *edits, steps=steps), "edited run", len(run.t))


def rerunning(
    run: Run, model: nn.Module, *edits: Edit, steps: Sequence[int] | None = None
) -> Generator[int, None, dict]:
    """`rerun` step by step: yields the number of each step that was taken, and returns what it comes to.

    Between two steps the model is what it was, so that others may look into it. Raises TraceError at once.
    """
    check_edits(model, edits, run)
    active = active_steps(steps, len(run.t))
    for name, instead in ("sampler", "one of the samplers that have a name"), ("guide", "the usual guidance"):
        if (run.sampler if name == "sampler" else run.options[name]) == OWN:
            raise TraceError(
                f"this run's {name} was a function of its maker's and is not kept, so it cannot be run again: record "
                f"it with {instead}"
            )
    _ = run.process  # which refuses a run that walked one of its own
    return walked(run, model, edits, active, noise_of(run))


def noise_of(run: Run) -> dict:
    """The noise of a run as options of `sample`: its seed, or where noise was given the x that the run began with.

    Raises TraceError where its sampler was given more of it at every step, which is not kept.
    """
    if run.options["seed"] is not None:
        return {}
    if run.sampler in FRESH or run.options["eta"]:
        raise TraceError(
            "this run's noise was given, and what its sampler put in at each step is not kept, so it cannot be run "
            "again: record it with a seed, or with a sampler without fresh noise"
        )
    left = iter([run.x[0]])
    return {"seed": 0, "noise": lambda shape: next(left, torch.zeros(shape))}


def walked(run: Run, model: nn.Module, edits, active: set[int], noise: dict) -> Generator[int, None, dict]:
    """The walk behind `rerunning`, all arguments checked."""
    walk, steps_kept = Walk(run), []
    walked = sample(model, run.labels, **run.asked | noise | ({} if run.anew is None else {"sampler": redrawing(run)}))
    for walk.step in range(len(run.t)):
        with hung(model, edits, walk) if walk.step in active else nullcontext():
            step = next(walked)
        steps_kept.append(kept(step))
        yield walk.step
    return stacked(steps_kept, step)


def redrawing(run: Run):
    """The sampler of a run that drew a part of a picture anew: what it kept is what its next step was given there."""
    mask, name = run.anew
    following = [*run.x[1:], run.sample]

    def step(process, now, before, ask, noise, eta):
        drawn = SAMPLERS[name](process, now, before, ask, noise, eta)
        return torch.where(mask.to(now.x.device), drawn, following[len(run.t) - 1 - now.i].to(now.x))

    return step


def active_steps(steps, count: int) -> set[int]:
    """The steps at which edits are active. Raises TraceError on an empty list, and on a step that is not there."""
    asked = range(count) if steps is None else numbers("steps", steps)
    if not asked:
        raise TraceError(f"steps must name at least one step from 0 to {count - 1}, not {quoted(steps)}")
    return {place("step", step, count) for step in asked}


def to_end(walking: Generator, told: str, total: int, counts=lambda step: True):
    """What a generator returns, after a bar of those of its steps that `counts` tells."""
    with tqdm(total=total, desc=told, leave=False, disable=None) as bar:
        return ended(relayed(walking, lambda step: bar.update(counts(step))))
