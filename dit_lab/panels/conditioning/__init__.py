"""How the condition comes in, and what the tokens become: shifts, scales and gates, norms, likeness, and colours."""

from dit_lab.inside import attention_numbers
from dit_lab.inside.plots import attention_numbers_map, modulation_heat_map
from dit_lab.panels.asking import choice
from dit_lab.panels.conditioning.entering import classes, entering, even_share, modulation, other_label, shares
from dit_lab.panels.conditioning.tokens import colouring, likeness, norms
from dit_lab.panels.opened import Opened
from dit_lab.panels.panel import Panel

NO_MODEL = "Only the recording is open, not its model: load its checkpoint to look inside."
LOOKS = {
    "modulation": ("sample", "half"), "shares": ("sample", "half"), "norms": ("step", "sample", "half"),
    "likeness": ("step", "sample", "half", "patch"), "colours": ("sample", "half"),
}  # fmt: skip


def data(opened: Opened) -> dict:
    """How the condition enters, the classes by name, and the modulation of the first sample where there is any."""
    if opened.model is None:
        return {"run": opened.id, "why": NO_MODEL}
    enters = entering(opened)
    told = {"run": opened.id, "why": "", "enters": enters, "light": opened.light, "classes": classes(opened)}
    if enters == "modulation":
        told["modulation"] = answer(opened, {"look": "modulation", "sample": 0, "half": "cond"})
    if enters in ("attn", "cross"):
        told["even"] = even_share(opened, enters)
    return told


def answer(opened: Opened, request: dict):
    """What a `look` asks for: `{look: "norms", step, sample, half}` and so on, each with the places of `LOOKS`.

    "modulation" takes a second class too, `beside: label`. Looks over a whole run are generators. Raises ValueError.
    """
    look = choice("Look", request.get("look"), LOOKS)
    place = opened.asked(request, *LOOKS[look])
    if look == "modulation":
        place["beside"] = other_label(opened, request.get("beside"))
    key = "conditioning", look, *place.values()
    if look == "shares":
        return opened.answering(key, lambda: shares(opened, entering(opened), **place))
    if look == "colours":
        return opened.answering(key, lambda: colouring(opened, **place))
    make = {"modulation": modulation, "norms": norms, "likeness": likeness}[look]
    return opened.once(key, lambda: make(opened, **place))


def still(opened: Opened, *, sample: int = 0, half: str = "cond", **place):
    """Shifts, scales and gates over the run, or what share of attention goes to the condition."""
    if opened.model is None:
        raise ValueError(NO_MODEL)
    run, model, names = opened.trajectory, opened.model, opened.config.block_names
    enters = entering(opened)
    if enters == "modulation":
        return modulation_heat_map(run.modulation_norms(model, sample=sample, half=half), run.t, names)
    kind = "cross" if enters == "cross" else "attn"
    return attention_numbers_map(attention_numbers(run, model, sample=sample, half=half, kind=kind), names=names)


PANEL = Panel("conditioning", "How the condition comes in", data, answer, still)
