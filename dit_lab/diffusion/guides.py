"""Guides beside the usual one: functions `(cond, uncond, scale) -> their mix` for `sample`'s `guide`."""

from dataclasses import dataclass

from einops import reduce

from dit_lab.diffusion.checks import OWN, finite
from dit_lab.program import quoted

LEAST = 1e-12  # of a deviation that is divided by: a network at birth says nothing, and that stays nothing


@dataclass(frozen=True)
class Rescaled:
    """The usual guidance, given back the deviation of the conditional prediction by a share `phi` (0: none, 1: all).

    Strong guidance makes predictions, and so pictures, too contrasted (2305.08891, equations 15 and 16; 0.7 there).
    The deviation is a picture's over all that is guided. Raises ValueError on another share.
    """

    phi: float = 0.7

    def __post_init__(self):
        if not (finite(self.phi) and 0 <= self.phi <= 1):
            raise ValueError(f"the share of guidance to rescale must be a number from 0 to 1, not {quoted(self.phi)}")

    def __call__(self, cond, uncond, scale):
        """`b c h w, b c h w -> b c h w`."""
        guided = uncond + scale * (cond - uncond)
        return self.phi * guided * deviation(cond) / deviation(guided).clamp(min=LEAST) + (1 - self.phi) * guided

    @property
    def words(self) -> dict:
        """What the file of a recorded run says of it."""
        return {"rescaled": self.phi}


def deviation(x):
    """`b c h w -> b 1 1 1`."""
    mean = reduce(x, "b c h w -> b 1 1 1", "mean")
    return reduce((x - mean) ** 2, "b c h w -> b 1 1 1", "mean").sqrt()


def guide_of(words) -> Rescaled | str | None:
    """The guide that a recorded run was walked with, of its `words`; `OWN` and None stay. Raises ValueError."""
    if words in (None, OWN):
        return words
    if not isinstance(words, dict) or list(words) != ["rescaled"]:
        raise ValueError(f'the guide must be {{"rescaled": share}}, "{OWN}" or none, not {quoted(words)}')
    return Rescaled(words["rescaled"])
