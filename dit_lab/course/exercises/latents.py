"""Notebook 7: the autoencoder's penalty, and from its units to the model's (1312.6114, appendix B; DiT, section 4)."""

from einops import reduce

from dit_lab.course.exercise import Exercise, Mistake


def kl_to_standard_normal(mean, log_variance):
    """The VAE's penalty, in nats a picture: `mean, log_variance: b c h w -> b`."""
    return reduce(mean**2 + log_variance.exp() - 1 - log_variance, "b c h w -> b", "sum") / 2


def to_latents(mean, shift, factor):
    """From the encoder's units to the model's: `mean: b c h w -> b c h w`."""
    return (mean - shift) * factor


def penalty(how, mean, log_variance, over="sum"):
    """`kl_to_standard_normal` of another sum."""
    return reduce(how(mean, log_variance), "b c h w -> b", over) / 2


EXERCISES = (
    Exercise(
        notebook=7,
        solution=kl_to_standard_normal,
        signature="(mean: b c h w, log_variance: b c h w) -> b",
        inputs=lambda draw, b, c, h, w: (draw.normal(b, c, h, w), draw.normal(b, c, h, w, shift=-1)),
        sizes=((2, 3, 4, 6), (1, 4, 3, 2), (3, 2, 1, 5)),
        learns=True,
        mistakes=(
            Mistake(
                lambda m, lv: 2 * kl_to_standard_normal(m, lv),
                "Twice too large: the half in front is missing. The divergence of two Gaussians has it, and a VAE's "
                "weight on the penalty is chosen for that.",
            ),
            Mistake(
                lambda m, lv: penalty(lambda m, lv: m**2 + lv.exp() - 1 - lv, m, lv, over="mean"),
                "You average over a picture's latents. In nats a picture they are added up: the divergence of "
                "independent numbers is the sum of theirs, and a mean makes it vanish beside the sum of squared "
                "pixels.",
            ),
            Mistake(
                lambda m, lv: penalty(lambda m, lv: m**2 + lv.exp() - lv, m, lv),
                "The -1 is missing: for mean 0 and variance 1 the divergence from the standard normal must be 0, and "
                "yours is half the number of latents.",
            ),
            Mistake(
                lambda m, lv: penalty(lambda m, lv: m**2 + (2 * lv).exp() - 1 - 2 * lv, m, lv),
                "You take log_variance for the log of the deviation: the variance is exp of it, not exp of twice it. A "
                "VAE's encoder gives the log of the variance, as DiT's variance does.",
            ),
            Mistake(
                lambda m, lv: penalty(lambda m, lv: m**2 + lv - 1 - lv.exp(), m, lv),
                "Variance and its log have each other's sign: the variance pulls up, its log down, so that the least "
                "penalty is at variance 1. Yours rewards ever larger variances.",
            ),
            Mistake(
                lambda m, lv: penalty(lambda m, lv: (m**2 + 1) * (-lv).exp() - 1 + lv, m, lv),
                "That is the divergence the other way round, of the standard normal from the latents. It is large "
                "where a variance is small, so it keeps the encoder from ever being sure of a latent.",
            ),
            Mistake(
                lambda m, lv: kl_to_standard_normal(m, lv).mean(),
                "You average over the batch too. Asked for is a number a picture.",
            ),
        ),
        hints=(
            "For one latent: half of (mean squared plus variance minus 1 minus log variance).",
            "The encoder gives the log, so the variance is its exp. Which axes are added up, which one stays?",
            'reduce(mean**2 + log_variance.exp() - 1 - log_variance, "b c h w -> b", "sum"), and half of that.',
        ),
        known="0 means that the latents are pure noise; every nat above it can tell something about the picture.",
    ),
    Exercise(
        notebook=7,
        solution=to_latents,
        signature="(mean: b c h w, shift: float, factor: float) -> b c h w",
        inputs=lambda draw, b, c, h, w, shift, factor: (draw.normal(b, c, h, w, scale=5), shift, factor),
        sizes=((2, 4, 3, 5, 0.0609, 0.3611), (1, 3, 4, 2, -0.7, 0.18215), (2, 4, 2, 2, 0.0, 0.18215)),
        mistakes=(
            Mistake(
                lambda mean, shift, factor: mean * factor - shift,
                "You scale first and shift after. The shift is in the encoder's units: it is taken away first, and "
                "what is left is scaled; yours leaves most of the mean in.",
            ),
            Mistake(
                lambda mean, shift, factor: (mean - shift) / factor,
                "You divide by the factor. It is what latents are multiplied by: with 0.18215 they come to a variance "
                "near 1. Divided, they are 30 times too large, and no noise of the process covers them.",
            ),
            Mistake(
                lambda mean, shift, factor: (mean + shift) * factor,
                "You add the shift. It is the latents' mean, and is taken away so that what is left is centred; adding "
                "it is a step of the way back.",
            ),
            Mistake(
                lambda mean, shift, factor: mean / factor + shift,
                "That is the way back, from the model's units to the decoder's.",
            ),
            Mistake(
                lambda mean, shift, factor: mean * factor,
                "The shift is not used. DiT's own VAE has none (0), but newer ones do: uncentred latents make the "
                "network spend its capacity on a constant.",
            ),
            Mistake(
                lambda mean, shift, factor: mean - shift,
                "The factor is not used. The process assumes a picture of variance 1 beside noise of variance 1; with "
                "the encoder's own deviation of about 5.5, x_t is never noisy enough.",
            ),
        ),
        hints=(
            "Latents should be centred and have a variance near 1, as the noise has.",
            "First the mean goes, which is in the encoder's units, then the size.",
            "Take shift away, then multiply by factor (0.18215 in DiT).",
        ),
        known="A wrong factor is a wrong noise schedule: it is the latents' size that says what x_t keeps.",
    ),
)
