"""Notebook 8: a law through a few runs, and the distance that scaling is judged by (2001.08361; 1706.08500)."""

import numpy as np
import torch

from dit_lab.course.exercise import Draw, Exercise, Mistake


def power_law(macs, loss):
    """loss = factor * macs ** exponent, least squares in logs: `macs, loss: n -> exponent, factor`."""
    x, y = torch.log(macs), torch.log(loss)
    x_centred, y_centred = x - x.mean(), y - y.mean()
    exponent = (x_centred * y_centred).sum() / (x_centred**2).sum()
    factor = torch.exp(y.mean() - exponent * x.mean())
    return exponent.item(), factor.item()


def frechet_distance(mean1, covariance1, mean2, covariance2):
    """FID's formula in numpy: `mean: d, covariance: d d -> float`."""
    # The trace of the matrix root of C1 C2 is the sum of the roots of its eigenvalues.
    roots = np.sqrt(np.linalg.eigvals(covariance1 @ covariance2).real.clip(min=0))
    apart = np.sum((mean1 - mean2) ** 2)
    return float(apart + np.trace(covariance1) + np.trace(covariance2) - 2 * roots.sum())


def line(x, y):
    """Slope and height at 0 of the line through points, by least squares."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return slope.item(), (y.mean() - slope * x.mean()).item()


def fitted(x_of=torch.log, y_of=torch.log, last=lambda slope, height: (slope, float(np.exp(height)))):
    """`power_law` as a line through other numbers, and read otherwise."""
    return lambda macs, loss: last(*line(x_of(macs), y_of(loss)))


def turned_over(macs, loss):
    """The line of log macs over log loss, solved for loss."""
    slope, height = line(torch.log(loss), torch.log(macs))
    return 1 / slope, float(np.exp(-height / slope))


def distance(apart=lambda m1, m2: np.sum((m1 - m2) ** 2), root=None, twice=2.0, last=float):
    """`frechet_distance` with other parts."""

    def made(mean1, covariance1, mean2, covariance2):
        traces = np.trace(covariance1) + np.trace(covariance2)
        return last(apart(mean1, mean2) + traces - twice * (root or root_trace)(covariance1, covariance2))

    return made


def root_trace(covariance1, covariance2):
    """The trace of the root of the product."""
    return np.sqrt(np.linalg.eigvals(covariance1 @ covariance2).real.clip(min=0)).sum()


def root_of(covariance):
    """A covariance's own root."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(np.sqrt(values.clip(min=0))) @ vectors.T


def runs(draw: Draw, n: int, most: float, exponent: float, noise: float):
    """MACs and losses about a power law."""
    macs = torch.exp(draw.uniform(n, low=0.7, high=most).double())
    spread = torch.exp(draw.normal(n, scale=noise).double())
    return macs.to(draw.dtype), (1.7 * macs**exponent * spread).to(draw.dtype)


def gaussians(draw: Draw, d: int, scale: float):
    """Two Gaussians whose covariances do not commute, in numpy float64."""
    parts = draw.normal(d), draw.covariance(d), draw.normal(d, scale=scale), scale * draw.covariance(d)
    return tuple(part.numpy() for part in parts)


EXERCISES = (
    Exercise(
        notebook=8,
        solution=power_law,
        signature="(macs: n, loss: n) -> exponent: float, factor: float",
        inputs=runs,
        sizes=((12, 5.0, -0.3, 0.2), (5, 4.0, 0.6, 0.3), (3, 6.0, -0.1, 0.1)),
        mistakes=(
            Mistake(
                fitted(last=lambda slope, height: (float(np.exp(height)), slope)),
                "The two results are exchanged: exponent first, then factor.",
            ),
            Mistake(
                fitted(last=lambda slope, height: (slope, height)),
                "You give the log of the factor, the line's height at log macs = 0. The law speaks of loss itself, so "
                "the factor is its exp.",
            ),
            Mistake(
                fitted(torch.log10, torch.log10),
                "You fit in logs to base 10 and go back with exp. The exponent is the same in any base, the factor is "
                "not: 10 to the power of the height, or natural logs from the start.",
            ),
            Mistake(
                turned_over,
                "You fit macs by loss and turn the line over. Least squares puts the error on what it fits: it is the "
                "loss that scatters between seeds, the MACs are known exactly. Turned over, noise makes any law look "
                "steeper.",
            ),
            Mistake(
                fitted(y_of=lambda loss: loss),
                "Only the MACs are in logs: that is a line in log macs, which falls below 0 for large models. A power "
                "law is a line when both are.",
            ),
            Mistake(
                fitted(last=lambda slope, height: (-slope, float(np.exp(height)))),
                "The exponent's sign is turned. In loss = factor * macs ** exponent it is negative where more compute "
                "means less loss.",
            ),
            Mistake(
                fitted(lambda macs: macs, lambda loss: loss, lambda slope, height: (slope, height)),
                "That is a straight line through the numbers as they are. Compute runs over orders of magnitude, and "
                "the largest model would decide the fit alone: take logs of both.",
            ),
        ),
        hints=(
            "Take the log of both sides: what curve is log loss, drawn over log macs?",
            "The slope of the best line is the exponent: the sum of products of both deviations from their means, over "
            "the sum of squares of log macs's.",
            "Its height at log macs = 0 is mean(log loss) - exponent * mean(log macs); the factor is exp of that. "
            "(numpy.polyfit of the logs, degree 1, gives slope and height.)",
        ),
        known="Two numbers sum up a family of models, and say what ten times the compute should buy.",
    ),
    Exercise(
        notebook=8,
        solution=frechet_distance,
        signature="(mean1: d, covariance1: d d, mean2: d, covariance2: d d) -> float",
        inputs=gaussians,
        sizes=((5, 0.5), (3, 2.0), (1, 1.5), (8, 1.0)),
        dtypes=(torch.float64,),
        mistakes=(
            Mistake(
                distance(twice=1.0),
                "The root of the product is taken away once. It is twice, as in (a - b)^2 = a^2 + b^2 - 2ab: without "
                "it two equal sets of features are not at distance 0.",
            ),
            Mistake(
                distance(root=lambda c1, c2: np.trace(np.sqrt(np.abs(c1 @ c2)))),
                "You take the root of each entry. It is the matrix root, the matrix that times itself gives C1 C2: its "
                "trace is the sum of the roots of the eigenvalues. np.sqrt ignores how features hang together.",
            ),
            Mistake(
                distance(root=lambda c1, c2: np.trace(root_of(c1) @ root_of(c2))),
                "You multiply the two covariances' own roots. That is the root of the product only where both have the "
                "same axes; between real features and a model's it is too small, and the distance too large.",
            ),
            Mistake(
                distance(root=lambda c1, c2: np.trace(c1 @ c2)),
                "The product has no root. It has the units of features to the fourth, beside variances; the root puts "
                "it right.",
            ),
            Mistake(
                distance(apart=lambda m1, m2: np.sqrt(np.sum((m1 - m2) ** 2))),
                "The means' distance is not squared. All parts of the formula are squares of features; FID is a "
                "squared distance.",
            ),
            Mistake(
                distance(last=lambda squared: float(np.sqrt(squared))),
                "You take the root of the whole. That is the distance proper, but what is published as FID is its "
                "square: DiT-XL/2's 2.27 would read 1.51.",
            ),
            Mistake(
                distance(root=lambda c1, c2: np.sum(np.sqrt(np.diag(c1) * np.diag(c2)))),
                "You use the variances alone. The covariances say how features go together, and a model that gets each "
                "feature right but not their company would score well.",
            ),
            Mistake(
                distance(apart=lambda m1, m2: 0.0),
                "The means are left out: two sets of equal spread, however far apart, would be at distance 0.",
            ),
        ),
        hints=(
            "Three parts: the squared distance of the means, both traces, and a part that they have in common.",
            "The common part is minus twice the trace of the matrix root of C1 C2.",
            "That trace is the sum of the square roots of np.linalg.eigvals(C1 @ C2), real parts (scipy.linalg.sqrtm "
            "does it too).",
        ),
        known="FID sees a mean and a covariance, no pictures: what these two miss, it cannot see.",
    ),
)
