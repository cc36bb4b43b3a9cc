"""Notebook 6: from a noise prediction back to a picture (2006.11239; 2010.02502; 2207.12598)."""

import torch
from einops import rearrange

from dit_lab.course.exercise import Exercise, Mistake


def predicted_x0(x, eps, alpha_bar):
    """The picture that a noise prediction implies: `x, eps: b c h w, alpha_bar: b -> b c h w`."""
    alpha_bar = rearrange(alpha_bar, "b -> b 1 1 1")
    return (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def ddim_step(x0, eps, alpha_bar_next):
    """One deterministic step, eta 0: `x0, eps: b c h w, alpha_bar_next: b -> b c h w`."""
    alpha_bar_next = rearrange(alpha_bar_next, "b -> b 1 1 1")
    return alpha_bar_next.sqrt() * x0 + (1 - alpha_bar_next).sqrt() * eps


def posterior_mean(x0, x, beta, alpha_bar, alpha_bar_previous):
    """The ancestral step's mean, equation 7 of DDPM: `x0, x: b c h w; the others: b -> b c h w`."""
    beta, now, before = rearrange([beta, alpha_bar, alpha_bar_previous], "three b -> three b 1 1 1")
    of_x0 = beta * before.sqrt() / (1 - now)
    of_x = (1 - before) * (1 - beta).sqrt() / (1 - now)
    return of_x0 * x0 + of_x * x


def guided(cond, uncond, scale):
    """Classifier-free guidance, scale 1 being none: `cond, uncond: b c h w -> b c h w`."""
    return uncond + scale * (cond - uncond)


def level(alpha_bar):
    """`b -> b 1 1 1`."""
    return rearrange(alpha_bar, "b -> b 1 1 1")


def implied(of_eps, of_x):
    """`predicted_x0` with other factors, both made of alpha_bar's `b 1 1 1`."""
    return lambda x, eps, alpha_bar: (x - of_eps(level(alpha_bar)) * eps) / of_x(level(alpha_bar))


def mean_by(of_x0, of_x):
    """`posterior_mean` with other factors, made of beta, alpha_bar and alpha_bar_previous."""

    def made(x0, x, beta, alpha_bar, alpha_bar_previous):
        levels = level(beta), level(alpha_bar), level(alpha_bar_previous)
        return of_x0(*levels) * x0 + of_x(*levels) * x

    return made


def of_x0(beta, now, before):
    """The right factor of x0."""
    return beta * before.sqrt() / (1 - now)


def of_x(beta, now, before):
    """The right factor of x_t."""
    return (1 - before) * (1 - beta).sqrt() / (1 - now)


def one_step(draw, b, c, h, w, first=False):
    """Pictures, and the numbers of one step of a schedule that hang together."""
    beta, before = draw.uniform(b, low=0.02, high=0.3), draw.uniform(b, low=0.2, high=0.95)
    before = torch.ones_like(before) if first else before
    return draw.normal(b, c, h, w), draw.normal(b, c, h, w), beta, before * (1 - beta), before


def pictures(draw, b, c, h, w):
    """Two pictures and an alpha_bar each."""
    return draw.normal(b, c, h, w), draw.normal(b, c, h, w), draw.uniform(b, low=0.05, high=0.95)


SIZES = (2, 3, 4, 6), (1, 4, 5, 3), (3, 4, 2, 3)
ALONG_COLUMNS = (
    "alpha_bar has one number a picture and lies along the last axis as it is, the columns: that stops, or, where "
    "there are as many columns as pictures, gives each column another picture's level. Give it the axes b 1 1 1."
)

EXERCISES = (
    Exercise(
        notebook=6,
        solution=predicted_x0,
        signature="(x: b c h w, eps: b c h w, alpha_bar: b) -> b c h w",
        inputs=pictures,
        sizes=SIZES,
        mistakes=(
            Mistake(
                implied(lambda a: 1 - a, lambda a: a),
                "The roots are missing. alpha_bar is a share of power; picture and noise were multiplied by its root "
                "and that of the rest, and are got back by the same numbers.",
            ),
            Mistake(
                implied(lambda a: (1 - a).sqrt(), lambda a: 1),
                "The noise is out, but the picture was also made fainter, by sqrt(alpha_bar), and that is not undone: "
                "at the noisy end your x0 is next to nothing, and the sampler's first steps go nowhere.",
            ),
            Mistake(
                implied(lambda a: 1, lambda a: a.sqrt()),
                "You take out the noise at full strength. In x_t it is weighed by sqrt(1 - alpha_bar): at small t you "
                "would take out far more noise than there is.",
            ),
            Mistake(
                implied(lambda a: a.sqrt(), lambda a: (1 - a).sqrt()),
                "The two factors are exchanged: the noise's is the root of 1 - alpha_bar, the picture's that of "
                "alpha_bar.",
            ),
            Mistake(
                implied(lambda a: -(1 - a).sqrt(), lambda a: a.sqrt()),
                "You add the noise once more: a sign. x_t is picture plus noise, so the noise is taken away.",
            ),
            Mistake(
                lambda x, eps, alpha_bar: (x - (1 - level(alpha_bar)).sqrt() * eps) * level(alpha_bar).sqrt(),
                "You multiply by sqrt(alpha_bar) where you should divide: the picture was made fainter on its way into "
                "x_t, and has to be made stronger again.",
            ),
            Mistake(lambda x, eps, alpha_bar: (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt(), ALONG_COLUMNS),
        ),
        hints=(
            "Write down how x_t was made of x0 and eps, and solve for x0.",
            "Take the noise away with its factor; what is left is the picture times its own.",
            "(x - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), alpha_bar first given the axes b 1 1 1.",
        ),
        known="At every step you can look at what the network thinks the picture will be.",
    ),
    Exercise(
        notebook=6,
        solution=ddim_step,
        signature="(x0: b c h w, eps: b c h w, alpha_bar_next: b) -> b c h w",
        inputs=pictures,
        sizes=SIZES,
        mistakes=(
            Mistake(
                lambda x0, eps, a: level(a) * x0 + (1 - level(a)) * eps,
                "The roots are missing: shares of power where amplitudes belong. x would have less variance than the "
                "network was trained to see at that t.",
            ),
            Mistake(
                lambda x0, eps, a: (1 - level(a)).sqrt() * x0 + level(a).sqrt() * eps,
                "Picture and noise have each other's factor. Sampling goes towards alpha_bar = 1, where nothing but "
                "the picture is left; yours would end in pure noise.",
            ),
            Mistake(
                lambda x0, eps, a: level(a).sqrt() * x0,
                "The noise is left out. The network at the next step expects x with that step's amount of noise; "
                "without it, it sees a faint blur it was never trained on.",
            ),
            Mistake(
                lambda x0, eps, a: level(a).sqrt() * x0 + (1 - level(a).sqrt()) * eps,
                "The noise's factor is 1 minus the picture's. It is the squares that add up to 1: there is too little "
                "noise for the next t.",
            ),
            Mistake(
                lambda x0, eps, a: x0,
                "You jump to the predicted x0 at once. That is a blurred average of all that the picture may become; a "
                "step goes back to the next noise level only, and asks again.",
            ),
            Mistake(lambda x0, eps, a: a.sqrt() * x0 + (1 - a).sqrt() * eps, ALONG_COLUMNS),
        ),
        hints=(
            "DDIM makes x at the next, less noisy step out of the same x0 and the same eps.",
            "You know that formula: it is how x_t was made in notebook 1, with the next step's alpha_bar.",
            "sqrt(alpha_bar_next) x0 + sqrt(1 - alpha_bar_next) eps, with axes b 1 1 1. No new noise: eta is 0.",
        ),
        known="Sampling is noising again, each time less: the same seed gives the same picture.",
    ),
    Exercise(
        notebook=6,
        solution=posterior_mean,
        signature="(x0: b c h w, x: b c h w, beta: b, alpha_bar: b, alpha_bar_previous: b) -> b c h w",
        inputs=one_step,
        sizes=(*SIZES, (2, 2, 3, 5, True)),
        mistakes=(
            Mistake(
                mean_by(of_x, of_x0),
                "The two factors are exchanged. A step is small, so the mean lies near x_t, and x0 only draws at it; "
                "exchanged, the sampler jumps to its first guess and stays there.",
            ),
            Mistake(
                mean_by(lambda beta, now, before: beta * now.sqrt() / (1 - now), of_x),
                "In x0's factor you take the root of alpha_bar at this step. It is the one before: the mean is that of "
                "x_{t-1}, which holds sqrt(alpha_bar_previous) of the picture.",
            ),
            Mistake(
                mean_by(of_x0, lambda beta, now, before: (1 - before) * (1 - beta) / (1 - now)),
                "In x_t's factor the root of 1 - beta is missing. It is an amplitude: what a step leaves of it.",
            ),
            Mistake(
                mean_by(lambda beta, now, before: beta * before / (1 - now), of_x),
                "In x0's factor the root of alpha_bar_previous is missing: it is an amplitude, not a share of power.",
            ),
            Mistake(
                mean_by(
                    lambda beta, now, before: beta * before.sqrt(),
                    lambda beta, now, before: (1 - before) * (1 - beta).sqrt(),
                ),
                "Neither factor is divided by 1 - alpha_bar. As it stands they do not weigh anything against each "
                "other, and near the picture, where 1 - alpha_bar is tiny, the mean all but vanishes.",
            ),
            Mistake(
                mean_by(of_x0, lambda beta, now, before: (1 - now) * (1 - beta).sqrt() / (1 - now)),
                "In x_t's factor you have 1 - alpha_bar of this step above the line, which cancels. It is the step "
                "before's: how much noise is left there.",
            ),
        ),
        hints=(
            "It is a weighted sum of x0 and x_t (equation 7 of DDPM); both weights are divided by 1 - alpha_bar.",
            "x0 weighs beta times the root of alpha_bar_previous; x_t weighs what noise is left one step before, "
            "times the root of what this step leaves.",
            "of_x = (1 - alpha_bar_previous) sqrt(1 - beta) / (1 - alpha_bar), and of_x0 likewise.",
        ),
        known="If x0 were known, this is where x_{t-1} would lie; DDPM puts the network's guess in its place.",
    ),
    Exercise(
        notebook=6,
        solution=guided,
        signature="(cond: b c h w, uncond: b c h w, scale: float) -> b c h w",
        inputs=lambda draw, b, c, h, w, scale: (draw.normal(b, c, h, w), draw.normal(b, c, h, w), scale),
        sizes=((2, 4, 3, 5, 4.0), (1, 4, 6, 2, 1.5), (3, 4, 2, 3, 1.0), (2, 3, 4, 2, 0.0)),
        mistakes=(
            Mistake(
                lambda cond, uncond, scale: cond + scale * (cond - uncond),
                "Your scale counts from 0: at 1 it already guides. In DiT's scale 1 is no guidance, 4 what its script "
                "samples with; the guidance paper's w is one less. Mixing them up gives FIDs nobody can compare.",
            ),
            Mistake(
                lambda cond, uncond, scale: cond + scale * (uncond - cond),
                "The two halves are exchanged: with a scale above 1 you push away from the label. Every class would be "
                "drawn as if it were none.",
            ),
            Mistake(
                lambda cond, uncond, scale: scale * (cond - uncond),
                "The unconditional prediction is subtracted and not put back. What is left is the direction alone, no "
                "noise estimate: at scale 1 the result must be cond.",
            ),
            Mistake(
                lambda cond, uncond, scale: scale * cond,
                "You only make the conditional prediction larger. Guidance exaggerates what the label changed, so it "
                "needs the half without a label to compare with; a larger eps only takes out too much noise.",
            ),
            Mistake(
                lambda cond, uncond, scale: torch.cat([guided(cond, uncond, scale)[:, :3], cond[:, 3:]], dim=1),
                "You guide the first three channels alone. DiT's own script does (a leftover, kept for its figures), "
                "and the notebook measures it; this function is the plain one, all channels alike.",
            ),
            Mistake(
                lambda cond, uncond, scale: scale * cond - (1 - scale) * uncond,
                "A sign: the halves' shares should add up to 1, scale and 1 - scale. Yours add up to 2 scale - 1, so "
                "the noise estimate is too large by that.",
            ),
        ),
        hints=(
            "What did the label change? Exaggerate that, starting from the half without a label.",
            "At scale 0 you get uncond, at scale 1 cond, and beyond it goes on along the same line.",
            "uncond plus scale times the difference, label minus no label.",
        ),
        known="Guidance is a line through two predictions, followed beyond the second.",
    ),
)
