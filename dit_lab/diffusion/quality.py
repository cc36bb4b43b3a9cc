"""How good, and so how soon: three ways of sampling by name, for who does not want to choose a sampler and its steps.

The values are provisional until `docs/results/fewer_steps.md` has been run; nothing here is measured yet.
"""

from dit_lab.diffusion.gaussian import Diffusion
from dit_lab.diffusion.process import Process
from dit_lab.program import quoted

# By process: a diffusion's, and a flow's, which has no ancestral step; `paper` is 250 steps of DDPM, as DiT samples.
QUALITIES = {
    "draft": {"diffusion": dict(sampler="unipc", steps=6), "flow": dict(sampler="unipc", steps=6)},
    "good": {"diffusion": dict(sampler="dpmpp", steps=14), "flow": dict(sampler="dpmpp", steps=14)},
    "paper": {"diffusion": dict(sampler="ddpm", steps=250), "flow": dict(sampler="euler", steps=250)},
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
    return QUALITIES[name]["diffusion" if isinstance(process, Diffusion) else "flow"] | given
