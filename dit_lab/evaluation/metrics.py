"""Distances between two sets of features, and scores of predicted classes.

Fréchet distance (FID on Inception's features, arXiv 1706.08500; sFID on its spatial ones, 2103.03841), kernel distance
(KID, 1801.01401), precision and recall (1904.06991), Inception score (1606.03498). Only Inception's compare with
published figures.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import torch
from einops import einsum

from dit_lab.evaluation.inception import without_init

NEIGHBOURS = 3
SUBSETS, SUBSET_SIZE = 100, 1000
PART = 5_000  # samples of an Inception score, as ADM takes them
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
    return frechet_to(mean_b, cov_b)(mean_a, cov_a)


def frechet_to(mean_b, cov_b) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """`frechet_of_moments` to one Gaussian, as a function of the other's mean and covariance; its root is taken once.

    S_a S_b has the eigenvalues of the symmetric S_b^(1/2) S_a S_b^(1/2), real and not negative; rounding makes some of
    them negative by a little.
    """
    values, vectors = torch.linalg.eigh(cov_b)
    root = einsum(vectors, values.clamp(min=0).sqrt(), vectors, "i d, d, j d -> i j")

    def distance(mean_a, cov_a) -> float:
        root_trace = torch.linalg.eigvalsh(root @ cov_a @ root).clamp(min=0).sqrt().sum()
        return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace).item()

    return distance


def kernel_distance(real: torch.Tensor, drawn: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy under a cubic kernel, `n d, m d -> (mean, deviation)` over random subsets.

    Unbiased: for two sets of one distribution it is 0 on average, and can be negative. The subsets have `subset_size`
    features each: of few, all would be the same set, and their deviation nothing.
    """
    with borrowed(seed):
        from torchmetrics.image.kid import KernelInceptionDistance

        size = subset_size(len(real), len(drawn))
        metric = KernelInceptionDistance(torch.nn.Identity(), subsets=SUBSETS, subset_size=size, sync_on_compute=False)
        metric.update(real.double(), real=True)
        metric.update(drawn.double(), real=False)
        return tuple(value.item() for value in metric.compute())


def kernel_distance_of_all(real: torch.Tensor, drawn: torch.Tensor) -> float:
    """The kernel distance over all pairs of `n d, m d`: what `kernel_distance` takes on average, for one set's cost."""
    real, drawn = real.double(), drawn.double()
    kernel_sum = lambda x, y: sum((part @ y.T / y.shape[1] + 1).pow_(3).sum() for part in x.split(1000))
    own = lambda x: (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()  # each with itself, which is no pair
    within = lambda x: (kernel_sum(x, x) - own(x)) / (len(x) * (len(x) - 1))
    return (within(real) + within(drawn) - 2 * kernel_sum(real, drawn) / (len(real) * len(drawn))).item()


def subset_size(*counts: int) -> int:
    """How many features a subset of `kernel_distance` has: as published, of few pictures half of them."""
    return min(SUBSET_SIZE, *(max(1, count // 2) for count in counts))


def inception_score(logits: torch.Tensor) -> float:
    """exp E KL(p(class | picture) || p(class)) of `n classes`, the mean over consecutive parts of 5,000 as in ADM.

    A last part that is shorter counts as much as the others. The score grows with the size of a part: those of fewer
    pictures do not compare with published ones.
    """
    log_p = logits.double().log_softmax(1)
    return sum(scores := [score_of(part) for part in log_p.split(PART)]) / len(scores)


def score_of(log_p: torch.Tensor) -> float:
    """The score of one part, of `log p(class | picture)`: n classes."""
    p = log_p.exp()
    log_mean = p.mean(0).clamp(min=torch.finfo(p.dtype).tiny).log()
    return einsum(p, log_p - log_mean, "n classes, n classes -> n").mean().exp().item()


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
    share = lambda points, by: covered(points, by, k).double().mean().item()
    return share(drawn, real), share(real, drawn)


def covered(points: torch.Tensor, by: torch.Tensor, k: int = NEIGHBOURS) -> torch.Tensor:
    """Which of `points: m d` lie in a ball of `by: n d`, as `m` of bool."""
    points, by = points.double(), by.double()
    rows = math.ceil(BLOCK / len(by))
    # Each point's nearest is itself, at distance 0.
    radii = torch.cat([torch.cdist(part, by).kthvalue(k + 1).values for part in by.split(rows)])
    return torch.cat([(torch.cdist(part, by) <= radii).any(1) for part in points.split(rows)])


def agreement(seen, asked) -> float:
    """The share of samples in which the classifier sees the label that was asked for."""
    return (seen == asked).double().mean().item()
