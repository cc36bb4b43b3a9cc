"""Timesteps searched for a model: where few steps do best is looked for by trying, on noises that judge nothing.

Coordinate descent on the error of the final x0 against many steps from the same noise. Published searches tune a
solver's coefficients as well (ICoD and others); here it is the timesteps alone, which are its most valuable part.
"""

from collections.abc import Callable

import torch

from dit_lab.diffusion.checks import clips
from dit_lab.diffusion.gaussian import Diffusion
from dit_lab.diffusion.objectives import process_of
from dit_lab.diffusion.process import Process
from dit_lab.diffusion.sampling import generate
from dit_lab.diffusion.solvers import log_snr, picked
from dit_lab.diffusion.stochastic import FRESH
from dit_lab.diffusion.whole import check_steps, whole
from dit_lab.program import quoted

NOISES, SEED = 64, 10_007  # the noises of the search; its seed is none of those that are judged
REFERENCE = 200
ROUNDS = 3
SPACINGS = 4  # known ones, to begin at
MOVES = -0.5, -0.25, 0.25, 0.5  # of the way to the neighbour


def searched(
    model, sampler: str, steps: int, *, rounds: int = ROUNDS, noises: int = NOISES, tried: Callable | None = None,
    **options,
) -> tuple[list[int], float, float]:  # fmt: skip
    """Timesteps of a walk of `steps`, noisiest first, its error, and that of even steps; `options` are `sample`'s.

    It begins at the best of a few known spacings: even, quadratic, even in log SNR, EDM's. After each walk `tried` is
    called with the least error so far. What is searched are places among the timesteps of the whole process, 1,000 as
    a rule, of a flow too. Raises ValueError where a process can only be walked evenly, on a single step, without noises
    to walk from, and on a sampler that puts fresh noise in.
    """
    process, known = beginnings(model.config, sampler, steps, noises, **options)
    told = lambda places: process.timesteps[list(places)].tolist()
    labels = [number % max(model.config.num_classes, 1) for number in range(noises)]
    draw = lambda walk: generate(model, labels, sampler=sampler, seed=SEED, steps=walk, **options)
    goal = draw(REFERENCE)
    errors: dict[tuple, float] = {}

    def error(places) -> float:
        if (key := tuple(places)) not in errors:
            errors[key] = rms(draw(told(key)) - goal)
            if tried:
                tried(min(errors.values()))
        return errors[key]

    even = rms(draw(steps) - goal)
    best = min(known, key=error)
    for _ in range(rounds):
        before = best
        for place in range(1, steps):
            best = min([best, *moved(best, place)], key=error)
        if best == before:
            break
    return told(best), error(best), even


def beginnings(config, sampler: str, steps: int, noises: int, **options) -> tuple[Process, list[list[int]]]:
    """The process of a search, and the places that it begins at. Raises ValueError as `searched` does."""
    check_sampler(sampler, options.get("eta", 0))
    if not whole(noises) or noises < 1:
        raise ValueError(f"noises must be a whole number from 1 on, not {quoted(noises)}")
    process = process_of(config)
    check_steps(steps, 100)
    if steps == 1:
        raise ValueError("one step begins where there is only noise: of two or more the others can be searched")
    if not clips(config, process, options.get("clip_x0")):
        process = process.readable()
    known = spacings(process, steps)
    picked(process, process.timesteps[known[0]].tolist())  # what cannot be walked so is refused before it is drawn
    return process, known


def walked_at_most(steps: int, rounds: int = ROUNDS) -> int:
    """How many steps a search takes at most, those of the many among them: places tried before are not walked again."""
    return REFERENCE + steps * (1 + SPACINGS + rounds * (steps - 1) * len(MOVES))


def check_sampler(sampler, eta=0) -> None:
    """Raise ValueError where walks of other steps have other noise: no timesteps bring such a one near to another."""
    if isinstance(sampler, str) and sampler in FRESH or eta:
        noisy = "an eta" if eta else sampler
        raise ValueError(f"{noisy} puts fresh noise in at every step, so that no timesteps bring it near to many steps")


def rms(x: torch.Tensor) -> float:
    """The root mean square of `x: b c h w`."""
    return x.square().mean().sqrt().item()


def moved(timesteps: list[int], place: int) -> list[list[int]]:
    """The same places with one of them moved towards either neighbour, the noisiest staying where it is."""
    below = timesteps[place + 1] if place + 1 < len(timesteps) else 0
    found = []
    for share in MOVES:
        room = timesteps[place - 1] - timesteps[place] if share > 0 else timesteps[place] - below
        there = timesteps[place] + round(share * room)
        if below < there < timesteps[place - 1]:
            found.append([*timesteps[:place], there, *timesteps[place + 1 :]])
    return found


def spacings(process: Process, steps: int) -> list[list[int]]:
    """Known ways to spread `steps` places over a process, each noisiest first: none is the clean picture's."""
    last = len(process.timesteps) - 1
    end = 0 if isinstance(process, Diffusion) else -1  # even steps lead there; a flow's first place is on its way
    levels = torch.tensor([log_snr(process, i) for i in range(last + 1)], dtype=torch.float64)
    levels = levels.clamp(min=levels[levels.isfinite()].min())  # where there is nothing but noise it is infinite
    nearest = lambda wanted: [int((levels - each).abs().argmin()) for each in wanted]
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:-1]
    low, high = (-levels[[last, 0]]).exp()  # noise over signal, as EDM has it
    edm = (low ** (1 / 7) + share * steps / max(steps - 1, 1) * (high ** (1 / 7) - low ** (1 / 7))) ** 7
    made = [
        [round(float(end + (last - end) * (1 - s))) for s in share],
        [round(float(end + (last - end) * (1 - s) ** 2)) for s in share],
        nearest(levels[last] + share * (levels[max(last // 100, 1)] - levels[last])),
        nearest(-edm.log()),
    ]
    return [falling([last, *each[1:]]) for each in made]


def falling(timesteps: list[int]) -> list[int]:
    """The same, pushed apart where two are one: none below 1, and none above the first."""
    made = [*timesteps]
    for place in reversed(range(len(made))):
        after = made[place + 1] if place + 1 < len(made) else 0
        made[place] = max(made[place], after + 1)
    return [min(each, timesteps[0] - place) for place, each in enumerate(made)]
