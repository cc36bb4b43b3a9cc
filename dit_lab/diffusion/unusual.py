"""Ways of walking that are not the usual one, as commands ask for them, and when a walk is none."""

from dataclasses import dataclass

from dit_lab.diffusion.guides import Rescaled
from dit_lab.diffusion.process import Process
from dit_lab.diffusion.solvers import picked
from dit_lab.diffusion.spacing import karras, shifted
from dit_lab.program import quoted

SEEN = 0.15  # a picture's factor beside noise, from which on noise alone is no good beginning of a walk
BEGUN = "sample --from-picture"  # how a walk begins with one


@dataclass(frozen=True)
class Unusual:
    """Ways of walking that are not the usual one."""

    shift: float | None = None
    """Of flow matching: move the steps to more noise, by 3 for large pictures (default: even steps)."""
    karras: bool = False
    """Karras' steps, more of them near the picture."""
    guidance_rescale: float | None = None
    """A share from 0 to 1 by which strong guidance is kept from raising contrasts; 0.7 in its paper."""

    def check(self, cfg_scale: float) -> None:
        """Raise ValueError on ways that need another option, or exclude each other."""
        if self.shift is not None and self.karras:
            raise ValueError("steps are shifted or Karras', not both: leave out --shift or --karras")
        if self.guidance_rescale is not None and cfg_scale == 1:
            raise ValueError("--guidance-rescale is for guidance: give a --cfg-scale other than 1")

    @property
    def guide(self) -> Rescaled | None:
        """The guide for `sample`. Raises ValueError on a share that is none."""
        return None if self.guidance_rescale is None else Rescaled(self.guidance_rescale)

    def spaced(self, process: Process, steps) -> int | list[float]:
        """The steps to take, as many. Raises ValueError where they are timesteps already, and spaced anew."""
        if not isinstance(steps, int):
            if self.karras or self.shift is not None:
                raise ValueError("these steps are timesteps of their own: give a number of --steps, or no spacing")
            return list(steps)
        if self.karras:
            return karras(process, steps)
        return steps if self.shift is None else shifted(process, steps, self.shift)


def check_walk(steps) -> None:
    """Raise ValueError where a walk from noise alone would be of one timestep."""
    if isinstance(steps, tuple) and len(steps) == 1:
        what = f"one timestep, which is no walk but from a picture ({BEGUN})"
        raise ValueError(f"--steps takes a whole number of steps, or several timesteps; {quoted(steps[0])} is {what}")


def late(process: Process, steps: int | list[float]) -> str:
    """What is said of a walk of timesteps that begins with noise alone where a picture should be seen; else nothing."""
    if isinstance(steps, int) or (there := picked(process, steps).levels(len(steps) - 1)[0]) < SEEN:
        return ""
    first, noisiest = (f"t = {t:g}" for t in (steps[0], process.timesteps[-1]))
    return (
        f"the walk begins at {first} with noise alone, as is right at {noisiest}; there should be {there:.2f} of a "
        f"picture in it: begin nearer {noisiest}, or with a picture ({BEGUN})"
    )
