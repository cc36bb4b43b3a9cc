"""The spread of each figure: against the figure itself without each group, and against draws made again."""

import math

import pytest
import torch

from dit_lab.evaluation import inception_score, metrics, precision_recall, spread
from dit_lab.evaluation.metrics import agreement, covered, frechet_of_moments, moments


def features(count, seed, shift=0.0, width=6):
    """`count` correlated features."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(0)).double()
    return torch.randn(count, width, generator=random).double() @ mixed + shift


REAL, DRAWN = features(150, 1), features(130, 2, shift=0.4)


def written_out(figure, count):
    """The definition: the figure of what is left, `figure(indices)`, without each of twenty consecutive groups."""
    found = []
    for number in range(20):
        start, stop = count * number // 20, count * (number + 1) // 20
        found.append(figure([i for i in range(count) if not start <= i < stop]))
    mean = sum(found) / 20
    return math.sqrt(19 / 20 * sum((value - mean) ** 2 for value in found))


def mmd(real, drawn):
    """The unbiased estimator over all pairs."""
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    within = lambda x: (kernel(x, x).sum() - kernel(x, x).trace()) / (len(x) * (len(x) - 1))
    return (within(real) + within(drawn) - 2 * kernel(real, drawn).mean()).item()


def test_groups_are_consecutive_and_of_one_size_but_for_one_sample():
    for count in 40, 59, 130:
        parts = spread.groups(count)
        assert [i for part in parts for i in range(count)[part]] == list(range(count)) and len(parts) == 20
        sizes = {part.stop - part.start for part in parts}
        assert max(sizes) - min(sizes) <= 1 and spread.fewest_left(count) == count - max(sizes)


@pytest.mark.parametrize(
    ("fast", "figure"),
    [
        (
            lambda: spread.of_frechet(DRAWN, *moments(REAL)),
            lambda left: frechet_of_moments(*moments(DRAWN[left]), *moments(REAL)),
        ),
        (lambda: spread.of_kernel(REAL, DRAWN), lambda left: mmd(REAL, DRAWN[left])),
        (lambda: spread.of_recall(REAL, DRAWN), lambda left: precision_recall(REAL, DRAWN[left])[1]),
        (lambda: spread.of_share(covered(DRAWN, REAL)), lambda left: precision_recall(REAL, DRAWN[left])[0]),
        (lambda: spread.of_inception_score(DRAWN), lambda left: inception_score(DRAWN[left])),
        (
            lambda: spread.of_share(DRAWN.argmax(1) == REAL[:130].argmax(1)),
            lambda left: agreement(DRAWN[left].argmax(1), REAL[left].argmax(1)),
        ),
    ],
    ids=["frechet", "kernel", "recall", "precision", "inception score", "agreement"],
)
def test_a_spread_is_the_jackknife_of_its_figure_written_out(fast, figure):
    assert fast() == pytest.approx(written_out(figure, 130), rel=1e-9) and fast() > 0


def test_recall_in_parts_is_the_same(monkeypatch):
    whole = spread.of_recall(REAL, DRAWN)
    monkeypatch.setattr(spread, "BLOCK", 7 * 130)
    assert spread.of_recall(REAL, DRAWN) == whole


def test_groups_smaller_than_the_neighbours_that_are_asked_for_do():
    drawn = features(45, 3)
    expected = written_out(lambda left: precision_recall(REAL, drawn[left])[1], 45)
    assert spread.of_recall(REAL, drawn) == pytest.approx(expected)


def test_the_spread_said_is_the_one_found_when_samples_are_drawn_again():
    """Fréchet distances of 300 samples of a Gaussian at a known distance, 60 times: what is said is what is found."""
    mean, covariance = torch.zeros(6).double(), torch.eye(6).double()
    goal = mean + 0.5, 1.5 * covariance
    random = torch.Generator().manual_seed(0)
    draws = [torch.randn(300, 6, generator=random).double() for _ in range(60)]
    found = torch.tensor([frechet_of_moments(*moments(draw), *goal) for draw in draws])
    said = torch.tensor([spread.of_frechet(draw, *goal) for draw in draws])
    assert said.square().mean().sqrt() == pytest.approx(found.std().item(), rel=0.3)
    inside = (found - found.mean()).abs() < 2 * said
    assert inside.double().mean() > 0.85


def test_a_share_has_the_binomial_spread():
    hits = torch.rand(4000, generator=torch.Generator().manual_seed(0)) < 0.3
    share = hits.double().mean().item()
    assert spread.of_share(hits) == pytest.approx(math.sqrt(share * (1 - share) / 4000), rel=0.4)


def test_what_never_changes_has_no_spread():
    assert spread.of_share(torch.ones(100) == 1) == 0
    assert spread.of_inception_score(torch.zeros(100, 5)) == pytest.approx(0, abs=1e-12)


def test_the_inception_score_is_the_mean_over_adms_consecutive_parts(monkeypatch):
    """A last part that is shorter counts as much, in the order given."""
    assert metrics.PART == 5_000
    monkeypatch.setattr(metrics, "PART", 50)
    p = DRAWN.softmax(1)

    def score(part):
        return math.exp(sum((row * (row.log() - part.mean(0).log())).sum().item() for row in part) / len(part))

    expected = (score(p[:50]) + score(p[50:100]) + score(p[100:])) / 3
    assert inception_score(DRAWN) == pytest.approx(expected, rel=1e-12)
    assert inception_score(DRAWN.flip(0)) != pytest.approx(expected, rel=1e-6)


def test_a_spread_keeps_its_digits_where_figures_are_large_and_features_come_in_fp32():
    figures = [0.1 * number for number in range(20)]
    assert spread.jackknife([1e4 + figure for figure in figures]) == pytest.approx(spread.jackknife(figures), rel=1e-9)
    real, drawn = REAL.float() + 100, DRAWN.float() + 100
    for of in (
        lambda drawn: spread.of_frechet(drawn, *moments(real)),
        lambda drawn: spread.of_kernel(real, drawn),
        lambda drawn: spread.of_recall(real, drawn),
        spread.of_inception_score,
    ):
        assert of(drawn) == of(drawn.double()) and type(of(drawn)) is float


def test_recall_of_samples_whose_neighbours_are_all_in_their_own_group():
    """As where consecutive samples are of one class: without another group each keeps its neighbours."""
    places = 50 * features(20, 4).repeat_interleave(8, dim=0)
    drawn, real = places + features(160, 5), places + features(160, 6)
    expected = written_out(lambda left: precision_recall(real, drawn[left])[1], 160)
    assert spread.of_recall(real, drawn) == pytest.approx(expected, rel=1e-9) and expected > 0


def test_recall_counts_what_lies_as_far_as_the_neighbour():
    """Whole numbers: many pictures lie exactly on the edge of a ball."""
    drawn, real = ((3 * features(count, seed, width=2)).round() for count, seed in ((80, 1), (60, 2)))
    expected = written_out(lambda left: precision_recall(real, drawn[left])[1], 80)
    assert spread.of_recall(real, drawn) == pytest.approx(expected, rel=1e-9) and expected > 0
