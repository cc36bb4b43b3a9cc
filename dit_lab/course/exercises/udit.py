"""Notebook 9: U-DiT's interleaved grids, its folded linears, and how coarse features are (2405.02730, section 3)."""

import torch
from einops import rearrange, reduce

from dit_lab.course.exercise import Exercise, Mistake


def interleaved_tokens(x, factor):
    """Token downsampling, one grid an offset: `x: b (h p) (w q) d -> (b p q) (h w) d`."""
    return rearrange(x, "b (h p) (w q) d -> (b p q) (h w) d", p=factor, q=factor)


def fold_linears(weight1, bias1, weight2, bias2):
    """Two linears as one: `weight1: m d, bias1: m, weight2: e m, bias2: e -> weight: e d, bias: e`."""
    return weight2 @ weight1, weight2 @ bias1 + bias2


def low_frequency_share(x):
    """The share of the Fourier power at a radius of at most 0.25 cycles a token, 0 left out: `x: b d h w -> float`."""
    power = torch.fft.fft2(x).abs() ** 2
    rows, columns = (torch.fft.fftfreq(side, dtype=x.dtype) for side in x.shape[-2:])
    radius = torch.sqrt(rearrange(rows, "h -> h 1") ** 2 + columns**2)
    low = (radius > 0) & (radius <= 0.25)
    return (power[..., low].sum() / power[..., radius > 0].sum()).item()


def grids_by(pattern):
    """`interleaved_tokens` by another pattern."""
    return lambda x, factor: rearrange(x, pattern, p=factor, q=factor)


def radius_of(x, frequencies=torch.fft.fftfreq, far=lambda rows, columns: (rows**2 + columns**2).sqrt()):
    """How far each Fourier mode is from 0: `-> h w`."""
    rows, columns = (frequencies(side).double() for side in x.shape[-2:])
    return far(rearrange(rows, "h -> h 1"), rearrange(columns, "w -> 1 w"))


def share(power, radius, low=lambda radius: radius <= 0.25, least=0.0):
    """The share of a power that is low, among what lies above `least`."""
    counted = radius > least
    return (power[..., counted & low(radius)].sum() / power[..., counted].sum()).item()


def power_of(x):
    """The Fourier power of each map."""
    return torch.fft.fft2(x).abs() ** 2


def mean_of_shares(x):
    """The share of each map by itself, averaged."""
    power, radius = power_of(x), radius_of(x)
    low = (radius > 0) & (radius <= 0.25)
    return (power[..., low].sum(-1) / power[..., radius > 0].sum(-1)).mean().item()


def smooth_and_rough(draw, b, d, h, w):
    """Features of which each has a loudness of its own, on a constant ground."""
    x, loud = draw.normal(b, d, h, w), draw.uniform(b, d, 1, 1, low=0.2, high=3)
    return (loud * (x + torch.roll(x, 1, dims=-1)) + 0.5,)


EXERCISES = (
    Exercise(
        notebook=9,
        solution=interleaved_tokens,
        signature="(x: b (h p) (w q) d, factor: int) -> (b p q) (h w) d",
        inputs=lambda draw, b, h, w, d, factor: (draw.normal(b, h * factor, w * factor, d), factor),
        sizes=((2, 2, 3, 5, 2), (1, 4, 2, 3, 2), (3, 1, 2, 4, 3)),
        learns=True,
        mistakes=(
            Mistake(
                grids_by("b (p h) (q w) d -> (b p q) (h w) d"),
                "You cut the picture into contiguous quarters: h and p are exchanged inside the brackets. U-DiT's "
                "grids interleave, every second token each, so that each sees the whole picture at half the "
                "resolution; in quarters, no token would ever see another quarter.",
            ),
            Mistake(
                grids_by("b (h p) (w q) d -> (b h w) (p q) d"),
                "You made a sequence of each small square: local windows. The tokens of a grid are those at the same "
                "offset in all squares; downsampled attention looks far, and only every second token.",
            ),
            Mistake(
                grids_by("b (h p) (w q) d -> (p q b) (h w) d"),
                "The grids of one picture are not together: your batch runs over offsets first. Attention does not "
                "mind, but what takes the grids apart again expects b first and would mix pictures.",
            ),
            Mistake(
                grids_by("b (h p) (w q) d -> (b q p) (h w) d"),
                "The offsets are in the wrong order: columns before rows. Put back together, two of the four grids "
                "would land in each other's place.",
            ),
            Mistake(
                grids_by("b (h p) (w q) d -> (b p q) (w h) d"),
                "The tokens of a grid run down its columns. Sequences here go row by row, and the rotary positions "
                "are in that order.",
            ),
            Mistake(
                lambda x, factor: reduce(x, "b (h p) (w q) d -> b (h w) d", "mean", p=factor, q=factor),
                "You average over each square. Pooling loses three quarters of what there was; U-DiT splits the tokens "
                "into grids and loses none, at the same price.",
            ),
        ),
        hints=(
            "Each side of the grid is two axes in one: which square, and which offset in the square.",
            "Tokens with the same offset make a grid; the offsets join the batch, as if they were more pictures.",
            'rearrange(x, "b (h p) (w q) d -> ...", p=factor, q=factor): b p q in one bracket, h w in the other.',
        ),
        known="Four grids of n / 4 tokens cost a quarter of the attention, and nothing was thrown away.",
    ),
    Exercise(
        notebook=9,
        solution=fold_linears,
        signature="(weight1: m d, bias1: m, weight2: e m, bias2: e) -> weight: e d, bias: e",
        inputs=lambda draw, d, m, e: (draw.normal(m, d), draw.normal(m), draw.normal(e, m), draw.normal(e)),
        sizes=((3, 5, 4), (2, 6, 2), (4, 4, 4)),
        mistakes=(
            Mistake(
                lambda w1, b1, w2, b2: (w1 @ w2, w2 @ b1 + b2),
                "The weights are multiplied in the order in which they are applied. Written as matrices before x, the "
                "later one stands to the left.",
            ),
            Mistake(
                lambda w1, b1, w2, b2: (w2 @ w1, b1 + b2),
                "The biases are just added. The first one also passes through the second layer, and is changed by its "
                "weights. Where the widths differ this stops; where they agree, U-DiT's folded model would be quietly "
                "another one.",
            ),
            Mistake(
                lambda w1, b1, w2, b2: (w2 @ w1, b2),
                "The first layer's bias is lost. It passes through the second layer's weights into the folded bias.",
            ),
            Mistake(
                lambda w1, b1, w2, b2: (w2 @ w1, w2 @ b1),
                "The second layer's bias is lost: it is added at the end, unchanged.",
            ),
            Mistake(
                lambda w1, b1, w2, b2: (w1.T @ w2.T, w2 @ b1 + b2),
                "The weight is turned over: d e. PyTorch's linear layers keep theirs as outputs x inputs, e d.",
            ),
        ),
        hints=(
            "Write it out: weight2 (weight1 x + bias1) + bias2, and multiply out.",
            "What stands before x is the new weight; everything without an x is the new bias.",
            "The weight is weight2 @ weight1; the bias is bias1 taken through weight2, plus bias2.",
        ),
        known="U-DiT trains with two matrices and samples with one: the same function at half the price.",
    ),
    Exercise(
        notebook=9,
        solution=low_frequency_share,
        signature="(x: b d h w) -> float",
        inputs=smooth_and_rough,
        sizes=((2, 3, 8, 6), (1, 2, 4, 6), (2, 4, 5, 7)),
        mistakes=(
            Mistake(
                lambda x: share(power_of(x), radius_of(x), least=-1.0),
                "Frequency 0 is counted: the mean of each map. It is no structure, it is often the largest number of "
                "all, and with it any features look coarse.",
            ),
            Mistake(
                lambda x: share(torch.fft.fft2(x).abs(), radius_of(x)),
                "You add up amplitudes. Power is their square: by Parseval it is power that adds up to the energy of "
                "the features.",
            ),
            Mistake(
                lambda x: share(power_of(x), radius_of(x), low=lambda radius: radius < 0.25),
                "A radius of exactly 0.25 belongs to the low ones here, and you leave it out. On small grids many "
                "modes lie there.",
            ),
            Mistake(
                lambda x: share(power_of(x), radius_of(x, far=lambda r, c: torch.maximum(r.abs(), c.abs()))),
                "You ask that each axis be low by itself: a square. A wave's frequency is its distance from 0, so the "
                "corners of that square are not low.",
            ),
            Mistake(
                lambda x: share(power_of(x), radius_of(x, lambda side: torch.arange(side) / side)),
                "Your frequencies run from 0 up to 1. In a Fourier transform the second half are the negative ones: "
                "what you take for the highest is as slow as the lowest. torch.fft.fftfreq knows them.",
            ),
            Mistake(
                lambda x: share(torch.fft.fftshift(power_of(x), dim=(-2, -1)), radius_of(x)),
                "The power is shifted to the middle and the frequencies are not, or the other way round: what you call "
                "low is what is highest.",
            ),
            Mistake(
                mean_of_shares,
                "You average the shares of single maps. The share of the power is asked for: add up over all maps "
                "first, divide once; else a feature that is nearly silent counts as much as the loudest.",
            ),
        ),
        hints=(
            "torch.fft.fft2 goes over the last two axes; power is the square of the absolute value.",
            "torch.fft.fftfreq gives the frequencies of one axis in cycles a token; the radius is by Pythagoras.",
            "Sum the power where 0 < radius <= 0.25, and divide by the sum where radius > 0, over all maps at once.",
        ),
        known="Where this is near 1, half the resolution loses little: the finding that U-DiT is built on.",
    ),
)
