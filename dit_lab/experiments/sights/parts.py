"""What the parts of the network give to its prediction: their pictures, their size, and x0 after each block."""

from functools import partial

import torch
from einops import reduce

from dit_lab.experiments.sights.base import LATE, Sight, Zoo, alike, said_step
from dit_lab.inside.parts import Part
from dit_lab.inside.plots import contribution_norms_map, contribution_pictures, lens_strip


def gifts(zoo: Zoo) -> Sight:
    """What each part gave to predicted x0."""
    run, model, step = zoo.run("mnist", 7), zoo.model("mnist"), zoo.at(LATE)
    found = run.contributions(model, step, half="guided")
    other = zoo.run("mnist", 3).contributions(model, step, half="guided")
    sizes = reduce(found.x0**2, "part c h w -> part", "mean").sqrt()
    largest = largest_inside(found.parts, sizes)
    like, unlike = (alike(each.x0[largest], found.x0.sum(0)) for each in (found, other))
    return Sight(
        "A prediction in parts",
        f"`mnist`, a 7, {said_step(run, step)}",
        partial(contribution_pictures, found),
        "Signed pictures of what each head and MLP gave to predicted x0, blocks in rows",
        f"All parts add up to the prediction, to {found.error:.0e} of it; the largest within blocks is "
        f"{found.parts[largest]} (root mean square {sizes[largest]:.2f}), whose part has a correlation of {like:.2f} "
        "with predicted x0.",
        f"What it gives to a 3 of the same noise has a correlation of {unlike:.2f} with it.",
    )


def sizes_of_parts(zoo: Zoo) -> Sight:
    """How large each part is over a run."""
    run, model = zoo.run("mnist", 7), zoo.model("mnist")
    parts, found = run.contribution_norms(model)
    largest = largest_inside(parts, found[:, -1])
    patches = next(number for number, part in enumerate(parts) if part.kind == "patches")
    grown = lambda number: f"from {found[number, 0]:.3f} to {found[number, -1]:.3f}"
    return Sight(
        "How much each part gives, and when",
        "`mnist`, a 7",
        partial(contribution_norms_map, parts, found, run.t),
        "A heat map of how much each part gives to the predicted noise, parts in rows and timesteps in columns",
        f"Of the parts in blocks {parts[largest]} gives most at the last step; over the run it goes {grown(largest)}.",
        f"The part of the input, the patches, goes {grown(patches)}.",
    )


def through_the_lens(zoo: Zoo) -> Sight:
    """The x0 that would be predicted after each block."""
    run, model, step = zoo.run("mnist", 7), zoo.model("mnist"), zoo.at(LATE)
    steps = sorted({zoo.at(0.1), zoo.at(0.3), step, zoo.at(0.8), zoo.steps - 1})
    found = {each: run.lens(model, each) for each in steps}
    other = zoo.run("mnist", 3).x0[step, 0]
    own, others = ([alike(x0, target) for x0 in found[step]] for target in (run.x0[step, 0], other))
    said = lambda values: ", ".join(f"{value:.2f}" for value in values)
    return Sight(
        "The picture, block by block",
        f"`mnist`, a 7, some steps; the numbers are of {said_step(run, step)}",
        partial(lens_strip, torch.stack(list(found.values())), [run.t[each] for each in steps]),
        "The x0 that would be predicted after each block, blocks in columns and some timesteps in rows",
        f"Read after each block in turn, x0 has a correlation of {said(own)} with the prediction of that step.",
        f"With what is predicted there for a 3 of the same noise it has {said(others)}.",
    )


def largest_inside(parts: list[Part], sizes: torch.Tensor) -> int:
    """The number of the largest of the parts in blocks, by their sizes: `part -> `."""
    return max((number for number, part in enumerate(parts) if part.block is not None), key=lambda each: sizes[each])


PARTS = gifts, sizes_of_parts, through_the_lens
