"""Ways of sampling that `fewer_steps` compares."""

from itertools import product
from typing import NamedTuple

HELD_OUT = 2_000  # real test pictures that stand for samples: their distance to the others is the floor
SAMPLERS = "heun", "dpmpp", "dpmpp3", "unipc"
BUDGETS = 4, 6, 8, 10, 14, 20, 30, 50
INTERVAL = 200.0, 800.0
BRANCHED = 20  # steps at which branches are forecast too, one by one: enough for a step to be like the one before


class Way(NamedTuple):
    """One way to sample: a sampler's `steps`, every `every`-th computed (`reuse.Reusing`), searched for or even.

    What is not computed is forecast, the network's output or, with `branches`, that of each of its branches.
    """

    sampler: str
    steps: int
    interval: bool = False
    every: int = 1
    order: int = 0
    searched: bool = False
    branches: bool = False

    def __str__(self):
        said = ["interval"] * self.interval + ["searched"] * self.searched
        said += [f"every {self.every}, order {self.order}"] * (self.every > 1) + ["branches"] * self.branches
        return ", ".join([f"{self.sampler} {self.steps}", *said])


def ways(
    budgets: tuple[int, ...], flow: bool = False, forecasts: bool = True, ancestral: tuple[int, ...] = (50, 250)
) -> list[Way]:
    """All that are compared, those to compare with first; a flow has Euler's step for DDIM's, and no ancestral one."""
    first, ancestral = ("euler", ()) if flow else ("ddim", ancestral)
    plain = [Way(name, steps // (1 + (name == "heun"))) for name, steps in product((first, *SAMPLERS), budgets)]
    spared = [Way(name, steps, interval=True) for name, steps in product(("dpmpp", "unipc"), budgets)]
    reused = [
        Way(name, steps, every=every, order=order, branches=branches)
        for name, steps, every, order, branches in product(
            (first, "dpmpp", "unipc"), (14, 20, 30, 50), (2, 3, 5), (0, 1, 2), (False, True)
        )
        if forecasts and steps in budgets and (not branches or order and steps == BRANCHED)
    ]
    found = [Way(name, steps, searched=True) for name, steps in product(("dpmpp", "unipc"), budgets) if steps <= 10]
    return [*(Way("ddpm", steps) for steps in ancestral), *plain, *spared, *reused, *found]


def options_of(way: Way, steps, cfg_scale: float) -> dict:
    """A way as options of `sample`."""
    interval = INTERVAL if way.interval else None
    return dict(sampler=way.sampler, steps=steps, cfg_scale=cfg_scale, cfg_interval=interval)
