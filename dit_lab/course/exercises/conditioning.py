"""Notebook 4: how a DiT is told t and y, and what adaLN-Zero does with it (DiT paper, section 3.2)."""

import math

import torch
from einops import rearrange

from dit_lab.course.exercise import Exercise, Mistake


def timestep_waves(t, width):
    """DiT's sinusoids of the timestep, cosines first: `t: b -> b width`."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half) / half)
    angles = rearrange(t, "b -> b 1") * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def drop_labels(y, dropped, num_classes):
    """What classifier-free training sees, the null label where a label is dropped: `y: b, dropped: b bool -> b`."""
    return torch.where(dropped, num_classes, y)


def modulate(x, shift, scale):
    """Adaptive layer norm's last step: `x: b n d, shift, scale: b d -> b n d`."""
    return x * (1 + rearrange(scale, "b d -> b 1 d")) + rearrange(shift, "b d -> b 1 d")


def gated_branch(x, branch, gate):
    """The residual of adaLN-Zero: `x, branch: b n d, gate: b d -> b n d`."""
    return x + rearrange(gate, "b d -> b 1 d") * branch


def waves(t, width, *, count=lambda half: half, base=10000, join=lambda cos, sin: torch.cat([cos, sin], dim=-1)):
    """`timestep_waves`, made otherwise."""
    half = width // 2
    frequencies = torch.exp(-math.log(base) * torch.arange(half) / count(half))
    angles = rearrange(t, "b -> b 1") * frequencies
    return join(angles.cos(), angles.sin())


def each(vector):
    """`b d -> b 1 d`, the same for all tokens."""
    return rearrange(vector, "b d -> b 1 d")


def timesteps(draw, b, width, most):
    """Timesteps, whole ones where the probe's numbers are; the first of several is 0."""
    t = draw.uniform(b, low=1, high=most)
    t[: b > 1] = 0
    return t, width


BESIDE_TOKENS = (
    "A condition is one vector a picture, b d; met as it is with b n d, its pictures are laid along the tokens. That "
    "stops, or, where there are as many tokens as pictures, silently gives each token another picture's condition. All "
    "tokens of a picture share its vector: give it the axes b 1 d."
)

EXERCISES = (
    Exercise(
        notebook=4,
        solution=timestep_waves,
        signature="(t: b, width: int) -> b width",
        inputs=timesteps,
        sizes=((3, 8, 999), (1, 6, 9), (5, 256, 999)),
        dtypes=(torch.int64, torch.float32),
        loose=1e-3,
        mistakes=(
            Mistake(
                lambda t, width: waves(t, width, join=lambda cos, sin: torch.cat([sin, cos], dim=-1)),
                "Sines come before cosines. That is the order of DiT's position table; its timestep code has the "
                "cosines first, and a checkpoint's first linear knows the features by their number.",
            ),
            Mistake(
                lambda t, width: waves(t, width, count=lambda half: half - 1),
                "Your exponent counts to half - 1, so that the last frequency is exactly 1/10000. That is diffusers' "
                "frequency shift of 1; DiT divides by half. It is a small difference at every t, and a loaded "
                "checkpoint no longer gives the original's numbers.",
            ),
            Mistake(
                lambda t, width: waves(t, width, count=lambda half: 2 * half),
                "You divide i by the whole width. There are half as many frequencies as features, and i runs over "
                "those: as it stands the slowest wave turns a hundred times too fast, and no feature tells early from "
                "late.",
            ),
            Mistake(
                lambda t, width: waves(t, width, join=lambda cos, sin: rearrange([cos, sin], "two b i -> b (i two)")),
                "Cosines and sines alternate, feature by feature. DiT has all cosines and then all sines.",
            ),
            Mistake(
                lambda t, width: waves(t, width, base=1000),
                "Your slowest wave has frequency 1/1000: the base is the number of timesteps. DiT's is 10000, whatever "
                "T is, as in the position codes it was taken from.",
            ),
            Mistake(
                lambda t, width: waves(t / 1000, width),
                "You divide t by 1000 first. DiT is told the number of the step as it is, 0 to 999; a thousandth of it "
                "leaves all waves but the first few flat, and the network can hardly tell the steps apart.",
            ),
        ),
        hints=(
            "Half of the features are cosines, half are sines, of the same angles: t times a frequency.",
            "There are width / 2 frequencies, falling from 1: frequency i is exp(-ln(10000) i / half).",
            "angles = t[:, None] * frequencies, then torch.cat of their cos and their sin, in this order.",
        ),
        known="One number has become a vector in which near timesteps are near and far ones are not.",
    ),
    Exercise(
        notebook=4,
        solution=drop_labels,
        signature="(y: b, dropped: b bool, num_classes: int) -> b",
        inputs=lambda draw, labels, dropped, num_classes: (
            torch.tensor(labels),
            torch.tensor(dropped, dtype=torch.bool),
            num_classes,
        ),
        sizes=(
            ([3, 0, 9, 4, 7], [0, 1, 0, 1, 0], 10),
            ([2], [0], 3),
            ([0, 999, 5], [1, 1, 0], 1000),
            ([1, 2, 1], [0, 0, 0], 4),
        ),
        dtypes=(torch.int64,),
        mistakes=(
            Mistake(
                lambda y, dropped, num_classes: torch.where(dropped, y, num_classes),
                "The other way round: those that are dropped keep their label, and the rest lose it. With one label in "
                "ten dropped, a DiT trained so would hardly ever see a class.",
            ),
            Mistake(
                lambda y, dropped, num_classes: torch.where(dropped, num_classes - 1, y),
                "You drop to the last class. Labels count from 0, so num_classes - 1 is a class of its own, and the "
                "null label is one more: the extra row of the label table. This way guidance would push away from the "
                "last class.",
            ),
            Mistake(
                lambda y, dropped, num_classes: torch.where(dropped, 0, y),
                "You drop to label 0, which is a class like any other (in ImageNet a fish). The null label must mean "
                "nothing else: it is num_classes, the extra row of the table.",
            ),
            Mistake(
                lambda y, dropped, num_classes: torch.where(dropped, -1, y),
                "You drop to -1. An embedding has no row -1: it stops on the CPU and crashes the kernel on a GPU. The "
                "null label is the extra row at the end of the table, num_classes.",
            ),
            Mistake(
                lambda y, dropped, num_classes: y,
                "All labels stay. Without dropped ones the null label is never trained, and guidance compares with a "
                "network's answer to a row of random numbers.",
            ),
            Mistake(
                lambda y, dropped, num_classes: y[~dropped],
                "You leave the dropped samples out. They stay in the batch, as pictures without a label: that is how "
                "the same network learns to do without one.",
            ),
        ),
        hints=(
            "The batch stays as long as it is; only some of its labels change.",
            "Classes are 0 to num_classes - 1. The label table has one row more: which number has it?",
            "torch.where(dropped, what they become, y).",
        ),
        known="One network learns both halves of guidance, with a label and without.",
    ),
    Exercise(
        notebook=4,
        solution=modulate,
        signature="(x: b n d, shift: b d, scale: b d) -> b n d",
        inputs=lambda draw, b, n, d: (draw.normal(b, n, d), draw.normal(b, d), draw.normal(b, d)),
        sizes=((2, 5, 3), (1, 4, 6), (3, 3, 4)),
        learns=True,
        mistakes=(
            Mistake(
                lambda x, shift, scale: x * each(scale) + each(shift),
                "You multiply by scale itself. adaLN multiplies by 1 + scale, so that a scale of 0, which is what the "
                "modulation is born with, leaves x as it is; yours would begin with every branch seeing nothing.",
            ),
            Mistake(
                lambda x, shift, scale: x * (1 + each(shift)) + each(scale),
                "Shift and scale are exchanged: what multiplies should be the scale. In a DiT's modulation the shift "
                "comes first of the two, and a checkpoint's would be read the wrong way round.",
            ),
            Mistake(
                lambda x, shift, scale: (x + each(shift)) * (1 + each(scale)),
                "You shift first and scale after, so that the shift is scaled too. DiT scales the normalised x and "
                "then adds the shift as it is.",
            ),
            Mistake(
                lambda x, shift, scale: x + each(scale) + each(shift),
                "The scale is added. It is a factor: 1 + scale for each feature.",
            ),
            Mistake(lambda x, shift, scale: x * (1 + scale) + shift, BESIDE_TOKENS),
        ),
        hints=(
            "Every feature is stretched and then moved, all tokens of a picture alike.",
            "A scale of 0 must change nothing: what is the factor then? And which axis is missing in b d?",
            'x * (1 + scale) + shift, both vectors first given their token axis: rearrange(..., "b d -> b 1 d").',
        ),
        known="This line is how t and y steer every block of a DiT.",
    ),
    Exercise(
        notebook=4,
        solution=gated_branch,
        signature="(x: b n d, branch: b n d, gate: b d) -> b n d",
        inputs=lambda draw, b, n, d: (draw.normal(b, n, d), draw.normal(b, n, d), draw.normal(b, d)),
        sizes=((2, 5, 3), (1, 4, 6), (3, 3, 4)),
        learns=True,
        mistakes=(
            Mistake(
                lambda x, branch, gate: each(gate) * (x + branch),
                "The gate multiplies the residual stream too. A gate of 0, as all are born, must leave x as it is: "
                "yours makes it 0, and nothing comes out of a new DiT however deep it is.",
            ),
            Mistake(
                lambda x, branch, gate: x + (1 + each(gate)) * branch,
                "The gate is not 1 + gate: that is the scale's form. With a gate of 0 the branch must be shut, so that "
                "a new block is the identity: the Zero in adaLN-Zero.",
            ),
            Mistake(
                lambda x, branch, gate: each(gate) * x + branch,
                "The gate is on the wrong summand: it closes the residual stream, and the branch is always open.",
            ),
            Mistake(
                lambda x, branch, gate: (1 - each(gate)) * x + each(gate) * branch,
                "You mix the two: what the branch gains the stream loses. A residual only adds. The sum over blocks "
                "that lets a DiT be read part by part holds because x itself is never scaled.",
            ),
            Mistake(
                lambda x, branch, gate: x + branch,
                "The gate is not used. Then every block works from the first step at full strength, which is plain "
                "adaLN: FID 25.21 after 400,000 steps of DiT-XL/2, against 19.47 with gates born 0.",
            ),
            Mistake(
                lambda x, branch, gate: x + each(gate).sigmoid() * branch,
                "You put the gate through a sigmoid. DiT's gates are plain numbers, of any size and sign; a sigmoid of "
                "0 is 0.5, so a new block would not be the identity.",
            ),
            Mistake(lambda x, branch, gate: x + gate * branch, BESIDE_TOKENS),
        ),
        hints=(
            "A gate of 0 must give x back, bit for bit.",
            "The gate weighs what the branch adds, feature by feature, alike for all tokens of a picture.",
            'x plus gate times branch, the gate first given its token axis: rearrange(gate, "b d -> b 1 d").',
        ),
        known="A new adaLN-Zero block is exactly the identity, and opens as training finds a use for it.",
    ),
)
