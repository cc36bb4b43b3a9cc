"""What if: a run walked again with one thing in the network changed, beside the same change at random other places.

An edit of any place moves the picture. Whether this place matters is what its rank among its controls says.
"""

from time import monotonic

from dit_lab.diffusion.whole import whole as is_whole
from dit_lab.inside import Scale, TraceError, controls_of, effect, effects
from dit_lab.inside.plots import effect_plot
from dit_lab.inside.walking import relayed
from dit_lab.panels.asking import whole
from dit_lab.panels.frames import frame_steps, samples_sent
from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import Panel, Progress
from dit_lab.panels.whatif.edits import edit_of, places, region_of, said
from dit_lab.panels.whatif.pictures import showing
from dit_lab.program import quoted

MOST_CONTROLS, CONTROLS = 16, 4
TRIED = 24  # edits of a run that are listed
FIELDS = "kind", "block", "head", "branch", "attention", "part", "factor", "way", "patch", "reach", "label"


def data(opened: Opened) -> dict:
    """What can be edited, what a sampling costs, and what was tried already; `why` says where nothing can be."""
    why = cannot(opened)
    shared = {"run": opened.id, "why": why, "controls": [1, MOST_CONTROLS, CONTROLS], "tried": tried(opened)}
    return shared if why else shared | places(opened) | {"passes": passes(opened)}


def cannot(opened: Opened) -> str:
    """Why a run cannot be walked again, "" where it can."""
    if opened.model is None:
        return "Only the recording is open, not its model: load its checkpoint to change what it does."
    if opened.trajectory.options["seed"] is None:
        return "This run's noise was given and is not kept, so that it cannot be run again: sample with a seed."
    try:
        _ = opened.trajectory.process
    except TraceError as error:
        return f"This run cannot be walked again: {error}."
    return ""


def passes(opened: Opened) -> int:
    """Forwards of one sampling, a guided one counted twice: what each edit and each control costs."""
    run = opened.trajectory
    halves = [1 + (run.guidance(step) is not None) for step in range(len(run.t))]
    return sum(halves) + (sum(halves[:-1]) if run.options["sampler"] == "heun" else 0)


def tried(opened: Opened) -> list[dict]:
    """The edits of this run that were tried, the latest first, with what to ask to see them again."""
    return opened.once(("whatif", "tried"), list)


def answer(opened: Opened, request: dict):
    """What an edit does: `{edit, steps: [first, last], controls, region, sample}`, with progress step by step.

    Raises ValueError with a sentence on an edit, steps, a number or a region that are not there.
    """
    if why := cannot(opened):
        raise ValueError(why)
    run, edit = opened.trajectory, edit_of(opened, request.get("edit"))
    steps, controls = steps_of(opened, request.get("steps")), request.get("controls", CONTROLS)
    controls = whole("Controls", controls, 1, MOST_CONTROLS)
    box, sample = region_of(opened, request.get("region")), opened.asked(request, "sample")["sample"]
    frames = (2 + controls) * (1 + len(frame_steps(opened.codec, len(run.t))))
    samples = samples_sent(opened.codec, run, frames, sample)
    key = "whatif", edit, steps, controls, box, samples
    if repr(key) in opened.remembered:
        return opened.once(key, dict)
    edits = [edit, *controls_of(run, opened.model, edit, controls)]
    active = None if steps == (0, len(run.t) - 1) else range(steps[0], steps[1] + 1)
    walking = effects(run, opened.model, edits, steps=active, region=box)
    again = {
        "edit": {name: value for name, value in request["edit"].items() if name in FIELDS}, "steps": list(steps),
        "controls": controls, "region": request.get("region"), "sample": sample,
    }  # fmt: skip
    return working(opened, key, edits, walking, samples, again)


def steps_of(opened: Opened, asked) -> tuple[int, int]:
    """The first and the last step at which an edit is active; None is all. Raises ValueError."""
    last = len(opened.trajectory.t) - 1
    if asked is None:
        return 0, last
    if not isinstance(asked, list) or len(asked) != 2 or not all(map(is_whole, asked)):
        raise ValueError(f"Steps must be the first and the last one, not {quoted(asked, 40)}.")
    first = whole("The first step", asked[0], 0, last)
    return first, whole("The last step", asked[1], first, last)


def working(opened: Opened, key, edits, walking, samples, again):
    """The answer, with progress on its way; `again` is the request that gives it from memory."""
    count, total, walks, begun = len(opened.trajectory.t), len(edits) * len(opened.trajectory.t), [], monotonic()

    def told(news):
        number, step, walked = news
        if walked is not None:
            return walks.append(walked)
        what = f"control {number} of {len(edits) - 1}" if number else "the edited run"
        return Progress(number * count + step + 1, total, f"{what}, step {step + 1} of {count}")

    found = yield from relayed(walking, told)
    seconds = (monotonic() - begun) / len(edits)
    if not all(walk["sample"].isfinite().all() for walk in walks):
        raise ValueError("With this edit the model comes to NaN or Inf, which is no picture: take a gentler factor.")
    shown = yield from showing(opened, walks, samples)
    answered = shown | {
        "said": [said(opened, each) for each in edits], "picture": [found.picture, *found.picture_controls.tolist()],
        "x0": [found.x0.tolist(), *found.x0_controls.tolist()], "rank": found.rank, "steps": again["steps"],
        "region": again["region"], "seconds": seconds, "request": again,
    }  # fmt: skip
    listed = tried(opened)
    line = {"request": again, "said": answered["said"][0], "picture": found.picture, "rank": found.rank,
            "of": len(edits)}  # fmt: skip
    listed[:] = [line, *(other for other in listed if other["request"] != again)][:TRIED]
    return opened.once(key, lambda: answered)


def still(opened: Opened, *, block: int = 0, head=0, **place):
    """One head switched off at all steps, beside 4 controls; the mean of all heads is the whole attention."""
    edit = Scale(block, "attn", 0, heads=None if head == "mean" else [head])
    return effect_plot(effect(opened.trajectory, opened.model, edit, CONTROLS), opened.trajectory.t)


PANEL = Panel("whatif", "What if", data, answer, still)
