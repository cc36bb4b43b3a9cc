"""How good, and so how soon: three ways of sampling by name, for who does not want to choose a sampler and its steps.

Measured on digits, in colour and on a U-DiT (docs/results/fewer_steps.md): 14 steps of DPM-Solver++ are as near to real
pictures as 50 of DDIM on all three, 6 of UniPC on digits alone. Of flows nothing is measured yet.
"""

from dit_lab.diffusion.gaussian import Diffusion
from dit_lab.diffusion.process import Process
from dit_lab.program import quoted

# `paper` is 250 steps of DDPM, as DiT samples; a flow has no ancestral step, and takes as many of Euler's.
QUALITIES = {
    "draft": dict(sampler="unipc", steps=6),
    "good": dict(sampler="dpmpp", steps=14),
    "paper": dict(sampler="ddpm", steps=250),
}


def quality(name: str, process: Process, **given) -> dict:
    """The options of `sample` that a quality names, `-> sampler, steps`; what is `given`, and not None, stays.

    Raises ValueError on a name that is not there, and where a sampler is given without its steps or the other way
    round: either alone would not be the way that was measured.
    """
    if not isinstance(name, str) or name not in QUALITIES:
        raise ValueError(f"there is no quality {quoted(name)}; there are {', '.join(QUALITIES)}")
    given = {option: value for option, value in given.items() if value is not None}
    if ("sampler" in given) != ("steps" in given):
        there, lacking = ("sampler", "steps") if "sampler" in given else ("steps", "sampler")
        raise ValueError(f"quality names a sampler and its steps: with {there} give {lacking} too, or leave out both")
    named = dict(QUALITIES[name])
    if named["sampler"] == "ddpm" and not isinstance(process, Diffusion):
        named["sampler"] = "euler"
    return named | given


def chosen(name: str | None, process: Process, sampler: str | None, steps: int | None) -> dict:
    """The sampler and steps of a quality, or where none is named those given, 50 of DDIM by default.

    Raises ValueError where both a quality and a sampler or steps are given: one of them would be ignored.
    """
    if name is None:
        return dict(sampler=sampler or "ddim", steps=50 if steps is None else steps)
    if sampler is not None or steps is not None:
        raise ValueError("a quality names a sampler and its steps: leave out either it or them")
    return quality(name, process)
