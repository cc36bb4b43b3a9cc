"""What made this: the parts of a step's prediction that add up to it, ranked by what they gave to a region."""

from dit_lab.inside import TraceError
from dit_lab.inside.parts import check_eager, parts_of
from dit_lab.inside.plots import contribution_pictures
from dit_lab.panels.asking import choice
from dit_lab.panels.contributions.pictures import lenses, mixing
from dit_lab.panels.contributions.shares import by_step, half_of, region_of, split, within
from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import Panel

LOOKS = {"parts": ("step", "sample"), "steps": ("sample",), "lens": ("step", "sample")}


def data(opened: Opened) -> dict:
    """The names of the parts, and how sums of them become pictures; `why` says where there are none."""
    if why := cannot(opened):
        return {"run": opened.id, "why": why}
    parts = [[part.kind, part.block, part.head, within(part)] for part in parts_of(opened.model)]
    return {
        "run": opened.id, "why": "", "parts": parts, "halves": halves(opened), "mixing": mixing(opened),
        "light": opened.light,
    }  # fmt: skip


def cannot(opened: Opened) -> str:
    """Why the prediction cannot be split, "" where it can."""
    if opened.model is None:
        return "Only the recording is open, not its model: load its checkpoint to look inside."
    try:
        check_eager(opened.model)
        parts_of(opened.model)
        _ = opened.trajectory.process
    except TraceError as error:
        return f"This run's predictions cannot be split into parts: {error}."
    return ""


def halves(opened: Opened) -> list[str]:
    """The passes that can be split: the mix of guidance too, where any step was taken with it."""
    run = opened.trajectory
    guided = any(run.guidance(step) is not None for step in range(len(run.t)))
    return [*(["guided"] if guided else []), *opened.halves()]


def answer(opened: Opened, request: dict):
    """A step in parts, `{look: "parts", of, half, step, sample}`, or all of them, `{look: "steps", …, region}`.

    `of` is "x0" or "eps"; a `region` is [row, column, rows, columns] of patches, None for the whole picture. And
    `{look: "lens", half, step, sample}` is what each block would have predicted. Generators all. Raises ValueError.
    """
    if why := cannot(opened):
        raise ValueError(why)
    look = choice("Look", request.get("look"), LOOKS)
    place = opened.asked(request, *LOOKS[look])
    half = choice("Half", request.get("half"), halves(opened))
    if look == "lens":
        place["half"] = half_of(opened.trajectory, place["step"], half)
        return opened.answering(("contributions", look, *place.values()), lambda: lenses(opened, **place))
    place |= {"half": half, "of": choice("Of", request.get("of"), ("x0", "eps"))}
    if look == "steps":
        place["region"] = region_of(opened.trajectory, request.get("region"))
        return opened.answering(("contributions", look, *place.values()), lambda: by_step(opened, **place))
    place["half"] = half_of(opened.trajectory, place["step"], half)
    return opened.answering(("contributions", look, *place.values()), lambda: split(opened, **place))


def still(opened: Opened, *, step: int | None = None, sample: int = 0, **place):
    """All parts as pictures at a step, by default the last, as that step was taken."""
    if why := cannot(opened):
        raise ValueError(why)
    run = opened.trajectory
    step = len(run.t) - 1 if step is None else step
    found = run.contributions(opened.model, step, sample=sample, half=half_of(run, step, halves(opened)[0]))
    return contribution_pictures(found, names=opened.config.block_names)


PANEL = Panel("contributions", "What made this", data, answer, still)
