"""Tokens of the residual stream: how long, which features, which colours, how alike, how coarse."""

from functools import partial

import torch
from einops import rearrange

from dit_lab.experiments.sights.base import LATE, Sight, Zoo, alike, brightest, brightness, said_step, shuffled
from dit_lab.experiments.sights.path import SHIP
from dit_lab.inside import feature_spectra, fit_colours, massive, token_norms, token_similarity
from dit_lab.inside.plots import (
    colour_pictures,
    massive_plot,
    spectrum,
    token_norms_map,
    token_similarity_overlay,
)


def norms(zoo: Zoo) -> Sight:
    """Norms of the tokens, against the picture."""
    run = zoo.run("mnist", 7)
    found, bright = token_norms(run, zoo.model("mnist")), brightness(run)
    first, last = (alike(found[step, -1], bright) for step in (0, -1))
    mixed = alike(found[-1, -1], bright[shuffled(len(bright))])
    return Sight(
        "How long tokens are",
        "`mnist`, a 7",
        partial(token_norms_map, found, run.grid, run.t),
        "Maps of the norms of all patches, blocks in columns and some timesteps in rows",
        f"The norms after the last block have a correlation of {first:.2f} with how bright the finished patches are at "
        f"the first step, and of {last:.2f} at the last.",
        f"With the patches in random order it is {mixed:.2f} at the last step.",
    )


def one_channel(zoo: Zoo) -> Sight:
    """A massive activation."""
    run, model = zoo.run("cifar10", SHIP), zoo.model("cifar10")
    found = massive(run, model, top=2)
    digits = massive(zoo.run("mnist", 7), zoo.model("mnist"), top=1)
    times, feature = found.times.mean(0), int(found.feature[..., 0].flatten().mode().values)
    share = (found.feature[..., 0] == feature).float().mean()
    return Sight(
        "The largest feature",
        "`cifar10`, a ship",
        partial(massive_plot, found),
        "Heat maps of how many times the median the largest feature is, and of which feature it is",
        f"Feature {feature} is the largest in {share:.0%} of all blocks and steps; after the last block the largest is "
        f"{times[-1, 0]:.0f} times the median, the mean over the steps.",
        f"The second largest there is {times[-1, 1]:.0f} times the median; of `mnist` the largest after the last "
        f"block is {digits.times[:, -1, 0].mean():.0f} times.",
    )


def colours(zoo: Zoo) -> Sight:
    """Features as colours."""
    run, model = zoo.run("mnist", 7), zoo.model("mnist")
    found, steps = fit_colours(run, model), zoo.some()
    features = torch.stack([run.features(model, step) for step in steps])
    pictures, before = found.of(features, run.grid), fit_colours(run, zoo.untrained("mnist"))
    stroke = brightest(run)
    first, last, mixed = (
        apart(pictures[step], mask) for step, mask in ((0, stroke), (-1, stroke), (-1, stroke[shuffled(len(stroke))]))
    )
    return Sight(
        "Features as colours",
        "`mnist`, a 7",
        partial(colour_pictures, pictures, [run.t[step] for step in steps], colours=found),
        "Maps of the patches in colours, blocks in columns and some timesteps in rows",
        f"Between the brightest quarter of the patches and the rest colours are {last:.2f} apart at the last step (of "
        f"1.73 from black to white, the mean over the blocks), and {first:.2f} at the first; they hold "
        f"{found.explained.sum():.0%} of the variance.",
        f"With the patches in random order it is {mixed:.2f} at the last step; three directions of the model before "
        f"training hold {before.explained.sum():.0%}, and three at random would hold {3 / len(found.mean):.0%}.",
    )


def apart(pictures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How far the mean colour of some patches is from that of the rest: `block h w 3, n -> `, the mean over blocks."""
    tokens = rearrange(pictures, "block h w colour -> block (h w) colour")
    return (tokens[:, mask].mean(1) - tokens[:, ~mask].mean(1)).norm(dim=-1).mean()


def stroke_tokens(zoo: Zoo) -> Sight:
    """Patches of the stroke have features alike."""
    run, model, step = zoo.run("mnist", 7), zoo.model("mnist"), zoo.at(LATE)
    patch, stroke = int(brightness(run).argmax()), brightest(run)
    found = token_similarity(run, model, step, patch)
    others = stroke & (torch.arange(len(stroke)) != patch)
    gaps = found[:, others].mean(1) - found[:, ~stroke].mean(1)
    block = int(gaps.argmax())
    mixed = found[block][shuffled(len(stroke))]
    return Sight(
        "Which patches are alike",
        f"`mnist`, a 7, {said_step(run, step)}",
        partial(token_similarity_overlay, run.sample[0], found, patch, run.grid),
        "Maps of how alike the features of one patch of the stroke are to those of all others, one a block",
        f"After block {block} the outlined patch has a cosine of {found[block, others].mean():.2f} with the others of "
        f"the brightest quarter of the finished picture, and of {found[block, ~stroke].mean():.2f} with the rest.",
        f"With the patches in random order it is {mixed[others].mean():.2f} and {mixed[~stroke].mean():.2f}.",
    )


def coarse_features(zoo: Zoo) -> Sight:
    """Spectra of features, of a U-DiT and of a DiT."""
    names, labels, steps = ("mnist_udit", "mnist"), range(8), zoo.some(11)
    found = {name: feature_spectra(zoo.run(name, *labels), zoo.model(name), steps) for name in names}
    low = {name: seen.low.mean(1) for name, seen in found.items()}
    said = lambda name: f"{low[name].min():.0%} to {low[name].max():.0%}"
    noise = found["mnist_udit"].noise
    return Sight(
        "How coarse features are",
        "`mnist_udit` and `mnist`, eight digits",
        partial(spectrum, found),
        "Power over frequency of the features of two models, and their share of low frequencies by block and timestep",
        f"The blocks of the U-DiT have {said('mnist_udit')} of their power at low frequencies, the mean over the run, "
        f"those of the DiT {said('mnist')}.",
        f"White noise would have {min(noise):.0%} to {max(noise):.0%} on the grids of the one and "
        f"{found['mnist'].noise[0]:.0%} on that of the other.",
    )


TOKENS = norms, one_channel, colours, stroke_tokens, coarse_features
