"""How much a figure would move if the samples were drawn again: a delete-group jackknife (Efron and Stein 1981).

The samples are cut into twenty consecutive groups, the figure is taken twenty times more, each time without one group,
and the spread is `sqrt(19/20 sum (figure without a group - their mean)^2)`, one standard deviation. Consecutive, since
samples have the classes in turn: each group then holds them as all samples do.

No bootstrap: a resampled set holds pictures twice, which narrows a covariance and puts a nearest neighbour at distance
0, so that Fréchet distances grow and recall falls. Here every set holds each picture once, all have one size, and what
a size adds to a figure is the same in all and cancels.

The reference stays as it is, for two models are compared with the same one. What the spread does not tell is the
error that a finite number brings to every draw alike: docs/results/how_many.md measures it, and how often the spread is
right.
"""

import math
from itertools import pairwise

import torch
from einops import einsum, pack, rearrange, reduce

from dit_lab.evaluation.metrics import BLOCK, NEIGHBOURS, frechet_to, inception_score

GROUPS = 20
LEAST = 2 * GROUPS  # samples that a spread takes


def groups(count: int) -> list[slice]:
    """`count` samples in consecutive groups, whose sizes differ by one at most."""
    edges = [count * number // GROUPS for number in range(GROUPS + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


def fewest_left(count: int) -> int:
    """How many samples are left without the largest group."""
    return count - math.ceil(count / GROUPS)


def jackknife(figures) -> float:
    """The standard deviation of a figure, from the figures without each group."""
    figures = torch.as_tensor(figures, dtype=torch.float64)
    return ((len(figures) - 1) * figures.var(correction=0)).sqrt().item()


def of_share(hits: torch.Tensor) -> float:
    """Of the share of samples for which something holds: `n` of bool."""
    hits = hits.double()
    return jackknife([(hits.sum() - hits[group].sum()) / (len(hits) - len(hits[group])) for group in groups(len(hits))])


def of_frechet(drawn: torch.Tensor, mean, covariance) -> float:
    """Of the Fréchet distance of `drawn: n d` to a Gaussian; moments without a group come of sums, not of a pass."""
    centred, to_real = drawn.double() - drawn.double().mean(0), frechet_to(mean, covariance)
    squares, offset, figures = centred.T @ centred, drawn.double().mean(0), []
    for group in groups(len(centred)):
        part = centred[group]
        left = len(centred) - len(part)
        shift = -part.sum(0) / left
        spread = squares - part.T @ part - left * einsum(shift, shift, "i, j -> i j")
        figures.append(to_real(offset + shift, spread / (left - 1)))
    return jackknife(figures)


def of_kernel(real: torch.Tensor, drawn: torch.Tensor) -> float:
    """Of the kernel distance of `drawn: n d` to `real: m d`, over all pairs, from the sums of the groups' pairs."""
    real, drawn = real.double(), drawn.double()
    width, parts = drawn.shape[1], [drawn[group] for group in groups(len(drawn))]
    kernel_sum = lambda x, y: (x @ y.T / width + 1).pow_(3).sum()
    rows = math.ceil(BLOCK / len(parts[-1]))
    to_real = torch.stack([sum(kernel_sum(part, some) for some in real.split(rows)) for part in parts])
    within = torch.zeros(GROUPS, GROUPS, dtype=torch.float64)
    for i, one in enumerate(parts):
        for j in range(i, GROUPS):
            within[i, j] = within[j, i] = kernel_sum(one, parts[j])
        within[i, i] -= (one.square().sum(1) / width + 1).pow(3).sum()  # a sample with itself
    left = torch.tensor([len(drawn) - len(part) for part in parts], dtype=torch.float64)
    among = within.sum() - 2 * reduce(within, "i j -> i", "sum") + within.diagonal()
    between = to_real.sum() - to_real
    return jackknife(among / (left * (left - 1)) - 2 * between / (left * len(real)))


def of_recall(real: torch.Tensor, drawn: torch.Tensor, k: int = NEIGHBOURS) -> float:
    """Of the share of `real: m d` within the manifold of `drawn: n d`, which is another one without each group."""
    real, drawn = real.double(), drawn.double()
    parts, rows = groups(len(drawn)), math.ceil(BLOCK / len(drawn))
    radii = torch.cat([radii_without(torch.cdist(some, drawn), parts, k) for some in drawn.split(rows)])
    covered = torch.zeros(GROUPS, dtype=torch.float64)
    for some in real.split(rows):
        distances = torch.cdist(some, drawn)
        for number, group in enumerate(parts):
            inside = distances <= radii[:, number]
            inside[:, group] = False
            covered[number] += inside.any(1).sum()
    return jackknife(covered / len(real))


def radii_without(distances: torch.Tensor, parts: list[slice], k: int) -> torch.Tensor:
    """The distance to the k-th nearest other sample without each group: `distances: m n -> m groups`.

    The nearest k + 1 of every group are enough, for one of all is a sample itself. Its own group's column is of no use.
    """
    nearest = []
    for group in parts:
        some = distances[:, group]
        some = some.topk(min(k + 1, some.shape[1]), largest=False).values
        nearest.append(torch.nn.functional.pad(some, (0, k + 1 - some.shape[1]), value=math.inf))
    nearest, _ = pack(nearest, "m * near")
    without = []
    for number in range(len(parts)):
        others = nearest.clone()
        others[:, number] = math.inf
        without.append(rearrange(others, "m groups near -> m (groups near)").kthvalue(k + 1).values)
    return torch.stack(without, dim=1)


def of_inception_score(logits: torch.Tensor) -> float:
    """Of the Inception score of `logits: n classes`."""
    without = lambda group: torch.cat([logits[: group.start], logits[group.stop :]])
    return jackknife([inception_score(without(group)) for group in groups(len(logits))])
