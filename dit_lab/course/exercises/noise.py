"""Notebook 1: how much of the picture is left, x_t in one jump, and the ratio of powers (2006.11239, section 2)."""

import torch
from einops import rearrange

from dit_lab.course.exercise import Exercise, Mistake


def alpha_bar(betas):
    """The share of the picture's power that is left after each step: `betas: t -> t`."""
    return torch.cumprod(1 - betas, dim=0)


def noised(x0, eps, alpha_bar):
    """x_t in one jump: `x0, eps: b c h w, alpha_bar: b -> b c h w`."""
    alpha_bar = rearrange(alpha_bar, "b -> b 1 1 1")
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps


def log_snr(alpha_bar):
    """The natural log of signal power over noise power: `alpha_bar: t -> t`."""
    return torch.log(alpha_bar / (1 - alpha_bar))


def level(alpha_bar):
    """`b -> b 1 1 1`."""
    return rearrange(alpha_bar, "b -> b 1 1 1")


EXERCISES = (
    Exercise(
        notebook=1,
        solution=alpha_bar,
        signature="(betas: t) -> t",
        inputs=lambda draw, steps, most: (draw.uniform(steps, low=1e-4, high=most),),
        sizes=((7, 0.5), (1, 0.3), (1000, 0.02)),
        mistakes=(
            Mistake(
                lambda betas: torch.cumprod(betas, dim=0),
                "You multiply the betas themselves. beta is what a step takes away; what is left after it is the rest "
                "of 1. As it stands a thousand small betas make 0 at once, and a DiT would see pure noise at every t.",
            ),
            Mistake(
                lambda betas: 1 - torch.cumsum(betas, dim=0),
                "You add up what the steps take. Each step takes its share of what is left, not of the whole, so the "
                "shares multiply; added up, they fall below 0 long before the last of a DiT's 1000 steps.",
            ),
            Mistake(
                lambda betas: torch.cat([torch.ones_like(betas[:1]), torch.cumprod(1 - betas, dim=0)[:-1]]),
                "Your list is one step late: it begins with 1, a picture without any noise. alpha_bar[0] is what is "
                "left after the first step. The late list is alpha_bar_previous, which the ancestral step needs too; "
                "a DiT that is told t while its noise is that of t - 1 learns to take out the wrong amount.",
            ),
            Mistake(
                lambda betas: torch.cumprod(1 - betas, dim=0).sqrt(),
                "That is the square root of it: the factor of the picture. alpha_bar is the share of its power; the "
                "root comes later, where a picture is multiplied, and taken twice it leaves too much picture.",
            ),
            Mistake(
                lambda betas: 1 - betas,
                "That is what each step leaves of the step before (alpha). The bar means all steps so far together: "
                "without it every x_t is nearly clean, and a DiT never sees the noise that sampling starts from.",
            ),
            Mistake(
                lambda betas: 1 - torch.cumprod(1 - betas, dim=0),
                "That is the noise's share of the power, 1 - alpha_bar. With picture and noise exchanged, t = 0 would "
                "be the noisiest step for the DiT.",
            ),
            Mistake(
                lambda betas: torch.exp(-torch.cumsum(betas, dim=0)),
                "exp(-sum of betas) is the limit of infinitely many tiny steps. It is near, but these steps are not "
                "infinitely small, and the variance of x_t would no longer be exactly 1.",
            ),
        ),
        hints=(
            "A step keeps 1 - beta of the power that it finds. What is left after two steps?",
            "It is a running product: entry t holds the product of all steps up to t, its own included.",
            "torch.cumprod runs along an axis; what runs is not beta but what beta leaves.",
        ),
        known="You can now say, for any schedule, how much of the picture survives to step t.",
    ),
    Exercise(
        notebook=1,
        solution=noised,
        signature="(x0: b c h w, eps: b c h w, alpha_bar: b) -> b c h w",
        inputs=lambda draw, b, c, h, w: (
            draw.normal(b, c, h, w),
            draw.normal(b, c, h, w),
            draw.uniform(b, low=0.05, high=0.95),
        ),
        sizes=((2, 3, 4, 6), (1, 2, 5, 3), (3, 4, 2, 3)),
        mistakes=(
            Mistake(
                lambda x0, eps, alpha_bar: level(alpha_bar) * x0 + (1 - level(alpha_bar)) * eps,
                "You weigh with alpha_bar and 1 - alpha_bar themselves. Those are shares of power, and what multiplies "
                "a picture is an amplitude, whose square is the power. As it stands x_t loses variance in the middle "
                "of the process, and the DiT's inputs swell and shrink with t.",
            ),
            Mistake(
                lambda x0, eps, alpha_bar: (1 - level(alpha_bar)).sqrt() * x0 + level(alpha_bar).sqrt() * eps,
                "Picture and noise have each other's factor. alpha_bar near 1 means an early step, where nearly all is "
                "picture; exchanged, t = 0 is the noisiest, and the DiT's sense of time is upside down.",
            ),
            Mistake(
                lambda x0, eps, alpha_bar: level(alpha_bar).sqrt() * x0 + (1 - level(alpha_bar).sqrt()) * eps,
                "The noise's factor is taken from the picture's: 1 minus its root. It is the powers that add up to 1, "
                "not the amplitudes. This way there is too little noise at every step.",
            ),
            Mistake(
                lambda x0, eps, alpha_bar: level(alpha_bar).sqrt() * x0 + (1 - level(alpha_bar)) * eps,
                "The picture's factor has its root, the noise's has none. Both are amplitudes; without it there is too "
                "little noise, most of all where there should be little.",
            ),
            Mistake(
                lambda x0, eps, alpha_bar: level(alpha_bar).sqrt() * x0 + eps,
                "The noise is added at full strength. The process keeps the variance at 1: what the picture loses in "
                "power the noise gains, so it has a factor of its own. A network's inputs should not grow with t.",
            ),
            Mistake(
                lambda x0, eps, alpha_bar: alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps,
                "alpha_bar has one number a picture, and met without axes of its own it is laid along the last axis, "
                "the columns. It stops where those differ in number; where they agree, every column would silently get "
                "another t. Each picture of a batch has its own t: give alpha_bar its axes b 1 1 1.",
            ),
        ),
        hints=(
            "x_t is a sum of two things, and each has a factor. The squares of the factors add up to 1.",
            "The picture's power is alpha_bar, so its factor is the square root of that. And the noise's?",
            'Write rearrange(alpha_bar, "b -> b 1 1 1") first; then both roots, each times its tensor, added.',
        ),
        known="Any step of the process is one multiplication away: training can pick t at random.",
    ),
    Exercise(
        notebook=1,
        solution=log_snr,
        signature="(alpha_bar: t) -> t",
        inputs=lambda draw, steps, low, high: (draw.uniform(steps, low=low, high=high),),
        sizes=((9, 0.02, 0.98), (1, 0.2, 0.3), (6, 4e-5, 2e-3)),
        mistakes=(
            Mistake(
                lambda alpha_bar: torch.log10(alpha_bar / (1 - alpha_bar)),
                "That is the logarithm to base 10. Papers on schedules and the samplers that step evenly in log SNR "
                "(DPM-Solver) take the natural one; all would be off by a factor of 2.3.",
            ),
            Mistake(
                lambda alpha_bar: torch.log(alpha_bar / (1 - alpha_bar)) / 2,
                "That is half of it: the log of the ratio of amplitudes, which DPM-Solver calls lambda. The SNR here "
                "is a ratio of powers, whose log is twice that.",
            ),
            Mistake(
                lambda alpha_bar: torch.log((1 - alpha_bar) / alpha_bar),
                "Upside down: that is noise to signal. Signal to noise falls from start to end of the process, from "
                "far above 0 to far below.",
            ),
            Mistake(
                lambda alpha_bar: torch.log(alpha_bar),
                "That is the log of the signal's power alone. What decides how hard a step is for a DiT is how that "
                "compares with the noise, so the noise's power belongs in it.",
            ),
            Mistake(
                lambda alpha_bar: alpha_bar / (1 - alpha_bar),
                "That is the ratio itself. It runs over eight powers of ten; its log is what is even and can be drawn.",
            ),
            Mistake(
                lambda alpha_bar: 10 * torch.log10(alpha_bar / (1 - alpha_bar)),
                "Those are decibels. Asked for is the natural log, in which the papers on schedules speak.",
            ),
        ),
        hints=(
            "What is the signal's share of the power in x_t, and what is the noise's?",
            "x0 and eps have power 1, so the powers are alpha_bar and what it leaves of 1.",
            "Divide the one by the other, then torch.log. (torch.logit does both.)",
        ),
        known="log SNR is 0 where picture and noise are equally strong, whatever the schedule calls that t.",
    ),
)
