"""Distances between two sets of features, and scores of predicted classes.

Fréchet distance (FID on Inception's features, arXiv 1706.08500), kernel distance (KID, 1801.01401), precision and
recall (1904.06991), Inception score (1606.03498). Only Inception's compare with published figures.
"""

import math
import warnings
from contextlib import contextmanager

import torch

from dit_lab.evaluation.inception import without_init

NEIGHBOURS = 3
SUBSETS, SUBSET_SIZE = 100, 1000
SPLITS = 10
BLOCK = 2**24  # distances held at a time


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean `d` and covariance `d d` of features `n d`, in float64."""
    x = x.double()
    return x.mean(0), torch.cov(x.T)


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The Fréchet distance between Gaussians fitted to two sets of features `n d`, in float64."""
    return frechet_of_moments(*moments(a), *moments(b))


def frechet_of_moments(mean_a, cov_a, mean_b, cov_b) -> float:
    """||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    More exact than torchmetrics' FID, which subtracts n mu mu^T from a sum of squares and rounds the result to the
    features' fp32; here the covariance is taken of centred features.
    """
    # The eigenvalues of S_a S_b are real and not negative; rounding makes some of them slightly either.
    root_trace = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace).item()


def kernel_distance(real: torch.Tensor, drawn: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy under a cubic kernel, `n d, m d -> (mean, deviation)` over random subsets.

    Unbiased: for two sets of one distribution it is 0 on average, and can be negative.
    """
    with borrowed(seed):
        from torchmetrics.image.kid import KernelInceptionDistance

        size = min(SUBSET_SIZE, len(real), len(drawn))
        metric = KernelInceptionDistance(torch.nn.Identity(), subsets=SUBSETS, subset_size=size, sync_on_compute=False)
        metric.update(real.double(), real=True)
        metric.update(drawn.double(), real=False)
        return tuple(value.item() for value in metric.compute())


def inception_score(logits: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    """exp E KL(p(class | picture) || p(class)) of `n classes`, `-> (mean, deviation)` over ten random parts."""
    with borrowed(seed):
        from torchmetrics.image.inception import InceptionScore

        metric = InceptionScore(torch.nn.Identity(), splits=SPLITS, sync_on_compute=False)
        metric.update(logits.double())
        return tuple(value.item() for value in metric.compute())


@contextmanager
def borrowed(seed: int):
    """Around a metric of torchmetrics, whose features are all here: its import, its warnings, its random choices."""
    with without_init("torch_fidelity"), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def precision_recall(real: torch.Tensor, drawn: torch.Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of `drawn: m d` within the manifold of `real: n d`, and the share of real within that of drawn.

    A set's manifold is the union of balls around its points, each reaching to its k-th nearest other point
    (1904.06991, equations 1 and 2).
    """
    real, drawn = real.double(), drawn.double()
    return covered(drawn, real, k), covered(real, drawn, k)


def covered(points: torch.Tensor, by: torch.Tensor, k: int) -> float:
    """The share of `points: m d` that lie in a ball of `by: n d`."""
    rows = math.ceil(BLOCK / len(by))
    # Each point's nearest is itself, at distance 0.
    radii = torch.cat([torch.cdist(part, by).kthvalue(k + 1).values for part in by.split(rows)])
    inside = [(torch.cdist(part, by) <= radii).any(1) for part in points.split(rows)]
    return torch.cat(inside).double().mean().item()


def agreement(seen, asked) -> float:
    """The share of samples in which the classifier sees the label that was asked for."""
    return (seen == asked).double().mean().item()
