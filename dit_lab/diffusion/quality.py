"""How good, and so how soon: three ways of sampling by name, for who does not want to choose a sampler and its steps.

Measured on digits, in colour and on a U-DiT (docs/results/fewer_steps.md): 10 steps of UniPC are nearer to real
pictures than 50 of DDIM on all three, and than as many of Euler's on a flow; 6 are on digits and on the flow. A
checkpoint may know better ways of its own, say at timesteps that were searched for it (`searching`).
"""

from dit_lab.diffusion.gaussian import Diffusion
from dit_lab.diffusion.process import Process
from dit_lab.diffusion.sampling import samplers_for
from dit_lab.diffusion.solvers import shortened
from dit_lab.program import quoted

# `paper` is 250 steps of DDPM, as DiT samples; a flow has no ancestral step, and takes as many of Euler's.
QUALITIES = {
    "draft": dict(sampler="unipc", steps=6),
    "good": dict(sampler="unipc", steps=10),
    "paper": dict(sampler="ddpm", steps=250),
}


def quality(name: str, process: Process, own: dict | None = None, **given) -> dict:
    """The options of `sample` that a quality names, `-> sampler, steps`; what is `given`, and not None, stays.

    A checkpoint's `own` ways (`Loaded.qualities`) come before those for all. Raises ValueError on a name that is not
    there, and where a sampler is given without its steps or the other way round: either alone would not be the way that
    was measured.
    """
    if not isinstance(name, str) or name not in QUALITIES:
        raise ValueError(f"there is no quality {quoted(name)}; there are {', '.join(QUALITIES)}")
    given = {option: value for option, value in given.items() if value is not None}
    if ("sampler" in given) != ("steps" in given):
        there, lacking = ("sampler", "steps") if "sampler" in given else ("steps", "sampler")
        raise ValueError(f"quality names a sampler and its steps: with {there} give {lacking} too, or leave out both")
    named = dict((own or {}).get(name, QUALITIES[name]))
    if named["sampler"] == "ddpm" and not isinstance(process, Diffusion):
        named["sampler"] = "euler"
    return named | given


def chosen(name: str | None, process: Process, sampler: str | None, steps, own: dict | None = None) -> dict:
    """The sampler and steps of a quality, or where none is named those given, 50 of DDIM by default.

    `own` is `quality`'s. Raises ValueError where both a quality and a sampler or steps are given: one of them would be
    ignored.
    """
    if name is None:
        return dict(sampler=sampler or "ddim", steps=50 if steps is None else steps)
    if sampler is not None or steps is not None:
        raise ValueError("a quality names a sampler and its steps: leave out either it or them")
    return quality(name, process, own)


def check_own(own, process: Process) -> None:
    """Raise ValueError unless `own` are ways that a checkpoint may have: samplers and their steps by quality."""
    if not isinstance(own, dict) or not own.keys() <= QUALITIES.keys():
        raise ValueError(f"qualities must be ways by name, of {', '.join(QUALITIES)}, not {quoted(own)}")
    for name, way in own.items():
        if not isinstance(way, dict) or way.keys() != {"sampler", "steps"}:
            raise ValueError(f"the quality {name} must be a sampler and its steps, not {quoted(way)}")
        if not isinstance(way["sampler"], str) or way["sampler"] not in samplers_for(process):
            raise ValueError(f"the quality {name} has no sampler of this model: {quoted(way['sampler'])}")
        shortened(process, way["sampler"], way["steps"], clip=True)  # which pictures may be; of latents `sample` says
