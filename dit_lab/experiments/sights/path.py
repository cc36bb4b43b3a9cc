"""The way from noise to picture: frames of it, what the process does to them, and what label and time do."""

from functools import partial
from itertools import pairwise

import torch
from einops import rearrange

from dit_lab.diffusion import Diffusion, Flow
from dit_lab.experiments.sights.base import GUIDANCE, Sight, Zoo, alike, moved, said_step, settled, shuffled
from dit_lab.inside import guidance_field, nearest, path_spectra, record, signal_to_noise, x0_changes, x0_channels
from dit_lab.inside.path import spectrum_of
from dit_lab.inside.plots import (
    guidance_strip,
    modulation_heat_map,
    path_spectra_plot,
    picture_table,
    sample_grid,
    schedule_plot,
    signal_to_noise_plot,
    trajectory_strip,
    x0_changes_plot,
    x0_channels_plot,
)
from dit_lab.models import build

SHIP = 8  # of CIFAR-10's classes


def way(zoo: Zoo) -> Sight:
    """x_t, predicted x0 and predicted noise on the way."""
    run, other = zoo.run("mnist", 7), zoo.run("mnist", 3)
    early, late = (settled(frames[:, 0], run.sample[0]) for frames in (run.x0, run.x))
    against = alike(other.x0[early, 0], run.sample[0])
    return Sight(
        "When is the picture known?",
        "`mnist`, a 7",
        partial(trajectory_strip, run),
        "Three rows of frames from noise to a 7: x_t, predicted x0, predicted noise",
        f"Predicted x0 has a correlation of 0.9 and more with the finished picture from {said_step(run, early)} on, "
        f"x_t itself from {said_step(run, late)} on.",
        f"Predicted x0 of a 3 that grows out of the same noise has a correlation of {against:.2f} with this 7 at step "
        f"{early}.",
    )


def digits(zoo: Zoo) -> Sight:
    """A sample of each class, and what a classifier says of them."""
    model, labels = zoo.model("mnist"), list(range(10))
    run, unlabelled = zoo.run("mnist", *labels), zoo.run("mnist", *[model.config.num_classes] * 10)
    both = nearest(torch.cat([run.sample, unlabelled.sample]), zoo.train, k=1).labels
    read = (rearrange(both, "(run label) 1 -> run label", run=2) == torch.arange(10)).sum(1).tolist()
    return Sight(
        "Ten labels, ten digits",
        "`mnist`, each class once",
        partial(sample_grid, run.sample, labels, "Ten digits, each from a noise of its own"),
        "A grid of ten drawn digits, 0 to 9, each under its label",
        f"In {read[0]} of 10 places the training picture that is nearest, pixel by pixel, is of the digit asked for.",
        f"From the same ten noises with the null label instead it is so in {read[1]} of 10.",
    )


def fewer_steps(zoo: Zoo) -> Sight:
    """The same noises walked in fewer steps."""
    model, labels = zoo.model("mnist"), list(range(10))
    whole, few = zoo.run("mnist", *labels), [max(zoo.steps // part, 1) for part in (10, 5, 2)]
    drawn = {n: record(model, labels, steps=n, cfg_scale=GUIDANCE, seed=zoo.seed).sample for n in few}
    other = record(model, labels, steps=zoo.steps, cfg_scale=GUIDANCE, seed=zoo.seed + 1).sample
    rows = {f"{n} steps": pictures for n, pictures in drawn.items()} | {f"{zoo.steps} steps": whole.sample}
    far = ", ".join(f"{moved(pictures, whole.sample):.2f} with {n} steps" for n, pictures in drawn.items())
    return Sight(
        "What more steps change",
        "`mnist`, each class once",
        partial(picture_table, rows, labels, "The same ten noises, walked in fewer steps"),
        "Rows of ten digits, drawn with ever more steps from the same noises",
        f"The digits of {zoo.steps} steps are this far (root mean square) from those of the same noise in fewer: "
        f"{far}.",
        f"From those of another noise in {zoo.steps} steps they are {moved(other, whole.sample):.2f} away.",
    )


def levels(zoo: Zoo) -> Sight:
    """How much of a picture there is at each step."""
    run = zoo.run("mnist", 7)
    config = dict(input_size=8, in_channels=1, num_classes=10)
    cosine = record(build("DiT-nano/4", schedule="cosine", **config).eval(), [7], steps=zoo.steps, seed=zoo.seed)
    ratio, others = signal_to_noise(run), signal_to_noise(cosine)
    return Sight(
        "How many steps are mostly noise?",
        "`mnist`, its linear schedule",
        partial(signal_to_noise_plot, ratio, run.t),
        "A rising curve of signal to noise over the steps, on a log scale, with a dotted line at 1",
        f"In {(ratio < 1).sum()} of {zoo.steps} steps there is more noise than picture in x_t.",
        f"On a cosine schedule, which the zoo's models do not use, it is {(others < 1).sum()} of {zoo.steps}.",
    )


def schedules(zoo: Zoo) -> Sight:
    """The schedule that the models were trained with beside others."""
    walks = {"linear": Diffusion.named("linear"), "cosine": Diffusion.named("cosine"), "flow": Flow()}
    pairs = {name: [walk.levels(i) for i in range(len(walk.timesteps))] for name, walk in walks.items()}
    faint = {name: sum(a**2 < 0.01 for a, _ in levels) / len(levels) for name, levels in pairs.items()}
    return Sight(
        "Where schedules spend their steps",
        "`mnist`, its linear schedule beside two others",
        partial(schedule_plot, walks),
        "Three panels of curves over the steps of three schedules: alpha_bar, log of signal to noise, and sigma",
        f"In {faint['linear']:.0%} of the linear schedule's steps under a hundredth of the picture's power is left.",
        f"Of the cosine schedule's it is {faint['cosine']:.0%}, of flow matching's straight line {faint['flow']:.0%}.",
    )


def spectra(zoo: Zoo) -> Sight:
    """Power by frequency on the way."""
    run = zoo.run("mnist", 7)
    found = path_spectra(run, sample=0)
    rises = found.x[:, 0] > 2 * rearrange(found.noise, "step -> step 1")
    half = len(found.frequency) // 2
    steps = [rises[:, frequency].nonzero()[:1].flatten().tolist() for frequency in (0, half)]
    coarse, fine = (f"from {said_step(run, step[0])} on" if step else "at no step" for step in steps)
    flat = rearrange(run.sample, "b c h w -> b c (h w)")
    mixed = rearrange(flat[..., shuffled(flat.shape[-1])], "b c (h w) -> b c h w", h=run.x.shape[-2])
    falls = [(power[0, 0] / power[0, -1]).item() for power in map(spectrum_of, (run.sample, mixed))]
    return Sight(
        "In which order frequencies come",
        "`mnist`, a 7",
        partial(path_spectra_plot, found),
        "Two panels of power over frequency, of x_t and of predicted x0, a curve for each of some timesteps",
        f"In x_t the lowest frequency has twice the noise's power {coarse}, that of {found.frequency[half]:.2g} cycles "
        f"per pixel {fine}; the finished 7 has {falls[0]:.0f} times the power at its lowest that it has at its "
        "highest.",
        f"With the 7's pixels in random order it is {falls[1]:.1f} times.",
    )


def changes(zoo: Zoo) -> Sight:
    """How far predicted x0 moves from step to step."""
    run = zoo.run("mnist", 7)
    found = x0_changes(run)
    walked = torch.tensor([moved(*pair) for pair in pairwise(run.x[:, 0])])
    half = lambda moves: int((moves.cumsum(0) < moves.sum() / 2).sum()) + 1
    return Sight(
        "When is it decided?",
        "`mnist`, a 7",
        partial(x0_changes_plot, found),
        "A curve of how far predicted x0 moves at each step, on a log scale",
        f"After {half(found.whole)} of {len(found.whole)} moves predicted x0 has gone half of its whole way.",
        f"x_t itself takes {half(walked)} for half of its own.",
    )


def channels(zoo: Zoo) -> Sight:
    """The channels of a latent in numbers."""
    run, digit = zoo.run("cifar10", SHIP), zoo.run("mnist", 7)
    found, plain = x0_channels(run), x0_channels(digit)
    std = ", ".join(f"{value:.2f}" for value in found.std[-1])
    reach = lambda numbers: f"{numbers.low[-1].min():.2f} to {numbers.high[-1].max():.2f}"
    return Sight(
        "The channels of a latent",
        "`cifar10`, a ship, in the four channels of its VAE",
        partial(x0_channels_plot, found, run.t),
        "Four panels, one a channel, with the range, the deviation and the mean of predicted x0 over the steps",
        f"At the end the channels have standard deviations of {std}, and values from {reach(found)}.",
        "The one channel of `mnist`'s 7, whose training pictures lie between -1 and 1, has values from "
        f"{reach(plain)}.",
    )


def guidance(zoo: Zoo) -> Sight:
    """What the label adds to eps."""
    run, other, model = zoo.run("mnist", 7), zoo.run("mnist", 3), zoo.model("mnist")
    found, against = guidance_field(run, model), guidance_field(other, model)
    top = int(found.norm.argmax())
    return Sight(
        "What the label asks for",
        "`mnist`, a 7",
        partial(guidance_strip, found),
        "A strip of signed maps of what the label changes, and curves of their norm and of their angle to eps",
        f"The label changes eps most at {said_step(run, top)}, and all along at {found.angle.min():.0f} to "
        f"{found.angle.max():.0f} degrees to it (at 90 it asks for something else than more of the same).",
        f"What the label of a 3 from the same noise changes at that step has a correlation of "
        f"{alike(found.field[top], against.field[top]):.2f} with it.",
    )


def modulation(zoo: Zoo) -> Sight:
    """Shifts, scales and gates by block and step."""
    model, run = zoo.model("mnist"), zoo.run("mnist", 7)
    norms, others = run.modulation_norms(model), zoo.run("mnist", 3).modulation_norms(model)
    swing = {part: (norm.amax(1) - norm.amin(1)) / norm.mean(1) for part, norm in norms.items()}
    part = max(swing, key=lambda name: swing[name].max())
    block = int(swing[part].argmax())
    apart = ((norms[part] - others[part]).abs() / norms[part])[block].max()
    return Sight(
        "Shifts, scales and gates over time",
        "`mnist`, a 7",
        partial(modulation_heat_map, norms, run.t, run.config.block_names),
        "Six heat maps, shift, scale and gate of attention and of MLP, blocks in rows and timesteps in columns",
        f"Over the run {part.replace('_', ' ')} of block {block} swings most, by {swing[part][block]:.0%} of its mean.",
        f"Where a 3 is asked for instead of a 7 it differs by {apart:.0%} at most.",
    )


PATH = way, digits, fewer_steps, levels, schedules, spectra, changes, channels, guidance, modulation
