"""The ideal denoiser of a data set: what a network would say that had learnt its pictures by heart, in closed form.

For n pictures, all as likely, Bayes' rule gives the mean of x0 after x_t = a x0 + s eps was seen: the pictures, each
weighted by exp(-|x_t - a picture|^2 / 2 s^2). No network has a smaller error on them, and what it draws are they.
"""

import torch
from einops import rearrange, reduce

from dit_lab.diffusion.by_timestep import step_told
from dit_lab.diffusion.described import Described, described
from dit_lab.diffusion.objectives import process_of
from dit_lab.diffusion.process import PREDICTIONS


def posterior_weights(x, pictures, a, s, among=None):
    """How likely each picture is to be behind x_t: `x: b c h w, pictures: n c h w, a, s: b 1 1 1 -> b n` in float64.

    They sum to 1. `among: b n` in bool says which pictures are in question; None is all.
    """
    x, pictures, a, s = (each.double() for each in (x, pictures, a, s))
    flat, a, s = rearrange(x, "b c h w -> b (c h w)"), *(rearrange(each, "b 1 1 1 -> b 1") for each in (a, s))
    mine = rearrange(pictures, "n c h w -> n (c h w)")
    # |x|^2, the same for all pictures, is left out: it makes no difference to the weights.
    distance = a**2 * reduce(mine**2, "n d -> n", "sum") - 2 * a * (flat @ mine.T)
    logits = -distance / (2 * s**2)
    return (logits if among is None else logits.masked_fill(~among, -torch.inf)).softmax(dim=-1)


def posterior_mean(x, pictures, a, s, among=None):
    """The mean of x0 given x_t: `x: b c h w, pictures: n c h w, a, s: b 1 1 1 -> b c h w` in float64."""
    weights = posterior_weights(x, pictures, a, s, among)
    flat = rearrange(pictures.double(), "n c h w -> n (c h w)")
    return rearrange(weights @ flat, "b (c h w) -> b c h w", c=x.shape[1], h=x.shape[2])


def ideal_denoiser(pictures, labels=None, *, schedule: str = "linear", prediction: str | None = None) -> Described:
    """A model that knows `pictures: n c h w` by heart, of class y those of its `labels: n`: `sample` takes it as any.

    The null label, one more than the last, is all of them; without labels that is 0, and the only one. It says what
    `prediction` is, exact but for the rounding of float64. Raises ValueError where labels do not fit the pictures, or
    leave out a class.
    """
    classes = 0
    if labels is not None:
        labels = torch.as_tensor(labels).long()
        present = labels.unique().tolist()
        classes = len(present)
        if labels.shape != pictures.shape[:1] or present != list(range(classes)):
            raise ValueError("labels must be one a picture, whole numbers from 0 with no class left out")
    fields = dict(input_size=tuple(pictures.shape[2:]), in_channels=pictures.shape[1], num_classes=classes)

    def ideal(x, t, y):
        here = pictures.to(x.device)
        among = None
        if labels is not None:
            y = rearrange(y, "b -> b 1")
            among = (labels.to(x.device) == y) | (y == classes)
        a, s = process.signal_and_noise(step_told(process, t), x.double())
        x0 = posterior_mean(x, here, a, s, among)
        return PREDICTIONS[process.prediction].target(x0, (x - a * x0) / s, a, s).to(x)

    model = described(ideal, **fields, schedule=schedule, prediction=prediction)
    process = process_of(model.config)
    return model
