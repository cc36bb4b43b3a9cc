"""Notebook 5: the loss, the learned variance, the averaged weights (2006.11239; 2102.09672, section 3.1)."""

import torch
from einops import rearrange, reduce

from dit_lab.course.exercise import Exercise, Mistake


def simple_loss(eps, predicted):
    """L_simple, a sample: `eps, predicted: b c h w -> b`."""
    return reduce((eps - predicted) ** 2, "b c h w -> b", "mean")


def interpolated_log_variance(v, log_low, log_high):
    """The learned variance's log, v in [-1, 1] between two bounds: `v: b c h w; log_low, log_high: b -> b c h w`."""
    share = (v + 1) / 2
    return share * rearrange(log_high, "b -> b 1 1 1") + (1 - share) * rearrange(log_low, "b -> b 1 1 1")


def update_average(average, weights, decay):
    """One step of the weights' exponential moving average: two lists of tensors `-> list`."""
    return [decay * mean + (1 - decay) * weight for mean, weight in zip(average, weights, strict=True)]


def level(log):
    """`b -> b 1 1 1`."""
    return rearrange(log, "b -> b 1 1 1")


def mixed(share, low, high):
    """Between two bounds, `share: b c h w` of the way."""
    return share * high + (1 - share) * low


def averaged(how):
    """`update_average` by another rule, tensor by tensor."""
    return lambda average, weights, decay: [how(*pair, decay) for pair in zip(average, weights, strict=True)]


def bounds(draw, b, c, h, w):
    """Variance values and the logs of two variances, the lower one first."""
    low = draw.uniform(b, low=-9, high=-5)
    return draw.uniform(b, c, h, w, low=-1), low, low + draw.uniform(b, low=0.5, high=3)


EXERCISES = (
    Exercise(
        notebook=5,
        solution=simple_loss,
        signature="(eps: b c h w, predicted: b c h w) -> b",
        inputs=lambda draw, b, c, h, w: (draw.normal(b, c, h, w), draw.normal(b, c, h, w, scale=0.5)),
        sizes=((2, 3, 4, 6), (1, 4, 3, 5), (5, 1, 2, 3)),
        learns=True,
        mistakes=(
            Mistake(
                lambda eps, predicted: reduce((eps - predicted) ** 2, "b c h w -> b", "sum"),
                "You add up where the mean is asked for. The sum grows with the picture: losses at two sizes could "
                "not be compared, and the bound, a mean, would weigh next to nothing beside it.",
            ),
            Mistake(
                lambda eps, predicted: ((eps - predicted) ** 2).mean(),
                "You average over the batch too. One loss a sample is asked for: to see which timesteps are hard, and "
                "to weigh them (min-SNR), each sample's must still be there.",
            ),
            Mistake(
                lambda eps, predicted: reduce((eps - predicted).abs(), "b c h w -> b", "mean"),
                "You take absolute differences. The square is what comes from the Gaussian bound, and its best answer "
                "is the mean of all noises that fit; that of the absolute error is their median.",
            ),
            Mistake(
                lambda eps, predicted: reduce((eps - predicted) ** 2, "b c h w -> b", "mean").sqrt(),
                "You take the root at the end. Its gradient is divided by the error, so samples that are nearly right "
                "would pull as hard as those that are far off.",
            ),
            Mistake(
                lambda eps, predicted: reduce((eps - predicted) ** 2, "b c h w -> b h w", "mean"),
                "You average over channels alone, and keep the places. L_simple is one number a sample.",
            ),
            Mistake(
                lambda eps, predicted: reduce((eps - predicted) ** 2, "b c h w -> b", "mean") / 2,
                "There is a factor of 1/2 in it. L_simple has none: a network that says 0 must start at a loss of 1, "
                "the power of the noise, which is how you see that training begins where it should.",
            ),
        ),
        hints=(
            "Square the difference, then average. Which axes go, and which one stays?",
            'reduce does it in one line: "b c h w -> b".',
            'reduce((eps - predicted) ** 2, "b c h w -> b", ...) with the word for an average.',
        ),
        known="This number starts at 1 and cannot reach 0: at small t nobody can tell all of the noise.",
    ),
    Exercise(
        notebook=5,
        solution=interpolated_log_variance,
        signature="(v: b c h w, log_low: b, log_high: b) -> b c h w",
        inputs=bounds,
        sizes=((2, 3, 4, 6), (1, 2, 3, 5), (3, 2, 4, 3)),
        learns=True,
        mistakes=(
            Mistake(
                lambda v, log_low, log_high: mixed(v, level(log_low), level(log_high)),
                "You take v as a share from 0 to 1. It comes in [-1, 1]: -1 means the lower bound, 1 the upper, and 0, "
                "which a new DiT gives, halfway. As it stands half of the values lie below the lower bound.",
            ),
            Mistake(
                lambda v, log_low, log_high: mixed((v + 1) / 2, level(log_high), level(log_low)),
                "The bounds are exchanged: v = 1 should give the upper one (log beta), v = -1 the lower (the "
                "posterior's). A checkpoint would add least noise where it means most.",
            ),
            Mistake(
                lambda v, log_low, log_high: torch.log(mixed((v + 1) / 2, level(log_low).exp(), level(log_high).exp())),
                "You mix the variances and take the log after. It is the logs that are mixed (equation 15): halfway "
                "lies the geometric mean of both, and a checkpoint's v was trained for that.",
            ),
            Mistake(
                lambda v, log_low, log_high: mixed(v + 1, level(log_low), level(log_high)),
                "v + 1 runs from 0 to 2. A share runs from 0 to 1, so the division by 2 is missing; yours goes as far "
                "beyond the upper bound as it may.",
            ),
            Mistake(
                lambda v, log_low, log_high: mixed(v.sigmoid(), level(log_low), level(log_high)),
                "You put v through a sigmoid. DiT uses the network's value as it is, (v + 1) / 2: at v = 1 it must "
                "give the bound itself, which a sigmoid never reaches.",
            ),
            Mistake(
                lambda v, log_low, log_high: mixed((v + 1) / 2, log_low, log_high),
                "The bounds have one number a picture, and as they are they lie along the last axis, the columns. That "
                "stops, or, where there are as many columns as pictures, gives each column another picture's variance. "
                "Give them the axes b 1 1 1.",
            ),
        ),
        hints=(
            "v = -1 is the lower bound, v = 1 the upper, and between them it is a straight line.",
            "Make a share from 0 to 1 out of v first.",
            "share = (v + 1) / 2; then share of the upper log and the rest of the lower, both with axes b 1 1 1.",
        ),
        known="The network cannot leave the range that is possible, so learning the variance is safe.",
    ),
    Exercise(
        notebook=5,
        solution=update_average,
        signature="(average: list of tensors, weights: list of tensors, decay: float) -> list of tensors",
        inputs=lambda draw, decay, *shapes: (
            [draw.normal(*shape) for shape in shapes],
            [draw.normal(*shape) for shape in shapes],
            decay,
        ),
        sizes=((0.9, (3, 2), (4,), (2, 3, 2)), (0.99, (5,)), (0.3, (2, 6), (6,))),
        mistakes=(
            Mistake(
                averaged(lambda a, w, decay: (1 - decay) * a + decay * w),
                "The shares are exchanged. With DiT's decay of 0.9999 the average must move by a ten-thousandth of the "
                "way; yours jumps to the newest weights each step, and averages nothing.",
            ),
            Mistake(
                averaged(lambda a, w, decay: decay * a + w),
                "The new weights come in whole. The shares must add up to 1, else the average grows step by step to "
                "1 / (1 - decay) times the weights: with 0.9999, ten thousand times.",
            ),
            Mistake(
                averaged(lambda a, w, decay: a + (1 - decay) * w),
                "Nothing of the old average is taken away, so it grows without end. What it gains it must lose first.",
            ),
            Mistake(
                averaged(lambda a, w, decay: (a + w) / 2),
                "Both count half, whatever the decay. An average over many steps needs a long memory: decay says how "
                "much of the old stays.",
            ),
            Mistake(
                lambda average, weights, decay: list(average),
                "The average stays where it is. It begins as a copy of the untrained weights, and you would be "
                "sampling from those for ever.",
            ),
            Mistake(
                averaged(lambda a, w, decay: a - (1 - decay) * (w - a)),
                "The step goes away from the weights: a sign. The average moves towards them, by 1 - decay of the way.",
            ),
        ),
        hints=(
            "Each tensor moves a little from the old average towards the new weights.",
            "How far: 1 - decay of the way. So the old average keeps a share of decay.",
            "A list over zip(average, weights): decay times the one plus what is left of 1 times the other.",
        ),
        known="The weights that DiT samples with are these, not the ones that were trained last.",
    ),
)
