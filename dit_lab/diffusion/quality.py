"""How good, and so how soon: three ways of sampling by name, for who does not want to choose a sampler and its steps.

The values are provisional until `experiment fewer-steps` has been run; nothing here is measured yet.
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
